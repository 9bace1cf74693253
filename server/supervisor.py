"""The engine as a child process: started, watched, restarted with back-off, stopped without remains."""

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from server.engine import Engine
from server.settings import BUNDLE, EngineSettings

log = logging.getLogger("zephyra.engine")

LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
# Adapters that can be published while an engine runs, beyond those it was started for.
SPARE_ADAPTERS = 8
TERM_SECONDS = 15.0
# An engine that ran this long was well: its next restart does not wait.
STEADY_SECONDS = 60.0
# Consecutive failed health checks after which a running but mute engine is killed.
MUTE_CHECKS = 5


def has_gpu() -> bool:
    """Whether this host has an NVIDIA GPU that a driver serves."""
    return Path("/dev/nvidiactl").exists() or shutil.which("nvidia-smi") is not None


def engine_device(settings: EngineSettings) -> str:
    """`cpu` or `cuda`: as configured, else by what the host has."""
    if settings.device != "auto":
        return settings.device
    return "cuda" if has_gpu() else "cpu"


def adapter_slots(settings: EngineSettings, adapters: int) -> int:
    """How many adapters one batch may have: all that are registered, and a spare one for a roll-out."""
    return settings.max_loras or adapters + 1


def adapter_capacity(settings: EngineSettings, adapters: int) -> int:
    """How many adapters an engine that we start keeps in memory. Room costs nothing until it is used."""
    return settings.max_cpu_loras or max(adapter_slots(settings, adapters), adapters) + SPARE_ADAPTERS


def engine_command(settings: EngineSettings, base: str, socket: Path, adapters: int, rank: int) -> list[str]:
    """vLLM's command line. `adapters`: how many are registered, the zero adapter included; `rank`: their highest."""
    slots = adapter_slots(settings, adapters)
    max_rank: int = settings.max_lora_rank or next(allowed for allowed in LORA_RANKS if allowed >= rank)
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    command += ["--model", base, "--served-model-name", "base", "--uds", str(socket)]
    command += ["--enable-lora", "--max-loras", str(slots), "--max-lora-rank", str(max_rank)]
    command += ["--max-cpu-loras", str(max(slots, adapter_capacity(settings, adapters)))]
    command += ["--api-server-count", "1", "--disable-uvicorn-access-log", "--dtype", settings.dtype]
    if settings.max_model_len:
        command += ["--max-model-len", str(settings.max_model_len)]
    if engine_device(settings) == "cpu":
        command += ["--kv-cache-memory-bytes", str(settings.kv_cache_memory_bytes)]
    return [*command, *settings.args]


def engine_environment(base: str, directory: Path) -> dict[str, str]:
    """The child's environment: runtime LoRA on, usage reports off, hubs off where the base is a local directory.

    Its sockets and temporary files go to `directory`, which is removed with it.
    """
    environment = {
        **os.environ,
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CPU_OMP_THREADS_BIND": os.environ.get("VLLM_CPU_OMP_THREADS_BIND", "nobind"),
        "PYTHONUNBUFFERED": "1",
        "TMPDIR": str(directory),
        "VLLM_RPC_BASE_PATH": str(directory),
    }
    # The filesystem resolver would let a request's model name traverse paths.
    environment.pop("VLLM_LORA_RESOLVER_CACHE_DIR", None)
    if Path(base).is_dir():
        environment["HF_HUB_OFFLINE"] = "1"
    if base == str(BUNDLE / "base"):
        environment.setdefault("OMP_NUM_THREADS", "1")
    return environment


@dataclass(slots=True)
class Supervisor:
    """Keeps one engine process alive until `stop`. `on_change` is called when it went up or down."""

    settings: EngineSettings
    base: str
    adapters: int
    rank: int
    on_change: Callable[[], None]
    # For the socket and the engine's temporary files; the caller removes it.
    directory: Path
    starts: int = 0
    _process: asyncio.subprocess.Process | None = None
    _task: asyncio.Task[None] | None = None

    @property
    def socket(self) -> Path:
        return self.directory / "engine.sock"

    @property
    def url(self) -> str:
        return f"unix:{self.socket}"

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def start(self, engine: Engine) -> None:
        self._task = asyncio.create_task(self._run(engine), name="engine-supervisor")

    async def stop(self) -> None:
        """Terminate the engine, then kill what is left of its process group."""
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._process and self._process.returncode is None:
            log.info("stopping the engine (pid %d)", self._process.pid)
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), TERM_SECONDS)
            self._kill_group(self._process)

    async def _run(self, engine: Engine) -> None:
        delay, longest = self.settings.backoff
        wait = delay
        while True:
            began = time.monotonic()
            process = self._process = await self._spawn()
            await self._watch(process, engine)
            engine.mark_down()
            self.on_change()
            self._kill_group(process)
            if time.monotonic() - began > STEADY_SECONDS:
                wait = delay
            log.error("the engine ended with status %s; restarting it in %.0f s", process.returncode, wait)
            await asyncio.sleep(wait)
            wait = min(wait * 2, longest)

    async def _spawn(self) -> asyncio.subprocess.Process:
        self.socket.unlink(missing_ok=True)
        command = engine_command(self.settings, self.base, self.socket, self.adapters, self.rank)
        log.info("starting the engine: %s", " ".join(command[1:]))
        self.starts += 1
        guard = [sys.executable, "-m", "server.guard"]
        # A session of its own: Ctrl-C reaches the gateway alone, which then stops the engine in order.
        return await asyncio.create_subprocess_exec(
            *guard,
            *command,
            stdin=asyncio.subprocess.PIPE,
            env=engine_environment(self.base, self.directory),
            start_new_session=True,
        )

    async def _watch(self, process: asyncio.subprocess.Process, engine: Engine) -> None:
        """Returns when the process has ended or, up once, has gone mute."""
        deadline = time.monotonic() + self.settings.start_timeout
        failures = 0
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), self.settings.poll_interval)
                return
            if await engine.healthy():
                failures = 0
                deadline = float("inf")
                if not engine.up:
                    engine.up = True
                    self.on_change()
                continue
            failures += 1
            if engine.up:
                log.warning("the engine does not answer /health (%d of %d)", failures, MUTE_CHECKS)
            if (engine.up and failures >= MUTE_CHECKS) or time.monotonic() > deadline:
                log.error("the engine is mute; killing it")
                return

    @staticmethod
    def _kill_group(process: asyncio.subprocess.Process) -> None:
        # The engine's own children would otherwise outlive a killed API server.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
