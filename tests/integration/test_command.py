"""`zephyra serve` as a command: keys, where it may listen, a clean end."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.integration.test_chat import CHAT, body
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def serving(engine_url: str, *options: str) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    port = free_port()
    command = [sys.executable, "-m", "server", "serve", "--port", str(port), "--engine", engine_url, *options]
    environment = {name: value for name, value in os.environ.items() if name != "ZEPHYRA_API_KEYS"}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        yield f"http://127.0.0.1:{port}", process
    finally:
        process.kill()
        process.communicate()


def ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/ready").status_code == 200
    except httpx.TransportError:
        return False


def test_a_created_key_is_what_serve_asks_for(engine_url: str, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    create = [sys.executable, "-m", "server", "keys", "create", "team", "--file", str(file)]
    key = subprocess.run(create, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    with serving(engine_url, "--keys", str(file)) as (url, process):
        wait_until(lambda: ready(url), 60)
        assert httpx.post(url + CHAT, json=body()).status_code == 401
        reply = httpx.post(url + CHAT, json=body(), headers={"authorization": f"Bearer {key}"})
        assert reply.status_code == 200
        process.send_signal(signal.SIGTERM)
        printed, _ = process.communicate(timeout=30)
        assert process.returncode == 0
        assert key not in printed
        assert "no API key is configured" not in printed


@pytest.mark.parametrize(("options", "status"), [((), 2), (("--allow-anonymous",), None)])
def test_beyond_this_machine_only_when_asked_for(engine_url: str, options: tuple[str, ...], status: int | None) -> None:
    with serving(engine_url, "--host", "0.0.0.0", *options) as (url, process):
        if status is None:
            wait_until(lambda: ready(url), 60)
            process.send_signal(signal.SIGTERM)
        printed, _ = process.communicate(timeout=60)
        assert process.returncode == (status or 0)
        assert ("--allow-anonymous" in printed) == (status == 2)
