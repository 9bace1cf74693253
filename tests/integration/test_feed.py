"""/admin/feed, /admin/audit and /admin/router/card: what the console watches, and who may."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from server.app import create_app
from server.feed import LISTENERS, QUEUE, Feed
from server.gateway import Gateway
from server.settings import load
from tests.fake_engine import FakeEngine, Served
from tests.integration.conftest import PROMPTS
from tests.integration.test_chat import CHAT, body
from tests.waiting import wait_until

KEY = "an-admin-key"
AUTHORIZED = {"authorization": f"Bearer {KEY}"}


@contextmanager
def serve(configuration: dict[str, Any], on_start: Callable[[Gateway], None] | None = None) -> Iterator[httpx.Client]:
    with (
        Served(create_app(load(None, configuration), on_start), lifespan="on") as served,
        httpx.Client(base_url=served.url, timeout=30) as client,
    ):
        wait_until(lambda: client.get("/ready").status_code == 200)
        yield client


@contextmanager
def listening(http: httpx.Client, **more: Any) -> Iterator[Iterator[tuple[str, Any]]]:
    """The feed's events as they come, by name."""
    with (
        httpx.Client(base_url=http.base_url, timeout=30) as client,
        client.stream("GET", "/admin/feed", **more) as reply,
    ):
        assert reply.status_code == 200
        assert reply.headers["content-type"].startswith("text/event-stream")
        yield read(reply.iter_lines())


def read(lines: Iterator[str]) -> Iterator[tuple[str, Any]]:
    name = ""
    for line in lines:
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))


def next_of(events: Iterator[tuple[str, Any]], name: str) -> Any:
    return next(value for given, value in events if given == name)


def test_an_answer_reaches_who_listens(http: httpx.Client) -> None:
    with listening(http) as events:
        assert next_of(events, "hello") == {"prompts": False, "domains": sorted(PROMPTS)}
        reply = http.post(CHAT, json=body(text=PROMPTS["legal"]), headers={"x-request-id": "one"})
        told = next_of(events, "answer")
    assert told["request_id"] == "one"
    assert told["adapter"] == reply.headers["x-zephyra-adapter"]
    assert (told["domain"], told["served"], told["reason"], told["status"]) == ("legal", "legal", "resolved", 200)
    assert told["confidence"] == pytest.approx(float(reply.headers["x-zephyra-confidence"]), abs=1e-4)
    assert set(told["stages"]) == {"parse", "access", "route", "wait", "engine", "relay"}
    assert sum(told["stages"].values()) == pytest.approx(told["total"], abs=0.01)
    assert 0 < told["overhead"] < told["total"]
    assert PROMPTS["legal"] not in json.dumps(told)


def test_the_state_tells_engines_phases_and_the_overhead_of_each_arm(http: httpx.Client) -> None:
    for headers in ({}, {"x-zephyra-bypass": "1"}):
        http.post(CHAT, json=body(text=PROMPTS["math"]), headers=headers)
    with listening(http) as events:
        state = next_of(events, "state")
    assert state["engines"][0]["ready"] is True
    assert state["decisions"] == {"math": {"resolved": 1}}
    assert {arm: sum(counts) for arm, counts in state["overhead"]["arms"].items()} == {"routed": 1, "bypass": 1}
    assert len(state["overhead"]["bounds"]) + 1 == len(state["overhead"]["arms"]["routed"])
    assert set(state["phases"].values()) == {"serving"}


def test_a_failed_answer_is_told_too_and_a_refused_request_is_not(http: httpx.Client, fake: FakeEngine) -> None:
    fake.failure = (500, b"out of memory")
    with listening(http) as events:
        next_of(events, "hello")
        http.post(CHAT, json=body("astrology"))
        http.post(CHAT, json=body("legal"))
        told = next_of(events, "answer")
    assert (told["status"], told["reason"]) == (502, "explicit")
    assert "domain" not in told


def test_words_are_told_only_where_the_settings_allow_it(configuration: dict[str, Any], engine_url: str) -> None:
    configuration["engine"]["urls"] = [engine_url]
    configuration["console"] = {"prompts": True}
    with serve(configuration) as http, listening(http) as events:
        assert next_of(events, "hello")["prompts"] is True
        http.post(CHAT, json=body(text="word " * 200))
        assert next_of(events, "answer")["prompt"] == ("word " * 200)[:300]


def test_what_is_watched_needs_the_admin_key(configuration: dict[str, Any], engine_url: str) -> None:
    configuration["engine"]["urls"] = [engine_url]
    configuration["admin"] = {"key": KEY}
    with serve(configuration) as http:
        for path in ("/admin/feed", "/admin/audit", "/admin/router/card"):
            assert http.get(path).status_code == 401
        assert http.get("/admin/audit", headers=AUTHORIZED).json() == []
        with listening(http, headers=AUTHORIZED) as events:
            next_of(events, "hello")
        # The page itself holds no secret: without it nobody could enter a key.
        assert http.get("/console").status_code == 200


def test_without_a_key_no_page_of_elsewhere_listens(http: httpx.Client) -> None:
    assert http.get("/admin/feed", headers={"origin": "https://elsewhere.example"}).status_code == 403
    assert http.get("/admin/feed", headers={"x-forwarded-for": "203.0.113.7"}).status_code == 403


def test_listeners_are_bounded_and_leave_nothing(configuration: dict[str, Any], engine_url: str) -> None:
    configuration["engine"]["urls"] = [engine_url]
    gateways: list[Gateway] = []
    with serve(configuration, gateways.append) as http:
        feed = gateways[0].feed
        with listening(http) as events:
            next_of(events, "hello")
            assert len(feed.listeners) == 1
            for _ in range(LISTENERS - 1):
                feed.listeners.add(object())  # type: ignore[arg-type]
            refused = http.get("/admin/feed")
            assert refused.status_code == 503
            assert "listen already" in refused.json()["error"]["message"]
            feed.listeners = {one for one in feed.listeners if hasattr(one, "put")}
        wait_until(lambda: not feed.listeners)


async def test_a_slow_listener_misses_some_and_is_told_how_many() -> None:
    feed = Feed()
    with feed.listening() as listener:
        for number in range(QUEUE + 3):
            listener.put(b"%d " % number)
        assert listener.dropped == 3
        taken = await listener.take(1)
        assert taken.split() == [b"%d" % number for number in range(QUEUE)]
        assert await listener.take(0.01) == b""
        listener.close()
        assert await listener.take(60) == b""
    assert not feed.listeners


def test_a_stopping_server_ends_the_feed(configuration: dict[str, Any], engine_url: str) -> None:
    configuration["engine"]["urls"] = [engine_url]
    with (
        Served(create_app(load(None, configuration)), lifespan="on") as served,
        httpx.Client(base_url=served.url, timeout=30) as http,
        listening(http) as events,
    ):
        next_of(events, "hello")
        served._server.should_exit = True
        # To its end: a connection cut off would raise.
        assert {name for name, _ in events} <= {"state"}
        served._thread.join(30)
        assert not served._thread.is_alive()


def test_the_audit_log_newest_first(http: httpx.Client) -> None:
    http.delete("/admin/adapters/sql")
    http.delete("/admin/adapters/code")
    lines = http.get("/admin/audit").json()
    assert [(line["what"], line["adapter"], line["who"]) for line in lines] == [
        ("remove", "code", "loopback"),
        ("remove", "sql", "loopback"),
    ]
    assert http.get("/admin/audit", params={"last": 1}).json() == lines[:1]
    assert http.get("/admin/audit", params={"adapter": "sql"}).json() == lines[1:]
    assert http.get("/admin/audit", params={"last": 0}).status_code == 400


def test_a_half_written_line_hides_no_other(http: httpx.Client, configuration: dict[str, Any]) -> None:
    http.delete("/admin/adapters/sql")
    with open(f"{configuration['store']['path']}/audit.jsonl", "a") as log:
        log.write('{"time": "2026-')
    assert [line["adapter"] for line in http.get("/admin/audit").json()] == ["sql"]


def test_the_figures_of_the_tinyada_that_serves(http: httpx.Client) -> None:
    card = http.get("/admin/router/card").json()
    figures = {figure["name"]: figure for figure in card["evaluation"]["figures"]}
    counts = card["evaluation"]["confusion"]["counts"]
    right = sum(row[index] for index, row in enumerate(counts))
    assert sum(map(sum, counts)) == card["evaluation"]["rows"]
    assert figures["accuracy"]["value"] == pytest.approx(right / card["evaluation"]["rows"], abs=1e-4)
    assert card["digest"] == http.get("/admin/router").json()["digest"]


def test_nothing_is_made_while_nobody_listens(http: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("an answer was made for nobody")

    monkeypatch.setattr(Feed, "tell", never)
    assert http.post(CHAT, json=body()).status_code == 200
    assert http.get("/metrics").status_code == 200
