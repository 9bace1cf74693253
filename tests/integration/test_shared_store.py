"""What a store keeps through restarts, and what several gateways on one see."""

import json
import shutil
from pathlib import Path
from typing import Any

import httpx
import pytest

from server.desired import WATCH_SECONDS, Desired
from server.gateway import Gateway, check
from server.settings import SettingsError, load
from server.table import RouteTable
from tests.fake_engine import FakeEngine
from tests.integration.administration import adapter, gateway, publish, wait_routed
from tests.integration.conftest import make_adapter
from tests.integration.test_chat import CHAT, body, served_by
from tests.waiting import wait_until


def test_what_was_published_survives_a_restart(
    configuration: dict[str, dict[str, Any]], engine_url: str, fake: FakeEngine, second: Path
) -> None:
    with gateway(configuration, engine_url) as http:
        version = publish(http, second).json()["version"]
        http.delete("/admin/adapters/sql")
        wait_until(lambda: http.get("/admin/adapters/sql").status_code == 404)
    fake.adapters.clear()
    with gateway(configuration, engine_url) as http:
        assert served_by(http.post(CHAT, json=body("legal"))) == f"legal@{version}"
        assert http.post(CHAT, json=body("sql")).status_code == 404
        assert http.post(CHAT, json=body("math")).status_code == 200


def test_two_gateways_on_one_store_agree(
    configuration: dict[str, dict[str, Any]], engine_url: str, fake: FakeEngine, second: Path
) -> None:
    with gateway(configuration, engine_url) as one, gateway(configuration, engine_url) as two:
        version = publish(one, second).json()["version"]
        wait_until(lambda: served_by(two.post(CHAT, json=body("legal"))) == f"legal@{version}", seconds=2)
        fake.chunk_delay = 0.1
        with two.stream("POST", CHAT, json=body("legal", stream=True)) as reply:
            lines = reply.iter_lines()
            next(lines)
            old = one.post("/admin/adapters/legal/rollback", params={"wait": True}).json()["route"]
            wait_until(lambda: adapter(two)["route"] == old, seconds=2)
            assert f"legal@{version}" in fake.adapters
            assert "data: [DONE]" in list(lines)
        wait_until(lambda: f"legal@{version}" not in fake.adapters)
        assert served_by(two.post(CHAT, json=body("legal"))) == f"legal@{next(iter(old))}"


def test_old_versions_are_pruned(
    configuration: dict[str, dict[str, Any]], engine_url: str, fake: FakeEngine, tmp_path: Path
) -> None:
    configuration["store"]["keep"] = 2
    with gateway(configuration, engine_url) as http:
        for seed in range(6):
            publish(http, make_adapter(tmp_path / f"number-{seed}", seed=100 + seed))
        # The served one, the one a rollback returns to, and two more.
        wait_until(lambda: len(adapter(http)["versions"]) == 4)
        wait_until(lambda: len(list((tmp_path / "store" / "versions").glob("legal@*"))) == 4)
        assert len([name for name in fake.adapters if name.startswith("legal@")]) == 1


def test_a_store_that_vanishes_stops_changes_and_no_traffic(
    http: httpx.Client, fake: FakeEngine, second: Path, configuration: dict[str, dict[str, Any]]
) -> None:
    store = Path(configuration["store"]["path"])
    state = store / "state.json"
    state.rename(store / "away")
    fake.adapters.clear()
    wait_until(lambda: len(fake.adapters) == 8)
    assert http.post(CHAT, json=body("legal")).status_code == 200
    reply = publish(http, second)
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "store_unavailable")
    assert not state.exists()
    (store / "away").rename(state)
    assert publish(http, second).json()["phase"] == "serving"


def test_a_store_of_another_base_is_refused(
    configuration: dict[str, dict[str, Any]], engine_url: str, tmp_path: Path
) -> None:
    with gateway(configuration, engine_url):
        pass
    config = Path(configuration["base"]["model"]) / "config.json"
    config.write_text(json.dumps({"hidden_size": 128, "num_attention_heads": 2}))
    with pytest.raises(SettingsError, match="holds adapters of another base"):
        check(load(None, configuration))


def test_configured_files_lost_from_the_store_are_copied_again(
    configuration: dict[str, dict[str, Any]], engine_url: str, tmp_path: Path
) -> None:
    with gateway(configuration, engine_url) as http:
        name = served_by(http.post(CHAT, json=body("legal")))
    files = tmp_path / "store" / "versions" / name
    shutil.rmtree(files)
    with gateway(configuration, engine_url) as http:
        assert served_by(http.post(CHAT, json=body("legal"))) == name
    assert (files / "manifest.json").exists()


def test_another_gateway_follows_at_its_first_look(
    configuration: dict[str, dict[str, Any]], engine_url: str, second: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which is what makes two agree within a second: a look is due every `WATCH_SECONDS`."""
    assert WATCH_SECONDS <= 0.5
    looks: list[tuple[Desired, int, int, int]] = []
    look = Desired.refresh

    def counted(self: Desired) -> None:
        on_disk = self.store.read().revision
        look(self)
        looks.append((self, on_disk, self.state.revision, following.get(id(self), 0)))

    monkeypatch.setattr(Desired, "refresh", counted)
    following: dict[int, int] = {}
    flip = Gateway.flip

    def noted(self: Gateway, table: RouteTable) -> None:
        flip(self, table)
        following[id(self.desired)] = self.desired.state.revision

    monkeypatch.setattr(Gateway, "flip", noted)
    with gateway(configuration, engine_url) as one, gateway(configuration, engine_url) as two:
        old = adapter(one)["versions"][0]["version"]
        new = publish(one, second, activate=False).json()["version"]
        wait_until(lambda: two.post(CHAT, json=body(f"legal@{new}")).status_code == 200)
        changed = []
        for share in range(10, 20):
            route = {old: share, new: 100 - share}
            reply = one.put("/admin/adapters/legal/route", json={"weights": route}, params={"wait": True})
            assert reply.json()["route"] == route
            changed.append(one.get("/admin/adapters").json()["revision"])
            wait_routed(two, route)
    assert len({id(desired) for desired, *_ in looks}) == 2
    # Whoever looked after a change had the state and the route of it when the look was over.
    assert all(read >= on_disk for _, on_disk, read, _ in looks)
    assert all(routed >= on_disk for _, on_disk, _, routed in looks if on_disk in changed)
    assert {on_disk for _, on_disk, _, _ in looks} >= set(changed[-1:])
