"""Kill vLLM at random moments while one adapter is swapped to and fro under requests.

    python -m loadtests.kills [--kills 20] [--json FILE]

Starts `zephyra serve` with an engine of its own. After each death every desired adapter must be back, and the route as
wanted last; no answer may be another version's than the one its header names. Requests that were in flight, or came
while no engine was there, may fail. Ends with status 1 otherwise.
"""

import argparse
import random
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx

from loadtests.system import BUNDLE, System, finish, system

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


def run(options: argparse.Namespace, running: System) -> dict[str, Any]:
    moments, watch = random.Random(options.seed), Watch(running.url)
    with httpx.Client(base_url=running.url, timeout=900) as http:
        paths = [BUNDLE / name for name in ("legal", "code")]
        versions = [admin(http, "POST", "/versions", {"path": str(path)})["version"] for path in paths]
        for version in versions:
            admin(http, "PUT", "/route", {"weights": {version: 100}})
            for prompt in PROMPTS:
                watch.alone[version, prompt] = watch.ask(http, prompt)[2]
        threads = [threading.Thread(target=watch.run, args=(seed,), daemon=True) for seed in range(options.clients)]
        for thread in threads:
            thread.start()
        kills = []
        for kill in range(options.kills):
            wanted = versions[kill % 2]
            http.put("/admin/adapters/swapped/route", json={"weights": {wanted: 100}})
            time.sleep(moments.uniform(0, 1.0))
            running.engine().kill()
            while running.ready():
                time.sleep(0.02)
            seconds = running.wait_ready()
            found = http.get("/admin/engines").json()[0]
            held = {each["name"].partition("@")[0] for each in found["adapters"]}
            desired = {each["name"] for each in http.get("/admin/adapters").json()["adapters"]}
            status, version, _ = watch.ask(http, PROMPTS[0])
            good = desired <= held and found["drift"] == 0 and (status, version) == (200, wanted)
            kills.append({"seconds": round(seconds, 1), "restored": good})
            print(f"kill {kill + 1} of {options.kills}: {kills[-1]}  {dict(watch.statuses)}", flush=True)
        watch.stop.set()
        for thread in threads:
            thread.join(300)
    return {
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
