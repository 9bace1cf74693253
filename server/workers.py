"""`zephyra serve --workers N`: several gateways behind one address, as processes of their own.

They share one adapter store and one engine, as replicas on several machines would. The first worker runs the engine
where none is named; the system spreads connections over all (SO_REUSEPORT); this process only watches. What a worker
counts to limit a key or to judge a canary is its own count; an engine's places are divided among them.
"""

import asyncio
import logging
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import connection, synchronize
from multiprocessing.context import SpawnContext, SpawnProcess
from pathlib import Path

from server.settings import LOG_FORMAT, Settings
from server.snapshots import retire

log = logging.getLogger("zephyra")

# An ended worker is replaced after the first, doubling to the second, in seconds.
BACKOFF = (0.5, 30.0)
STEADY_SECONDS = 60.0
# Beyond `shutdown_grace`, for a worker to put its things away; the first also stops the engine.
STOP_SECONDS = 10.0
ENGINE_STOP_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Worker:
    """One of `count` workers. `directory` is shared by all; `others_ended` tells the first that the engine may stop."""

    index: int
    count: int
    directory: Path
    others_ended: synchronize.Event

    @property
    def first(self) -> bool:
        return self.index == 0

    @property
    def home(self) -> Path:
        """Where the first worker keeps its engine's socket."""
        return self.directory / "first"

    def settings(self, settings: Settings) -> Settings:
        """What this worker serves by: the store and the engine shared, the engine's places divided."""
        limits = settings.limits
        running = max(1, limits.max_running // self.count)
        waiting = limits.max_waiting // self.count
        changes: dict[str, object] = {
            "limits": limits.model_copy(update={"max_running": running, "max_waiting": waiting})
        }
        if settings.store.path is None:
            changes["store"] = settings.store.model_copy(update={"path": self.directory / "store"})
        if not self.first:
            if not settings.engine.urls:
                urls = (f"unix:{self.home / 'engine.sock'}",)
                changes["engine"] = settings.engine.model_copy(update={"urls": urls, "api_key": None})
            if settings.decisions.path is not None:
                # Two processes cannot rotate one file.
                path = settings.decisions.path
                path = path.with_name(f"{path.stem}-{self.index}{path.suffix}")
                changes["decisions"] = settings.decisions.model_copy(update={"path": path})
        return settings.model_copy(update=changes)

    def end_with_parent(self) -> None:
        """From now on the end of the watching process, however it comes, ends this one in order."""
        parent = multiprocessing.parent_process()
        assert parent is not None, "a worker has a parent"
        loop = asyncio.get_running_loop()

        def ended() -> None:
            loop.remove_reader(parent.sentinel)
            self.others_ended.set()
            os.kill(os.getpid(), signal.SIGTERM)

        loop.add_reader(parent.sentinel, ended)

    async def may_stop_engine(self, seconds: float) -> None:
        """Returns once the other workers have ended, or after `seconds`."""
        if self.first:
            await asyncio.to_thread(self.others_ended.wait, seconds)


Serve = Callable[[Settings, Worker, str, int], None]


def run_workers(settings: Settings, serve: Serve, host: str, port: int) -> None:
    """Run `settings.gateway.workers` processes, each with `serve`, until SIGINT or SIGTERM; replaces those that end."""
    with tempfile.TemporaryDirectory(prefix="zephyra-", ignore_cleanup_errors=True) as directory:
        Watch(settings, serve, host, port, Path(directory)).run()


class Watch:
    """The worker processes and their ends."""

    def __init__(self, settings: Settings, serve: Serve, host: str, port: int, directory: Path) -> None:
        self._context: SpawnContext = multiprocessing.get_context("spawn")
        self._settings, self._serve, self._host, self._port = settings, serve, host, port
        self._directory = directory
        self._others_ended = self._context.Event()
        self._processes: dict[int, SpawnProcess] = {}
        self._started: dict[int, float] = {}
        # When an ended worker is started again, and how long the next one would wait.
        self._due: dict[int, float] = {}
        self._waits: dict[int, float] = {}
        self._stopping = False

    def run(self) -> None:
        """Until a signal: watch, and replace what ends."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: setattr(self, "_stopping", True))
        try:
            for index in range(self._settings.gateway.workers):
                self._start(index)
            while not self._stopping:
                self._look()
        finally:
            self._stop()

    def _start(self, index: int) -> None:
        worker = Worker(index, self._settings.gateway.workers, self._directory, self._others_ended)
        arguments = (self._serve, self._settings, worker, self._host, self._port, logging.getLogger().level)
        process = self._context.Process(target=_begin, args=arguments, name=f"zephyra-{index}")
        process.start()
        self._processes[index] = process
        self._started[index] = time.monotonic()

    def _look(self) -> None:
        sentinels = [process.sentinel for process in self._processes.values()]
        connection.wait(sentinels, timeout=0.2)
        now = time.monotonic()
        for index, process in list(self._processes.items()):
            if process.is_alive() or self._stopping:
                continue
            del self._processes[index]
            retire(self._directory, index)
            wait = self._waits.get(index, BACKOFF[0])
            if now - self._started[index] > STEADY_SECONDS:
                wait = BACKOFF[0]
            log.error("worker %d ended with status %s; starting it again in %.1f s", index, process.exitcode, wait)
            self._due[index], self._waits[index] = now + wait, min(wait * 2, BACKOFF[1])
        for index, due in list(self._due.items()):
            if now >= due:
                del self._due[index]
                self._start(index)

    def _stop(self) -> None:
        """All stop accepting at once; the first, which has the engine, ends last."""
        for process in self._processes.values():
            process.terminate()
        grace = self._settings.gateway.shutdown_grace + STOP_SECONDS
        self._join([process for index, process in self._processes.items() if index], grace)
        self._others_ended.set()
        self._join(list(self._processes.values()), grace + ENGINE_STOP_SECONDS)

    @staticmethod
    def _join(processes: list[SpawnProcess], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        for process in processes:
            process.join(max(0.0, deadline - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join()


def _begin(serve: Serve, settings: Settings, worker: Worker, host: str, port: int, level: int) -> None:
    # Ctrl-C reaches the watching process alone, which stops the workers in order.
    os.setsid()
    logging.basicConfig(level=level, format=LOG_FORMAT, stream=sys.stderr)
    serve(worker.settings(settings), worker, host, port)
