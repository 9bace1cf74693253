"""`zephyra serve` with the shipped bundle on a real vLLM of its own, for the runs that need one."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import httpx
import psutil

from loadtests.overhead import machine
from loadtests.processes import ROOT, free_port

# How long an engine that is ready may take until all is as desired again.
SETTLE_SECONDS = 180.0
BUNDLE = ROOT / "adapters" / "bundle"
START_SECONDS = 1200.0


@dataclass
class System:
    """A running gateway; its engine is a child."""

    url: str
    process: psutil.Process

    def ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/ready", timeout=10).status_code == 200
        except httpx.HTTPError:
            return False

    def wait_ready(self) -> float:
        """Seconds until it is ready; ends the program where it does not become so."""
        began = time.monotonic()
        while not self.ready():
            if self.process.status() == psutil.STATUS_ZOMBIE or time.monotonic() - began > START_SECONDS:
                raise SystemExit("the system did not become ready")
            time.sleep(0.2)
        return time.monotonic() - began

    def engine(self) -> psutil.Process:
        """vLLM's API server."""
        for child in self.process.children(recursive=True):
            command = child.cmdline()
            if "vllm.entrypoints.openai.api_server" in command and "server.guard" not in command:
                return child
        raise SystemExit("no engine runs")

    def memory(self) -> dict[str, float]:
        """MiB resident of the gateway, and of the engine with its children."""
        engine = self.engine()
        family = [engine, *engine.children(recursive=True)]
        return {
            "gateway": round(self.process.memory_info().rss / 2**20, 1),
            "engine": round(sum(process.memory_info().rss for process in family) / 2**20, 1),
        }


@contextlib.contextmanager
def system(log: Path | None = None) -> Iterator[System]:
    """Started, ready, and stopped in the end."""
    with tempfile.TemporaryDirectory(prefix="zephyra-run-", ignore_cleanup_errors=True) as directory:
        port = free_port()
        command = [sys.executable, "-m", "server", "serve", "--port", str(port)]
        with (log or Path(directory) / "log").open("wb") as file:
            environment = {**os.environ, "TMPDIR": directory}
            process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=file, stderr=file)
        try:
            running = System(f"http://127.0.0.1:{port}", psutil.Process(process.pid))
            running.wait_ready()
            yield running
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(90)
            except subprocess.TimeoutExpired:
                process.kill()


def wait_for(condition: Callable[[], bool], seconds: float = SETTLE_SECONDS) -> bool:
    """Whether it came true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def finish(found: dict[str, Any], file: Path | None) -> NoReturn:
    """Print what a run found, keep it in `file`, and end the program with status 0 if it passed, else 1."""
    text = json.dumps({**found, "machine": machine()}, indent=1)
    print(text)
    if file:
        file.write_text(text + "\n")
    sys.exit(0 if found["passed"] else 1)
