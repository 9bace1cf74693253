"""A gateway killed outright in the middle of a change: afterwards the route is the old one or the new one."""

import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from adapters.version import digest
from tests.fake_engine import FakeEngine
from tests.integration.conftest import make_adapter
from tests.integration.test_chat import CHAT, body, served_by

ROOT = Path(__file__).resolve().parent.parent.parent
START_SECONDS = 60.0
KILLS = 4


def configure(directory: Path, configuration: dict[str, dict[str, Any]], engine_url: str) -> Path:
    lines = [f'[base]\nmodel = "{configuration["base"]["model"]}"']
    lines.append(f'[engine]\ndevice = "cpu"\npoll_interval = 0.1\nurls = ["{engine_url}"]')
    lines.append(f'[store]\npath = "{directory / "store"}"')
    legal = configuration["adapters"]["legal"]
    lines.append(f'[adapters.legal]\npath = "{legal["path"]}"\ndomain = "legal"\n')
    path = directory / "zephyra.toml"
    path.write_text("\n".join(lines))
    return path


@contextmanager
def served(config: Path) -> Iterator[tuple[subprocess.Popen[bytes], httpx.Client]]:
    """`zephyra serve` as its own process, ready."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    command = [sys.executable, "-m", "server", "serve", "--config", str(config), "--port", str(port)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as http:
                wait_ready(http)
                yield process, http
        finally:
            process.kill()


def wait_ready(http: httpx.Client) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        try:
            if http.get("/ready").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.05)
    pytest.fail("the gateway did not become ready")


def test_killed_in_the_middle_of_a_publication(
    tmp_path: Path, configuration: dict[str, dict[str, Any]], engine_url: str, fake: FakeEngine
) -> None:
    config = configure(tmp_path, configuration, engine_url)
    moments = random.Random(1)
    old = digest(Path(configuration["adapters"]["legal"]["path"]))
    for kill in range(KILLS):
        source = make_adapter(tmp_path / f"version-{kill}", seed=100 + kill)
        new = digest(source)
        with served(config) as (process, http):
            assert served_by(http.post(CHAT, json=body("legal"))) == f"legal@{old}"
            http.post("/admin/adapters/legal/versions", json={"path": str(source)})
            time.sleep(moments.uniform(0, 0.5))
            process.send_signal(signal.SIGKILL)
            process.wait()
        with served(config) as (_, http):
            reply = http.post(CHAT, json=body("legal"))
            assert served_by(reply) == reply.headers["x-zephyra-adapter"]
            first = served_by(reply).split("@")[1]
            assert first in (old, new)
            # What was begun is brought to its end.
            deadline = time.monotonic() + 15
            while served_by(http.post(CHAT, json=body("legal"))) != f"legal@{new}":
                assert time.monotonic() < deadline
                time.sleep(0.05)
        old = new
