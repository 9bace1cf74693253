"""Overload, deadlines and stopping: who is refused, how, and that the others are served."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from server import protocol
from server.app import create_app
from server.cli import app
from server.settings import load
from tests.fake_engine import FakeEngine, Served
from tests.integration.conftest import PROMPTS
from tests.integration.test_chat import CHAT, body
from tests.waiting import wait_until


@pytest.fixture
def limited_url(configuration: dict[str, dict[str, Any]], engine_url: str, tmp_path: Path) -> Iterator[str]:
    configuration["engine"]["urls"] = [engine_url]
    configuration["limits"] = {"max_running": 2, "max_waiting": 2, "max_wait": 30, "body_seconds": 0.5}
    configuration["decisions"] = {"path": tmp_path / "decisions.jsonl", "prompts": True}
    with Served(create_app(load(None, configuration)), lifespan="on") as served:
        wait_until(lambda: httpx.get(f"{served.url}/ready").status_code == 200)
        yield served.url


async def test_beyond_the_queue_requests_are_shed_and_the_rest_answered(limited_url: str, fake: FakeEngine) -> None:
    fake.delay = 0.4
    async with httpx.AsyncClient(base_url=limited_url, timeout=30) as http:
        replies = await asyncio.gather(*(http.post(CHAT, json=body("legal")) for _ in range(12)))
        metrics = (await http.get("/metrics")).text
    statuses = sorted(reply.status_code for reply in replies)
    assert statuses == [200] * 4 + [503] * 8
    shed = next(reply for reply in replies if reply.status_code == 503)
    assert shed.json()["error"]["code"] == "overloaded"
    assert int(shed.headers["retry-after"]) >= 1
    assert len(fake.requests) == 4
    assert "zephyra_engine_requests_waiting{" in metrics


async def test_a_client_that_leaves_the_queue_frees_its_place(limited_url: str, fake: FakeEngine) -> None:
    fake.delay = 1.0
    async with httpx.AsyncClient(base_url=limited_url, timeout=30) as http:
        running = [asyncio.ensure_future(http.post(CHAT, json=body("legal"))) for _ in range(2)]
        await asyncio.to_thread(wait_until, lambda: fake.running == 2)
        with pytest.raises(httpx.ReadTimeout):
            await http.post(CHAT, json=body("legal"), timeout=0.2)
        fake.delay = 0
        assert (await http.post(CHAT, json=body("legal"))).status_code == 200
        assert [reply.status_code for reply in await asyncio.gather(*running)] == [200, 200]
    assert len(fake.requests) == 3


def test_a_client_that_leaves_is_seen_beside_any_server(settings: Any, fake: FakeEngine) -> None:
    fake.delay = 30
    with Served(create_app(settings), lifespan="on", http=HttpToolsProtocol) as served:
        wait_until(lambda: httpx.get(f"{served.url}/ready").status_code == 200)
        host, port = served.url.removeprefix("http://").split(":")
        sent = json.dumps(body("legal"))
        with socket.create_connection((host, int(port)), 10) as connection:
            connection.sendall(f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(sent)}\r\n\r\n{sent}".encode())
            wait_until(lambda: fake.running == 1)
        wait_until(lambda: fake.aborted == 1)


def test_a_passed_deadline_is_not_forwarded(limited_url: str, fake: FakeEngine) -> None:
    with httpx.Client(base_url=limited_url) as http:
        late = http.post(CHAT, json=body("legal"), headers={"x-zephyra-deadline": str(time.time() - 1)})
        assert (late.status_code, late.json()["error"]["code"]) == (504, "deadline_passed")
        wrong = http.post(CHAT, json=body("legal"), headers={"x-zephyra-deadline": "soon"})
        assert wrong.status_code == 400
        assert fake.requests == []
        good = http.post(CHAT, json=body("legal"), headers={"x-zephyra-deadline": str(time.time() + 60)})
        assert good.status_code == 200


def test_a_slow_body_is_given_up(limited_url: str) -> None:
    host, port = limited_url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), 10) as connection:
        connection.sendall(f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: 500\r\n\r\n{{".encode())
        assert connection.recv(4096).startswith(b"HTTP/1.1 408 ")


def test_a_slow_or_endless_head_is_closed(limited_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    host, port = limited_url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), 10) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n" + b"x-long: " + b"a" * 100_000)
        assert connection.recv(4096).startswith(b"HTTP/1.1 431 ")
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.3)
    with socket.create_connection((host, int(port)), 10) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n")
        assert connection.recv(4096) == b""


def test_unknown_models_add_no_metric_series(limited_url: str) -> None:
    with httpx.Client(base_url=limited_url) as http:
        http.post(CHAT, json=body("unknown-0"))
        before = len(http.get("/metrics").text.splitlines())
        for index in range(1, 50):
            assert http.post(CHAT, json=body(f"unknown-{index}")).status_code == 404
        assert len(http.get("/metrics").text.splitlines()) == before


def test_streams_end_before_the_gateway_does(settings: Any, fake: FakeEngine) -> None:
    fake.chunk_delay = 0.1
    received: list[bytes] = []
    with Served(create_app(settings), lifespan="on") as served:
        wait_until(lambda: httpx.get(f"{served.url}/ready").status_code == 200)

        def read() -> None:
            with httpx.stream("POST", served.url + CHAT, json=body("legal", stream=True)) as reply:
                received.extend(reply.iter_bytes())

        reader = threading.Thread(target=read)
        reader.start()
        wait_until(lambda: len(received) > 0)
    reader.join(10)
    assert b"".join(received).endswith(b"data: [DONE]\n\n")


def test_decisions_are_logged_and_replayed(limited_url: str, tmp_path: Path) -> None:
    with httpx.Client(base_url=limited_url) as http:
        for prompt in PROMPTS.values():
            http.post(CHAT, json=body(text=prompt), headers={"x-request-id": "logged"})
        http.post(CHAT, json=body("legal"))
        # A line is written at the latest with the first decision a second later.
        time.sleep(1.1)
        http.post(CHAT, json=body(text="one more"))
    log = tmp_path / "decisions.jsonl"
    wait_until(lambda: log.exists() and log.read_text().count("\n") == len(PROMPTS) + 1)
    shipped = Path(__file__).parents[2] / "router" / "weights"
    result = CliRunner().invoke(app, ["router", "replay", "--log", str(log), "--router", str(shipped)])
    assert result.exit_code == 0, result.output
    assert f"{len(PROMPTS) + 1} decisions replayed" in result.stdout
    assert "100.00% stay" in result.stdout
    missing = CliRunner().invoke(app, ["router", "replay", "--log", str(log), "--router", str(tmp_path)])
    assert missing.exit_code == 2


def test_prompts_are_hashed_unless_asked_for(
    configuration: dict[str, dict[str, Any]], engine_url: str, tmp_path: Path
) -> None:
    log = tmp_path / "hashed.jsonl"
    configuration["engine"]["urls"] = [engine_url]
    configuration["decisions"] = {"path": log}
    with Served(create_app(load(None, configuration)), lifespan="on") as served:
        wait_until(lambda: httpx.get(f"{served.url}/ready").status_code == 200)
        for _ in range(2):
            httpx.post(served.url + CHAT, json=body(text=PROMPTS["sql"]))
    lines = log.read_text().splitlines()
    assert len(lines) == 2
    assert "customers" not in log.read_text()
    assert '"hash":"' in lines[0]
