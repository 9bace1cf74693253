"""Load and unload adapters on vLLM, over and over, and watch the memory of engine and gateway.

    python -m loadtests.churn [--cycles 500] [--json FILE]

Starts `zephyra serve` with an engine of its own. Each cycle publishes an adapter, asks it once, removes it, and waits
until it is gone from the engine and the store. Ends with status 1 where engine or gateway grew by more than
`--allowed` MiB after the first fifth.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import httpx

from loadtests.system import BUNDLE, System, finish, system, wait_for

SOURCES = ("legal", "code", "sql", "math")
GONE_SECONDS = 120.0


def cycle(http: httpx.Client, source: str) -> None:
    """One adapter comes, answers and goes. Ends the program where it does not."""
    path = "/admin/adapters/passing"
    reply = http.post(f"{path}/versions", json={"path": str(BUNDLE / source)}, params={"wait": "true"})
    if reply.status_code != 200:
        raise SystemExit(f"not published: {reply.text}")
    body = {"model": "passing", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}
    if (reply := http.post("/v1/chat/completions", json=body)).status_code != 200:
        raise SystemExit(f"not answered: {reply.text}")
    http.delete(path).raise_for_status()
    if not wait_for(lambda: http.get(path).status_code == 404, GONE_SECONDS):
        raise SystemExit("the adapter was not removed")


def run(options: argparse.Namespace, running: System) -> dict[str, Any]:
    samples = []
    began = time.monotonic()
    with httpx.Client(base_url=running.url, timeout=300) as http:
        for number in range(options.cycles + 1):
            if number % max(1, options.cycles // 20) == 0:
                samples.append({"cycles": number, **running.memory()})
                print(samples[-1], flush=True)
            if number < options.cycles:
                cycle(http, SOURCES[number % len(SOURCES)])
    settled = samples[len(samples) // 5 :]
    growth = {who: round(settled[-1][who] - settled[0][who], 1) for who in ("gateway", "engine")}
    passed = all(value <= options.allowed for value in growth.values())
    return {
        "cycles": options.cycles,
        "seconds_a_cycle": round((time.monotonic() - began) / options.cycles, 2),
        "resident_mib": samples,
        "growth_after_first_fifth": growth,
        "passed": passed,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cycles", type=int, default=500)
    parser.add_argument("--allowed", type=float, default=32.0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with system() as running:
        found = run(options, running)
    finish(found, options.json)


if __name__ == "__main__":
    main()
