"""Adapters published, routed, rolled back and removed through /admin, in front of the fake engine."""

import contextlib
import json
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import httpx
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from server.app import create_app
from server.gateway import check
from server.settings import SettingsError, load
from tests.fake_engine import FakeEngine, Served
from tests.integration.conftest import DOMAINS, make_adapter
from tests.integration.test_chat import CHAT, body, served_by
from tests.waiting import wait_until

VERSIONS = "/admin/adapters/legal/versions"


def adapter(http: httpx.Client, name: str = "legal") -> dict[str, Any]:
    return dict(http.get(f"/admin/adapters/{name}").json())


def phase(http: httpx.Client, version: str, name: str = "legal") -> str:
    return str(next(v["phase"] for v in adapter(http, name)["versions"] if v["version"] == version))


def publish(http: httpx.Client, path: Path, name: str = "legal", **more: Any) -> httpx.Response:
    url = f"/admin/adapters/{name}/versions"
    return http.post(url, json={"path": str(path), **more}, params={"wait": True})


@pytest.fixture
def second(tmp_path: Path) -> Path:
    """Another version of `legal`."""
    return make_adapter(tmp_path / "second", seed=99)


def test_a_swap_and_back(http: httpx.Client, fake: FakeEngine, second: Path) -> None:
    before = served_by(http.post(CHAT, json=body("legal")))
    reply = publish(http, second)
    assert (reply.status_code, reply.json()["phase"]) == (200, "serving")
    after = f"legal@{reply.json()['version']}"
    assert before != after
    answer = http.post(CHAT, json=body("legal"))
    assert served_by(answer) == answer.headers["x-zephyra-adapter"] == after
    old = before.split("@")[1]
    wait_until(lambda: phase(http, old) == "retired")
    assert before not in fake.adapters
    reply = http.post("/admin/adapters/legal/rollback", params={"wait": True})
    assert (reply.status_code, reply.json()["route"]) == (200, {old: 100})
    assert served_by(http.post(CHAT, json=body("legal"))) == before
    history = next(v["history"] for v in adapter(http)["versions"] if v["version"] == old)
    assert [entry["phase"] for entry in history][:6] == [
        "published", "validating", "loading", "verifying", "ready", "serving",
    ]  # fmt: skip


def test_a_running_stream_ends_on_the_version_it_began_with(http: httpx.Client, fake: FakeEngine, second: Path) -> None:
    before = served_by(http.post(CHAT, json=body("legal")))
    fake.chunk_delay = 0.1
    with http.stream("POST", CHAT, json=body("legal", stream=True)) as reply:
        lines = reply.iter_lines()
        first = next(lines)
        with httpx.Client(base_url=http.base_url) as other:
            version = publish(other, second).json()["version"]
            assert phase(other, version) == "serving"
            assert before in fake.adapters
            assert phase(other, before.split("@")[1]) == "draining"
        text = "\n".join([first, *lines])
    assert reply.headers["x-zephyra-adapter"] == before
    assert text.rstrip().endswith("data: [DONE]")
    wait_until(lambda: before not in fake.adapters)


def test_publishing_twice_is_publishing_once(http: httpx.Client, fake: FakeEngine, second: Path) -> None:
    first, again = publish(http, second).json(), publish(http, second).json()
    assert first == again
    assert fake.loads.count(f"legal@{first['version']}") == 1
    assert len(adapter(http)["versions"]) == 2


def test_canary_shares_requests_and_keeps_conversations(http: httpx.Client, second: Path) -> None:
    old = served_by(http.post(CHAT, json=body("legal"))).split("@")[1]
    new = publish(http, second, activate=False).json()["version"]
    assert phase(http, new) == "ready"
    reply = http.put("/admin/adapters/legal/route", json={"weights": {old: 75, new: 25}})
    assert (reply.status_code, reply.json()["route"]) == (200, {old: 75, new: 25})
    served = {text: served_by(http.post(CHAT, json=body("legal", text))) for text in map(str, range(200))}
    share = Counter(served.values())[f"legal@{new}"] / len(served)
    assert 0.12 < share < 0.40
    for text in list(served)[:20]:
        later = body("legal", text)
        later["messages"] += [{"role": "assistant", "content": "yes"}, {"role": "user", "content": "and then?"}]
        assert served_by(http.post(CHAT, json=later)) == served[text]
    http.put("/admin/adapters/legal/route", json={"weights": {old: 50, new: 50}})
    moved = [text for text in served if served_by(http.post(CHAT, json=body("legal", text))) != served[text]]
    assert all(served[text] == f"legal@{old}" for text in moved)


def test_a_failing_canary_is_taken_out(
    http: httpx.Client, fake: FakeEngine, second: Path, configuration: dict[str, Any]
) -> None:
    old = served_by(http.post(CHAT, json=body("legal"))).split("@")[1]
    new = publish(http, second, activate=False).json()["version"]
    http.put("/admin/adapters/legal/route", json={"weights": {old: 60, new: 40}})
    fake.failing.add(f"legal@{new}")
    statuses = Counter(http.post(CHAT, json=body("legal", str(n))).status_code for n in range(150))
    assert 20 <= statuses[502] < 60
    wait_until(lambda: adapter(http)["route"] == {old: 100})
    log = Path(configuration["store"]["path"]) / "audit.jsonl"
    last = json.loads(log.read_text().splitlines()[-1])
    assert (last["who"], last["what"], last["adapter"], last["to"]) == ("canary guard", "rollback", "legal", {old: 100})
    assert "requests failed" in last["reason"]


def test_an_engine_that_fails_for_all_blames_no_canary(http: httpx.Client, fake: FakeEngine, second: Path) -> None:
    old = served_by(http.post(CHAT, json=body("legal"))).split("@")[1]
    new = publish(http, second, activate=False).json()["version"]
    http.put("/admin/adapters/legal/route", json={"weights": {old: 60, new: 40}})
    fake.failure = (500, b"out of memory")
    for n in range(100):
        http.post(CHAT, json=body("legal", str(n)))
    assert adapter(http)["desired"] == {old: 60, new: 40}


def test_a_pinned_version(http: httpx.Client, second: Path) -> None:
    new = publish(http, second, activate=False).json()["version"]
    reply = http.post(CHAT, json=body(f"legal@{new}"))
    assert served_by(reply) == reply.headers["x-zephyra-adapter"] == reply.json()["model"] == f"legal@{new}"
    assert served_by(http.post(CHAT, json=body("legal"))) != f"legal@{new}"
    assert http.post(CHAT, json=body("legal@000000000000")).status_code == 404


def test_a_new_adapter_for_nobodys_domain_comes_and_goes(
    http: httpx.Client, fake: FakeEngine, second: Path, configuration: dict[str, Any]
) -> None:
    reply = publish(http, second, "tax")
    assert reply.status_code == 200
    assert served_by(http.post(CHAT, json=body("tax"))).startswith("tax@")
    assert http.delete("/admin/adapters/tax").status_code == 202
    assert http.post(CHAT, json=body("tax")).status_code == 404
    wait_until(lambda: http.get("/admin/adapters/tax").status_code == 404)
    assert not any(name.startswith("tax@") for name in fake.adapters)
    wait_until(lambda: not list((Path(configuration["store"]["path"]) / "versions").glob("tax@*")))


def test_files_stay_while_a_stream_runs(http: httpx.Client, fake: FakeEngine, configuration: dict[str, Any]) -> None:
    name = served_by(http.post(CHAT, json=body("legal")))
    files = Path(configuration["store"]["path"]) / "versions" / name
    fake.chunk_delay = 0.1
    with http.stream("POST", CHAT, json=body("legal", stream=True)) as reply:
        lines = reply.iter_lines()
        next(lines)
        with httpx.Client(base_url=http.base_url) as other:
            assert other.delete("/admin/adapters/legal").status_code == 202
            assert other.post(CHAT, json=body("legal")).status_code == 404
        assert files.exists()
        assert name in fake.adapters
        assert "data: [DONE]" in list(lines)
    wait_until(lambda: not files.exists())
    assert name not in fake.adapters


def rewrite(directory: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = directory / "adapter_config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


def reweigh(directory: Path, change: Callable[[str, Any], Any], rename: Callable[[str], str] = str) -> None:
    path = directory / "adapter_model.safetensors"
    save_file({rename(key): change(key, value) for key, value in load_file(path).items()}, path)


def truncated(directory: Path) -> None:
    path = directory / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def pickled(directory: Path) -> None:
    (directory / "adapter_model.safetensors").rename(directory / "adapter_model.bin")


def linked(directory: Path) -> None:
    path = directory / "adapter_config.json"
    path.rename(directory.parent / "elsewhere.json")
    path.symlink_to(directory.parent / "elsewhere.json")


def of_another_base(directory: Path) -> None:
    reweigh(directory, lambda key, value: value if "lora_A" in key else np.ones((32, 8), np.float32))


def of_high_rank(directory: Path) -> None:
    shutil.rmtree(directory)
    make_adapter(directory, rank=600)


def of_unknown_modules(directory: Path) -> None:
    reweigh(directory, lambda key, value: value, lambda key: key.replace("q_proj", "w_proj"))


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (truncated, "truncated"),
    "other base": (of_another_base, "in this base"),
    "rank": (of_high_rank, "rank 600 is above"),
    "DoRA": (lambda d: rewrite(d, lambda c: c.update(use_dora=True)), "DoRA"),
    "zero B": (lambda d: reweigh(d, lambda k, v: v * ("lora_A" in k)), "every lora_B is zero"),
    "NaN": (lambda d: reweigh(d, lambda k, v: v * np.float32("nan")), "NaN"),
    "no module": (of_unknown_modules, "no layer of this base"),
    "pickle": (pickled, "pickle"),
    "link": (linked, "symbolic link"),
    "missing": (shutil.rmtree, "is not a directory"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_adapters_are_refused_with_their_own_message(
    http: httpx.Client, fake: FakeEngine, second: Path, kind: str
) -> None:
    damage, finding = BROKEN[kind]
    damage(second)
    reply = publish(http, second)
    error = reply.json()["error"]
    assert (reply.status_code, error["code"]) == (422, "adapter_refused")
    assert finding in error["message"]
    assert len(adapter(http)["versions"]) == 1
    assert http.post(CHAT, json=body("legal")).status_code == 200
    assert len(fake.loads) == 8


def test_an_adapter_equal_to_the_base_is_refused(http: httpx.Client, fake: FakeEngine, second: Path) -> None:
    before = served_by(http.post(CHAT, json=body("legal")))
    version = publish(http, second, activate=False).json()["version"]
    assert http.delete(f"{VERSIONS}/{version}").status_code == 202
    wait_until(lambda: len(adapter(http)["versions"]) == 1)
    fake.like_base.add(f"legal@{version}")
    reply = publish(http, second)
    assert reply.status_code == 422
    assert "answers as the base" in reply.json()["error"]["message"]
    assert phase(http, version) == "failed"
    assert served_by(http.post(CHAT, json=body("legal"))) == before
    wait_until(lambda: f"legal@{version}" not in fake.adapters)


def test_an_engines_refusal_fails_the_version(http: httpx.Client, fake: FakeEngine, second: Path) -> None:
    version = publish(http, second, activate=False).json()["version"]
    http.delete(f"{VERSIONS}/{version}")
    wait_until(lambda: len(adapter(http)["versions"]) == 1)
    fake.refuse.add(f"legal@{version}")
    reply = publish(http, second)
    assert reply.status_code == 422
    assert "max_lora_rank" in reply.json()["error"]["message"]
    fake.refuse.clear()
    assert publish(http, second).json()["phase"] == "serving"


@pytest.mark.parametrize(
    ("name", "path", "finding"),
    [
        ("text", None, "reserved"),
        ("zephyra", None, "reserved"),
        ("general", None, "reserved"),
        ("Legal", None, "use a to z"),
        ("a,b", None, "use a to z"),
        ("legal", "relative/path", "must be absolute"),
        ("legal", "/tmp/../etc", "without '..'"),
        ("legal", "/etc", "store.sources"),
    ],
)
def test_names_and_paths(http: httpx.Client, second: Path, name: str, path: str | None, finding: str) -> None:
    reply = publish(http, Path(path) if path else second, name)
    assert reply.status_code == 422
    assert finding in reply.json()["error"]["message"]


def test_refusals_of_the_state(http: httpx.Client, second: Path) -> None:
    old = adapter(http)["versions"][0]["version"]
    assert http.delete(f"{VERSIONS}/{old}").status_code == 409
    assert http.delete(f"{VERSIONS}/{'0' * 12}").status_code == 404
    assert http.delete("/admin/adapters/none").status_code == 404
    assert http.post("/admin/adapters/legal/rollback").status_code == 409
    assert http.put("/admin/adapters/legal/route", json={"weights": {}}).status_code == 409
    assert http.put("/admin/adapters/legal/route", json={"weights": {"0" * 12: 1}}).status_code == 404
    assert http.put("/admin/adapters/legal/route", json={"weight": {}}).status_code == 400
    assert publish(http, second, "law", domain="legal").status_code == 409
    assert publish(http, second, "law", domain="astrology").status_code == 422
    assert http.get("/admin/adapters/law").status_code == 404


def test_engines_and_router(http: httpx.Client, fake: FakeEngine) -> None:
    (engine,) = http.get("/admin/engines").json()
    assert (engine["up"], engine["ready"], engine["drift"]) == (True, True, 0)
    assert {loaded["name"] for loaded in engine["adapters"]} == set(fake.adapters)
    domains = {each["domain"]: each["adapter"] for each in http.get("/admin/router").json()["domains"]}
    assert domains["legal"] == "legal"
    assert domains["general"] is None


@contextlib.contextmanager
def gateway(configuration: dict[str, dict[str, Any]], *engines: str) -> Iterator[httpx.Client]:
    configuration["engine"]["urls"] = list(engines)
    with (
        Served(create_app(load(None, configuration)), lifespan="on") as served,
        httpx.Client(base_url=served.url, timeout=30) as http,
    ):
        wait_until(lambda: http.get("/ready").status_code == 200)
        yield http


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


def test_two_engines_hold_the_same_through_the_death_of_either(
    configuration: dict[str, dict[str, Any]], second: Path
) -> None:
    first, other = FakeEngine(), FakeEngine()
    with Served(first) as one, Served(other) as two, gateway(configuration, one.url, two.url) as http:
        wait_until(lambda: len(first.adapters) == len(other.adapters) == 8)
        first.adapters.clear()
        wait_until(lambda: len(first.adapters) == 8)
        version = publish(http, second).json()["version"]
        assert f"legal@{version}" in first.adapters
        assert f"legal@{version}" in other.adapters
        for broken in (first, other):
            broken.break_after = 0
            for stream in (False, True):
                for n in range(4):
                    reply = http.post(CHAT, json=body("legal", str(n), stream=stream))
                    assert reply.status_code == 200
                    assert reply.headers["x-zephyra-adapter"] == f"legal@{version}"
            broken.break_after = None


def test_swaps_under_load(http: httpx.Client, fake: FakeEngine, second: Path) -> None:
    """Every answer comes from the version its header names, and none fails, while the route goes to and fro."""
    fake.chunk_delay = 0.005
    stop, findings, answers = threading.Event(), [], Counter[str]()

    def ask() -> None:
        with httpx.Client(base_url=http.base_url, timeout=30) as client:
            while not stop.is_set():
                reply = client.post(CHAT, json=body("legal", stream=True))
                named = reply.headers.get("x-zephyra-adapter", "")
                answers[named] += 1
                if reply.status_code != 200 or f'"content":"{named}: "' not in reply.text or "error" in reply.text:
                    findings.append((reply.status_code, named, reply.text[:300]))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    publish(http, second)
    for _ in range(8):
        assert http.post("/admin/adapters/legal/rollback", params={"wait": True}).status_code == 200
    stop.set()
    for thread in threads:
        thread.join()
    assert findings == []
    assert len(answers) == 2


def test_engine_killed_during_swaps(http: httpx.Client, fake: FakeEngine, second: Path) -> None:
    """After each death every desired adapter is back, and whoever answered is who the header names."""
    random = Random(0)
    fake.chunk_delay = 0.005
    stop, findings, statuses = threading.Event(), [], Counter[int]()

    def ask() -> None:
        with httpx.Client(base_url=http.base_url, timeout=30) as client:
            while not stop.is_set():
                reply = client.post(CHAT, json=body("legal", stream=True))
                statuses[reply.status_code] += 1
                named = reply.headers.get("x-zephyra-adapter", "none")
                if reply.status_code == 200 and '"content":"legal@' in reply.text and f'"{named}: "' not in reply.text:
                    findings.append((named, reply.text[:300]))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    versions = [adapter(http)["versions"][0]["version"], publish(http, second).json()["version"]]
    for kill in range(20):
        wanted = versions[kill % 2]
        http.put("/admin/adapters/legal/route", json={"weights": {wanted: 100}})
        time.sleep(random.uniform(0, 0.1))
        fake.dead = True
        fake.adapters.clear()
        time.sleep(random.uniform(0, 0.1))
        fake.dead = False
        wait_until(lambda: {name.split("@")[0] for name in fake.adapters} >= {*DOMAINS, "zero"})
        wait_until(lambda wanted=wanted: adapter(http)["route"] == {wanted: 100})  # type: ignore[misc]
        wait_until(lambda: http.get("/ready").status_code == 200)
        wait_until(lambda wanted=wanted: served_by(http.post(CHAT, json=body("legal"))) == f"legal@{wanted}")  # type: ignore[misc]
    stop.set()
    for thread in threads:
        thread.join()
    assert findings == []
    assert set(statuses) <= {200, 502, 503}
    assert statuses[200] > 20


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


def test_an_engine_full_of_adapters_takes_no_more(
    configuration: dict[str, dict[str, Any]], engine_url: str, fake: FakeEngine, second: Path
) -> None:
    configuration["engine"]["max_cpu_loras"] = 9
    with gateway(configuration, engine_url) as http:
        reply = publish(http, second, "tax")
        assert reply.status_code == 409
        assert "8 of at most 9 adapters, one of them kept free" in reply.json()["error"]["message"]
        version = publish(http, second).json()["version"]
        assert served_by(http.post(CHAT, json=body("legal"))) == f"legal@{version}"
        assert len(fake.adapters) <= 9


def test_an_engine_that_has_files_from_a_vanished_directory_loads_them_again(
    http: httpx.Client, fake: FakeEngine
) -> None:
    name = served_by(http.post(CHAT, json=body("legal")))
    right, fake.adapters[name] = fake.adapters[name], "/vanished"
    wait_until(lambda: fake.adapters.get(name) == right)
    assert http.post(CHAT, json=body("legal")).status_code == 200


def test_drift_is_a_metric(http: httpx.Client, fake: FakeEngine) -> None:
    wait_until(lambda: 'adapters_drift{engine="' in http.get("/metrics").text)
    assert "zephyra_adapters_drift" in http.get("/metrics").text
    fake.refuse.add(next(iter(fake.adapters)))
    fake.adapters.clear()
    wait_until(lambda: any(line.startswith("zephyra_adapters_drift") and line.endswith(" 1.0")
                           for line in http.get("/metrics").text.splitlines()))  # fmt: skip


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
