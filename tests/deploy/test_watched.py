"""Every query of every panel and alert against a real Prometheus, and alerts that fire when they should."""

import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.deploy.watched import CHAT, PROMETHEUS, Watched, faster, watched
from tests.integration.conftest import PROMPTS, make_adapter
from tests.waiting import wait_until

DASHBOARDS = PROMETHEUS.parent / "grafana" / "dashboards"
NOISE = "asdf qwer zxcv"

# Queries that have no answer here, and why.
EMPTY = {
    "How often does the shadow TinyAda disagree?": "no TinyAda runs in the shadow",
    "Which domains do the two disagree on?": "no TinyAda runs in the shadow",
}
# Alerts whose condition this test does not bring about; `promtool test rules` makes them fire. Their selectors are
# asked all the same.
QUIET = {
    "EngineNotReady": "an engine that is listed counts as down when its adapters cannot be listed",
    "RoutingSlow": "a threshold of time",
    "OverheadHigh": "a threshold of time",
    "QueueGrows": "a long queue, longer than this machine makes in seconds",
}
SELECTOR = re.compile(r"\b((?:zephyra|vllm|adapter|engine|domain)[_:][\w:]*|up|ALERTS)(\{[^}]*\})?")


def chat(model: str = "zephyra-resolve", text: str = PROMPTS["sql"], **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": text}], **more}


MIXED = [chat(text=text) for text in PROMPTS.values()]
MIXED += [chat("legal"), chat("zephyra"), chat("nothing"), chat(text=NOISE), chat("code", stream=True)]


def panels() -> Iterator[dict[str, Any]]:
    for file in sorted(DASHBOARDS.glob("*.json")):
        yield from json.loads(file.read_text())["panels"]


def rules() -> Iterator[dict[str, Any]]:
    for file in sorted((PROMETHEUS / "rules").glob("*.yml")):
        for group in yaml.safe_load(file.read_text())["groups"]:
            yield from group["rules"]


def alerts() -> dict[str, str]:
    return {rule["alert"]: rule["expr"] for rule in rules() if "alert" in rule}


def queries() -> list[str]:
    return [*(target["expr"] for panel in panels() for target in panel["targets"]), *(rule["expr"] for rule in rules())]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """A gateway that has seen a bit of everything: mixed traffic, a canary taken out, a version that failed."""
    directory = tmp_path_factory.mktemp("watched")
    with watched(directory) as found:
        admin = found.gateway
        with found.driven(*MIXED), found.driven(chat(), headers={"x-zephyra-bypass": "1"}):
            # Rates need a series to have been seen before it grows.
            wait_until(
                lambda: bool(found.query('zephyra_adapter_failures_total{adapter="legal",step="verifying"}')), 60
            )
            # A version that answers as the base does not pass its verification.
            for engine in found.engines:
                engine.like_base = EveryVersionOf("sql")
            assert _publish(found, make_adapter(directory / "dead", seed=41), "sql").status_code >= 400
            reply = _publish(found, make_adapter(directory / "canary", seed=42), "legal", activate=False)
            canary = reply.json()["version"]
            _break(found, f"legal@{canary}")
            stable = next(iter(admin.get("/admin/adapters/legal").json()["route"]))
            reply = admin.put("/admin/adapters/legal/route", json={"weights": {stable: 60, canary: 40}})
            assert reply.status_code == 200, reply.text
            texts = (chat("legal", str(number)) for number in itertools.count())
            wait_until(lambda: _taken_out(found, next(texts), stable), 60)
            wait_until(lambda: bool(found.query("increase(zephyra_canary_rollbacks_total[60s]) > 0")), 60)
            wait_until(lambda: bool(found.query("sum(increase(zephyra_tokens_total[6s])) > 100")), 60)
        yield found


def _publish(found: Watched, path: Path, name: str, **more: Any) -> httpx.Response:
    url = f"/admin/adapters/{name}/versions"
    return found.gateway.post(url, json={"path": str(path), **more}, params={"wait": True}, timeout=60)


class EveryVersionOf(set[str]):
    """Contains every version of an adapter."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __contains__(self, item: object) -> bool:
        return str(item).startswith(f"{self.name}@")


def _break(found: Watched, name: str) -> None:
    for engine in found.engines:
        engine.failing.add(name)


def _taken_out(found: Watched, body: dict[str, Any], stable: str) -> bool:
    found.gateway.post(CHAT, json=body)
    return bool(found.gateway.get("/admin/adapters/legal").json()["route"] == {stable: 100})


def test_every_metric_asked_for_exists(world: Watched) -> None:
    engine = world.query('{__name__=~"vllm:.+"}')
    exposed = set(re.findall(r"^# TYPE (\S+)", world.gateway.get("/metrics").text, re.M))
    exposed |= {sample["metric"]["__name__"] for sample in engine}
    exposed |= {rule["record"] for rule in rules() if "record" in rule} | {"up", "ALERTS"}
    asked = {name for query in queries() for name, _ in SELECTOR.findall(re.sub(r'"[^"]*"', '""', query))}
    assert len(asked) > 30
    families = asked | {re.sub(r"_(bucket|sum|count)$", "", name) for name in asked}
    missing = {name for name in asked if not {name, re.sub(r"_(bucket|sum|count)$", "", name)} & exposed}
    assert not missing
    # What the gateway exposes and nobody looks at would be noise.
    assert {name for name in exposed if name.startswith("zephyra_")} - families == UNSEEN


# Of TinyAda's exchange and its shadow: for whoever does either, and shown by /admin/router.
UNSEEN = {"zephyra_router_info", "zephyra_router_swaps_total", "zephyra_shadow_dropped_total"}


def test_every_panel_has_data(world: Watched) -> None:
    with world.driven(*MIXED), world.driven(chat(), headers={"x-zephyra-bypass": "1"}):
        wait_until(lambda: world.firing("CanaryRolledBack"), 60)
        wait_until(lambda: bool(world.query("adapter:zephyra_errors:ratio_rate5m")), 60)
        asked = [
            (panel["title"], target["expr"], world.query(faster(target["expr"])))
            for panel in panels()
            for target in panel["targets"]
        ]
    empty = {title for title, _, result in asked if not result}
    assert len(asked) > 60
    assert empty == EMPTY.keys()
    for title, query, result in asked:
        assert all(sample["value"][1] != "NaN" for sample in result) or "quantile" in query, title


def test_a_version_that_fails_and_a_canary_taken_out_are_told(world: Watched) -> None:
    world.wait_firing("AdapterFailed", adapter="sql", step="verifying")
    world.wait_firing("CanaryRolledBack", adapter="legal")
    world.wait_firing("GatewayDown", instance="127.0.0.1:9")
    assert not world.firing("AdapterFailed", adapter="legal")
    assert not world.firing("EngineDown")


def test_a_broken_adapter_is_told_from_the_others(world: Watched) -> None:
    name = next(name for name in world.engines[0].adapters if name.startswith("code@"))
    _break(world, name)
    with world.driven(chat("code"), chat("math")):
        world.wait_firing("ErrorsByAdapter", adapter="code")
        assert not world.firing("ErrorsByAdapter", adapter="math")
    for engine in world.engines:
        engine.failing.clear()


def test_an_adapter_an_engine_does_not_take_back_is_drift(world: Watched) -> None:
    engine = world.engines[1]
    name = next(name for name in engine.adapters if name.startswith("math@"))
    engine.refuse.add(name)
    del engine.adapters[name]
    engine.deferred = 2
    world.wait_firing("AdapterDrift")
    world.wait_firing("AdaptersStarve")
    engine.refuse.clear()
    engine.deferred = 0
    wait_until(lambda: not world.firing("AdapterDrift"), 60)


def test_a_shift_of_labels_is_told(world: Watched) -> None:
    assert not world.firing("LabelMixMoved")
    with world.driven(chat(text=NOISE)):
        world.wait_firing("LabelMixMoved")
        world.wait_firing("AbstainRateMoved")


def test_a_killed_engine_is_told(world: Watched) -> None:
    killed = world.engines[0]
    killed.dead = True
    with world.driven(*MIXED):
        world.wait_firing("EngineDown")
        # The other goes on answering.
        assert world.gateway.post(CHAT, json=chat()).status_code == 200
    killed.dead = False
    wait_until(lambda: not world.firing("EngineDown"), 60)


def test_every_alert_asks_what_is_there(world: Watched) -> None:
    seen = {found["metric"]["alertname"] for found in world.query('last_over_time(ALERTS{alertstate="firing"}[10m])')}
    # A busy machine may well be slow.
    assert alerts().keys() - seen <= QUIET.keys()
    for alert, expression in alerts().items():
        for selector in SELECTOR.finditer(faster(expression)):
            assert world.query(f"last_over_time({selector[0]}[5m])"), f"{alert}: {selector[0]}"
