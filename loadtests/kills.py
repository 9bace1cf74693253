"""Kill vLLM at random moments while one adapter is swapped to and fro under requests.

    python -m loadtests.kills [--kills 20] [--json FILE]

Starts `zephyra serve` with an engine of its own. Before each kill the version that leaves the route has left the engine
too, so that a swap is all of it: load, proof, flip, drain, unload. How long that takes is measured once, and the kills
fall anywhere within; `during` says in which phases the two versions were. After each death every desired version must
be back and the route as wanted last; no answer may be another version's than the one its header names. Requests that
were in flight, or came while no engine was there, may fail. Ends with status 1 otherwise.
"""

import argparse
import random
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx

from loadtests.system import BUNDLE, System, finish, system, wait_for

PROMPTS = ("Who pays?", "What is a lease?", "Count to ten.", "Say it again.")


class Watch:
    """Asks without end, and compares each answer with the same version's alone."""

    def __init__(self, url: str) -> None:
        self.url, self.stop = url, threading.Event()
        self.alone: dict[tuple[str, str], str] = {}
        self.statuses: Counter[int] = Counter()
        self.foreign: list[str] = []
        self.different = 0

    def ask(self, http: httpx.Client, prompt: str) -> tuple[int, str, str]:
        body = {"model": "swapped", "messages": [{"role": "user", "content": prompt}], "temperature": 0}
        try:
            reply = http.post(f"{self.url}/v1/chat/completions", json={**body, "max_tokens": 16})
        except httpx.HTTPError:
            return 0, "", ""
        version = reply.headers.get("x-zephyra-adapter", "").partition("@")[2]
        text = reply.json()["choices"][0]["message"]["content"] if reply.status_code == 200 else ""
        return reply.status_code, version, text

    def run(self, seed: int) -> None:
        choose = random.Random(seed)
        with httpx.Client(timeout=300) as http:
            while not self.stop.is_set():
                prompt = choose.choice(PROMPTS)
                status, version, text = self.ask(http, prompt)
                self.statuses[status] += 1
                if status != 200:
                    time.sleep(0.2)
                elif text != self.alone.get((version, prompt)):
                    others = {
                        value for (name, asked), value in self.alone.items() if asked == prompt and name != version
                    }
                    if text in others or not version:
                        self.foreign.append(f"{version}: {text[:80]}")
                    else:
                        self.different += 1


def admin(http: httpx.Client, method: str, path: str, body: dict[str, Any]) -> Any:
    reply = http.request(method, f"/admin/adapters/swapped{path}", json=body, params={"wait": "true"})
    reply.raise_for_status()
    return reply.json()


def phases(http: httpx.Client) -> dict[str, str]:
    """Version -> its phase now."""
    return {each["version"]: each["phase"] for each in http.get("/admin/adapters/swapped").json()["versions"]}


def swap(http: httpx.Client, wanted: str, other: str) -> float:
    """A whole swap, from the wish to the unload of the other version; its seconds."""
    began = time.monotonic()
    http.put("/admin/adapters/swapped/route", json={"weights": {wanted: 100}}).raise_for_status()
    if not wait_for(lambda: phases(http) == {wanted: "serving", other: "retired"}):
        raise SystemExit(f"the swap did not end: {phases(http)}")
    return time.monotonic() - began


def lacking(http: httpx.Client, wanted: str) -> list[str]:
    """What is not as desired."""
    (engine,) = http.get("/admin/engines").json()
    held = {each["name"] for each in engine["adapters"]}
    found = []
    for adapter in http.get("/admin/adapters").json()["adapters"]:
        name, desired = adapter["name"], adapter["desired"]
        found += [f"{name}@{version} is not on the engine" for version in desired if f"{name}@{version}" not in held]
        if not desired or adapter["route"] != desired:
            found.append(f"{name} is routed to {adapter['route']}, desired is {desired}")
        if name == "swapped" and desired != {wanted: 100}:
            found.append(f"desired is {desired}, wanted was {wanted}")
    return found + ([f"drift is {engine['drift']}"] if engine["drift"] else [])


def kill_once(
    http: httpx.Client, running: System, watch: Watch, wanted: str, other: str, after: float
) -> dict[str, Any]:
    """Ask for the swap, kill the engine `after` seconds, and see what comes back."""
    http.put("/admin/adapters/swapped/route", json={"weights": {wanted: 100}}).raise_for_status()
    time.sleep(after)
    found = phases(http)
    running.engine().kill()
    while running.ready():
        time.sleep(0.02)
    seconds = running.wait_ready()
    wait_for(lambda: not lacking(http, wanted) and phases(http) == {wanted: "serving", other: "retired"})
    missing = lacking(http, wanted)
    for prompt in PROMPTS:
        status, version, text = watch.ask(http, prompt)
        if (status, version) != (200, wanted) or text == watch.alone[other, prompt]:
            missing.append(f"{prompt!r} was answered with {status} by {version}: {text[:80]}")
    return {
        "after_swap_began": round(after, 2),
        "during": {"wanted": found[wanted], "other": found[other]},
        "seconds_to_ready": round(seconds, 1),
        "restored": not missing,
        "missing": missing,
    }


def run(options: argparse.Namespace, running: System) -> dict[str, Any]:
    moments, watch = random.Random(options.seed), Watch(running.url)
    with httpx.Client(base_url=running.url, timeout=900) as http:
        paths = [BUNDLE / name for name in ("legal", "code")]
        versions = [admin(http, "POST", "/versions", {"path": str(path)})["version"] for path in paths]
        for version in versions:
            admin(http, "PUT", "/route", {"weights": {version: 100}})
            for prompt in PROMPTS:
                watch.alone[version, prompt] = watch.ask(http, prompt)[2]
        if any(watch.alone[versions[0], prompt] == watch.alone[versions[1], prompt] for prompt in PROMPTS):
            raise SystemExit(f"not every prompt tells the versions apart: {watch.alone}")
        threads = [threading.Thread(target=watch.run, args=(seed,), daemon=True) for seed in range(options.clients)]
        for thread in threads:
            thread.start()
        length = max(swap(http, versions[0], versions[1]), swap(http, versions[1], versions[0]))
        print(f"a swap under load takes {length:.1f} s", flush=True)
        kills = []
        for kill in range(options.kills):
            wanted, other = versions[kill % 2], versions[(kill + 1) % 2]
            kills.append(kill_once(http, running, watch, wanted, other, moments.uniform(0, length)))
            print(f"kill {kill + 1} of {options.kills}: {kills[-1]}  {dict(watch.statuses)}", flush=True)
        watch.stop.set()
        for thread in threads:
            thread.join(300)
    return {
        "swap_seconds": round(length, 1),
        "kills": kills,
        "statuses": dict(watch.statuses),
        "by_another_version": len(watch.foreign),
        "differ_from_alone": watch.different,
        "passed": all(kill["restored"] for kill in kills) and not watch.foreign and watch.statuses[200] > 0,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with system() as running:
        found = run(options, running)
    finish(found, options.json)


if __name__ == "__main__":
    main()
