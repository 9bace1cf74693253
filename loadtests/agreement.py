"""How long until a second gateway on the same store serves what was changed at the first.

    python -m loadtests.agreement [--changes 50] [--json FILE]

Two `zephyra serve` with one fake engine. Each change is asked for at the first one; measured is the time from its
answer until the second has the same route: for weights alone, and for whole swaps, in which a version is loaded, proved
and routed to. Ends with status 1 where a change took longer than `--bound` seconds.
"""

import argparse
import contextlib
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from loadtests.processes import fake_engine, gateway
from loadtests.system import BUNDLE, finish, wait_for

SECONDS = 60.0
ADAPTER = "/admin/adapters/changed"


@contextlib.contextmanager
def two_gateways() -> Iterator[tuple[httpx.Client, httpx.Client]]:
    with tempfile.TemporaryDirectory(prefix="zephyra-run-") as directory, fake_engine(1) as engine:
        config = Path(directory) / "zephyra.toml"
        config.write_text(f'[store]\npath = "{directory}/store"\n')
        with gateway(0, engine, "--config", str(config)) as one, gateway(1, engine, "--config", str(config)) as two:
            urls = [f"http://127.0.0.1:{server.port}" for server in (one, two)]
            with httpx.Client(base_url=urls[0], timeout=SECONDS) as first, httpx.Client(base_url=urls[1]) as second:
                yield first, second


def follow(second: httpx.Client, route: dict[str, int]) -> float:
    """Seconds until the second gateway has the route."""
    began = time.perf_counter()
    while second.get(ADAPTER).json().get("route") != route:
        if time.perf_counter() - began > SECONDS:
            raise SystemExit(f"the second gateway never had {route}")
        time.sleep(0.002)
    return time.perf_counter() - began


def change(first: httpx.Client, second: httpx.Client, route: dict[str, int]) -> float:
    reply = first.put(f"{ADAPTER}/route", json={"weights": route}, params={"wait": "true"})
    reply.raise_for_status()
    if reply.json()["route"] != route:
        raise SystemExit(f"the first gateway has not changed: {reply.text}")
    return follow(second, route)


def unloaded(first: httpx.Client, version: str) -> None:
    """Return once the version has left the engine, so that the next swap loads it again."""

    def phase() -> str:
        versions = first.get(ADAPTER).json()["versions"]
        return str(next(each["phase"] for each in versions if each["version"] == version))

    if not wait_for(lambda: phase() == "retired"):
        raise SystemExit(f"{version} was not unloaded: it is {phase()}")


def run(changes: int) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {"weights": [], "swaps": []}
    with two_gateways() as (first, second):
        versions = []
        for source in ("legal", "code"):
            body = {"path": str(BUNDLE / source), "activate": False}
            reply = first.post(f"{ADAPTER}/versions", json=body, params={"wait": "true"})
            reply.raise_for_status()
            versions.append(reply.json()["version"])
        for number in range(changes):
            share = 10 + number % 2
            seconds["weights"].append(change(first, second, {versions[0]: share, versions[1]: 100 - share}))
        for number in range(changes):
            seconds["swaps"].append(change(first, second, {versions[number % 2]: 100}))
            unloaded(first, versions[(number + 1) % 2])
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--changes", type=int, default=50)
    parser.add_argument("--bound", type=float, default=1.0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found: dict[str, Any] = {
        what: {"changes": len(each), "median": round(statistics.median(each), 3), "longest": round(max(each), 3)}
        for what, each in run(options.changes).items()
    }
    passed = all(each["longest"] <= options.bound for each in found.values())
    finish({**found, "passed": passed}, options.json)


if __name__ == "__main__":
    main()
