"""Requests that wait for an adapter slot: what the engine counts is seen, and warned about once."""

import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest

from server.engine import Engine
from server.starvation import Starvation
from tests.fake_engine import FakeEngine
from tests.integration.administration import gateway
from tests.waiting import wait_until


@pytest.fixture
async def engine(engine_url: str) -> AsyncIterator[Engine]:
    engine = Engine.connect(engine_url)
    yield engine
    await engine.close()


async def test_waiting_twice_is_warned_about_once(
    engine: Engine, fake: FakeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "zephyra.adapters")
    starvation, warned = Starvation([engine]), []
    for fake.deferred in (0, 3, 0, 3, 4, 5, 0, 2, 2):
        await starvation.look(engine)
        assert engine.deferred == fake.deferred
        warned.append(len(caplog.records))
    assert warned == [0, 0, 0, 0, 1, 1, 1, 1, 2]
    assert "4 requests wait for an adapter slot" in caplog.records[0].getMessage()
    fake.dead = True
    await starvation.look(engine)
    assert engine.deferred == 0


def test_engines_say_how_many_wait(
    configuration: dict[str, dict[str, Any]], engine_url: str, fake: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.starvation.LOOK_SECONDS", 0.05)
    with gateway(configuration, engine_url) as http:
        fake.deferred = 2
        wait_until(lambda: http.get("/admin/engines").json()[0]["deferred"] == 2)
