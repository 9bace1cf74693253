"""Adapters published, routed, rolled back and removed through /admin, in front of the fake engine."""

import json
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import httpx

from tests.fake_engine import FakeEngine
from tests.integration.administration import adapter, phase, publish
from tests.integration.test_chat import CHAT, body, served_by
from tests.waiting import wait_until


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


def test_engines_and_router(http: httpx.Client, fake: FakeEngine) -> None:
    (engine,) = http.get("/admin/engines").json()
    assert (engine["up"], engine["ready"], engine["drift"]) == (True, True, 0)
    assert {loaded["name"] for loaded in engine["adapters"]} == set(fake.adapters)
    domains = {each["domain"]: each["adapter"] for each in http.get("/admin/router").json()["domains"]}
    assert domains["legal"] == "legal"
    assert domains["general"] is None


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
