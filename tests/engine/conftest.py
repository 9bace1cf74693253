"""The whole system as a user starts it: `zephyra serve` with the shipped bundle on the real vLLM, once a session."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import openai
import psutil
import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
START_SECONDS = 600
DOMAINS = ("code", "sql", "math", "medical", "finance", "legal", "support")


@dataclass
class System:
    """A running `zephyra serve`."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path
    directory: Path

    def ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/ready", timeout=5).status_code == 200
        except httpx.HTTPError:
            return False

    def wait_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not self.ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"the system did not become ready:\n{self.log.read_text()[-6000:]}", pytrace=False)
            time.sleep(0.5)

    def descendants(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def engine(self) -> psutil.Process:
        """vLLM's API server."""
        commands = {child: child.cmdline() for child in self.descendants()}
        return next(
            p for p, c in commands.items() if "vllm.entrypoints.openai.api_server" in c and "server.guard" not in c
        )


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.fixture(scope="session")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    directory = tmp_path_factory.mktemp("system")
    log = directory / "serve.log"
    port = free_port()
    command = [sys.executable, "-m", "server", "serve", "--port", str(port)]
    environment = {**os.environ, "TMPDIR": str(directory)}
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, cwd=ROOT, env=environment)
    running = System(f"http://127.0.0.1:{port}", process, log, directory)
    try:
        running.wait_ready()
        yield running
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()


@pytest.fixture
def client(system: System) -> Iterator[openai.OpenAI]:
    system.wait_ready()
    with openai.OpenAI(base_url=f"{system.url}/v1", api_key="none", max_retries=0, timeout=120) as made:
        yield made


@pytest.fixture
def engine_url(system: System) -> str:
    """Where the shipped base and adapters are served under `served_names`."""
    system.wait_ready()
    return system.url


@pytest.fixture
def served_names() -> dict[str, str]:
    """Domain -> the model name to ask `engine_url` for; `general` is the base."""
    return {**{domain: domain for domain in DOMAINS}, "general": "zephyra"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.engine)
            item.add_marker(pytest.mark.timeout(900))
    # The test that stops the system comes after all others.
    items.sort(key=lambda item: item.get_closest_marker("last") is not None)
