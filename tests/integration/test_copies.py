"""Adapters kept on some of the engines only: where, through an engine's death and return, and who is asked."""

import contextlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from adapters.placement import homes
from tests.fake_engine import FakeEngine, Served
from tests.integration.administration import adapter, gateway, publish, wait_ready
from tests.integration.conftest import DOMAINS
from tests.integration.test_chat import CHAT, body, served_by
from tests.waiting import wait_until


class Fleet:
    """Three engines by URL."""

    def __init__(self, urls: dict[str, FakeEngine]) -> None:
        self.engines = urls

    def holders(self, name: str) -> set[str]:
        return {url for url, engine in self.engines.items() if any(n.startswith(f"{name}@") for n in engine.adapters)}

    def kept(self, copies: int, up: set[str] | None = None) -> bool:
        """Whether each adapter is where it should be and nowhere else, the zero adapter everywhere."""
        urls = self.engines.keys() if up is None else up
        return all(self.holders(name) & urls == homes(name, urls, copies) for name in DOMAINS) and all(
            any(name.startswith("zero@") for name in self.engines[url].adapters) for url in urls
        )


def wait_down(http: httpx.Client, url: str) -> None:
    """Return once the gateway knows that the engine is down: until then it may send requests there."""
    wait_until(lambda: all(not engine["up"] for engine in http.get("/admin/engines").json() if engine["url"] == url))


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    with contextlib.ExitStack() as stack:
        engines = [FakeEngine() for _ in range(3)]
        yield Fleet({stack.enter_context(Served(engine)).url: engine for engine in engines})


def ask_all(http: httpx.Client) -> None:
    for name in DOMAINS:
        for text in ("one", "two"):
            reply = http.post(CHAT, json=body(name, text))
            assert reply.status_code == 200, reply.text
            assert served_by(reply) == reply.headers["x-zephyra-adapter"]
    assert http.post(CHAT, json=body("zephyra")).status_code == 200


def test_two_copies_on_three_engines(configuration: dict[str, dict[str, Any]], fleet: Fleet, second: Path) -> None:
    configuration["engine"]["copies"] = 2
    with gateway(configuration, *fleet.engines) as http:
        wait_until(lambda: fleet.kept(2))
        ask_all(http)
        version = publish(http, second).json()["version"]
        assert {url for url, e in fleet.engines.items() if f"legal@{version}" in e.adapters} == fleet.holders("legal")
        assert fleet.kept(2)
        assert len(next(v["engines"] for v in adapter(http)["versions"] if v["version"] == version)) == 2
        wait_until(lambda: {engine["drift"] for engine in http.get("/admin/engines").json()} == {0})


@pytest.mark.parametrize("copies", [1, 2])
def test_a_dead_engines_adapters_move_and_come_back(
    configuration: dict[str, dict[str, Any]], fleet: Fleet, copies: int
) -> None:
    configuration["engine"]["copies"] = copies
    with gateway(configuration, *fleet.engines) as one, gateway(configuration, *fleet.engines) as two:
        wait_until(lambda: fleet.kept(copies))
        url = next(iter(fleet.holders("legal")))
        victim, others = fleet.engines[url], fleet.engines.keys() - {url}
        victim.dead = True
        victim.adapters.clear()
        wait_until(lambda: fleet.kept(copies, others))
        for http in (one, two):
            wait_down(http, url)
            wait_ready(http)
            ask_all(http)
        victim.dead = False
        wait_until(lambda: fleet.kept(copies))
        for http in (one, two):
            wait_ready(http)
            ask_all(http)


def test_a_stream_on_a_copy_too_many_ends_there(configuration: dict[str, dict[str, Any]], fleet: Fleet) -> None:
    configuration["engine"]["copies"] = 1
    with gateway(configuration, *fleet.engines) as http:
        wait_until(lambda: fleet.kept(1))
        (url,) = fleet.holders("legal")
        victim = fleet.engines[url]
        victim.dead = True
        victim.adapters.clear()
        wait_until(lambda: http.get("/ready").status_code == 200 and bool(fleet.holders("legal")))
        (stand_in,) = fleet.holders("legal")
        fleet.engines[stand_in].chunk_delay = 0.2
        with http.stream("POST", CHAT, json=body("legal", stream=True)) as reply:
            lines = reply.iter_lines()
            next(lines)
            victim.dead = False
            wait_until(lambda: url in fleet.holders("legal"))
            assert stand_in in fleet.holders("legal")
            assert "data: [DONE]" in list(lines)
        wait_until(lambda: fleet.kept(1))


def test_copies_are_spread_and_few_move() -> None:
    names, urls = [f"adapter-{n}" for n in range(300)], [f"http://engine-{n}:8000" for n in range(4)]
    before = {name: homes(name, urls, 2) for name in names}
    assert before == {name: homes(name, reversed(urls), 2) for name in names}
    counts = Counter(url for kept in before.values() for url in kept)
    assert all(100 < counts[url] < 200 for url in urls)
    after = {name: homes(name, urls[1:], 2) for name in names}
    assert all(before[name] - {urls[0]} <= after[name] for name in names)
    assert homes("legal", urls, None) == homes("legal", urls, 9) == frozenset(urls)
