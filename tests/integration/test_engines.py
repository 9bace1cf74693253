"""Several engines, lost ones, full ones: what is desired comes back on each."""

import threading
import time
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import httpx

from tests.fake_engine import FakeEngine, Served
from tests.integration.administration import adapter, gateway, publish, wait_ready, wait_routed
from tests.integration.conftest import DOMAINS
from tests.integration.test_chat import CHAT, body, served_by
from tests.waiting import wait_until


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


def wait_served(http: httpx.Client, version: str) -> None:
    """Return once this version of `legal` answers."""
    wait_until(lambda: served_by(http.post(CHAT, json=body("legal"))) == version)


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
        wait_routed(http, {wanted: 100})
        wait_ready(http)
        wait_served(http, f"legal@{wanted}")
    stop.set()
    for thread in threads:
        thread.join()
    assert findings == []
    assert set(statuses) <= {200, 502, 503}
    assert statuses[200] > 20


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
