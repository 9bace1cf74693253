"""Swap one adapter between two versions while streams run, and check every answer against its version's own.

Against a running gateway (its directories must lie below `store.sources`, if that is set):

    python -m loadtests.swaps --url http://127.0.0.1:8000 --adapter legal --first A --second B --swaps 200 \
        --watch GATEWAY_PID --watch ENGINE_PID --out swaps.json

First each version answers the prompts alone; then the streams run without swaps, as a control (bf16 answers may depend
on what else is in a batch); then with swaps. An answer counts as wrong when it differs from that of the version its
header names. `--watch` records the memory of processes, children included. The exit status is 1 when a request failed
or was answered by another version than it says, or when more answers differ than in the control. With `--drained` each
swap is a load and an unload on every engine; without it, swaps follow each other as fast as the route can change.
"""

import argparse
import asyncio
import json
import random
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import psutil

PROMPTS = [
    "Does a verbal agreement count as a contract?",
    "My landlord kept the deposit. What can I do?",
    "What is a power of attorney?",
    "Explain a non-compete clause in two sentences.",
    "Can I cancel an order that was already sent?",
    "Who inherits where there is no will?",
    # Longer than a block of vLLM's prefix cache on CPU (128 tokens).
    "A tenant writes: " + "the heating failed again in the winter and nobody came, " * 30 + "what are my rights?",
]


@dataclass
class Tally:
    """What happened to the requests of one phase."""

    answered: int = 0
    failed: list[str] = field(default_factory=list)
    # Another version's exact answer under this version's name.
    foreign: int = 0
    # Neither its own version's answer alone nor the other's.
    different: int = 0
    versions: Counter[str] = field(default_factory=Counter)


class Swaps:
    """One run against a gateway."""

    def __init__(self, options: argparse.Namespace, session: aiohttp.ClientSession) -> None:
        self.options = options
        self.session = session
        self.alone: dict[tuple[str, str], str] = {}
        self.running = True

    async def admin(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        headers = {"authorization": f"Bearer {self.options.key}"} if self.options.key else {}
        url = f"{self.options.url}/admin/adapters/{self.options.adapter}{path}"
        async with self.session.request(method, url, json=body, headers=headers, params={"wait": "true"}) as reply:
            answer = await reply.json()
            if reply.status >= 400:
                raise SystemExit(f"{method} {path}: {answer['error']['message']}")
            return answer

    async def stream(self, model: str, prompt: str) -> tuple[int, str, str]:
        """Status, the version that the header names, and the text."""
        body = {
            "model": model,
            "messages": [{"role": "user", "content": prompt}],
            "stream": True,
            "temperature": 0,
            "max_tokens": self.options.tokens,
        }
        text, ended = [], False
        async with self.session.post(f"{self.options.url}/v1/chat/completions", json=body) as reply:
            version = reply.headers.get("x-zephyra-adapter", "").partition("@")[2]
            if reply.status != 200:
                return reply.status, version, (await reply.text())[:200]
            async for line in reply.content:
                if line.startswith(b"data: {"):
                    event = json.loads(line[6:])
                    if "error" in event:
                        return 502, version, str(event["error"]["message"])
                    text.append(event["choices"][0]["delta"].get("content") or "" if event["choices"] else "")
                ended = ended or line.startswith(b"data: [DONE]")
        return (200 if ended else 0), version, "".join(text)

    async def record_alone(self, versions: list[str]) -> None:
        """Each version's own answers, nothing else running."""
        for version in versions:
            await self.admin("PUT", "/route", {"weights": {version: 100}})
            for prompt in PROMPTS:
                status, named, text = await self.stream(self.options.adapter, prompt)
                if status != 200 or named != version:
                    raise SystemExit(f"{version} alone: {status}, served by {named}: {text}")
                self.alone[version, prompt] = text

    async def ask(self, tally: Tally, seed: int) -> None:
        choose = random.Random(seed)
        while self.running:
            prompt = choose.choice(PROMPTS)
            status, version, text = await self.stream(self.options.adapter, prompt)
            if status != 200:
                tally.failed.append(f"{status}: {text}")
                continue
            tally.answered += 1
            tally.versions[version] += 1
            if text != self.alone.get((version, prompt)):
                others = [self.alone[key] for key in self.alone if key[1] == prompt and key[0] != version]
                if text in others:
                    tally.foreign += 1
                else:
                    tally.different += 1

    async def retired(self, version: str) -> None:
        """Return once no engine has the version any more."""
        while True:
            found = (await self.admin("GET", ""))["versions"]
            if all(each["phase"] == "retired" for each in found if each["version"] == version):
                return
            await asyncio.sleep(0.02)

    async def phase(self, work: Any) -> Tally:
        """Streams run while `work` is awaited."""
        tally, self.running = Tally(), True
        tasks = [asyncio.create_task(self.ask(tally, seed)) for seed in range(self.options.streams)]
        await work
        self.running = False
        await asyncio.gather(*tasks)
        return tally

    async def swap(self, versions: list[str], seconds: list[float], memory: list[dict[str, float]]) -> None:
        for number in range(self.options.swaps):
            if number % max(1, self.options.swaps // 10) == 0:
                memory.append(resident(self.options.watch))
                print(f"swap {number} of {self.options.swaps}  {memory[-1] or ''}", flush=True)
            began = time.perf_counter()
            await self.admin("PUT", "/route", {"weights": {versions[number % 2]: 100}})
            seconds.append(time.perf_counter() - began)
            if self.options.drained:
                await self.retired(versions[(number + 1) % 2])
            if time.perf_counter() > self.options.deadline:
                print(f"stopped after {number + 1} swaps: --seconds is over", flush=True)
                break
        memory.append(resident(self.options.watch))


def resident(pids: list[int]) -> dict[str, float]:
    """MiB resident, by process id, each with its children."""
    found = {}
    for pid in pids:
        processes = [psutil.Process(pid)]
        if len(pids) == 1 or pid != pids[0]:
            processes += processes[0].children(recursive=True)
        found[str(pid)] = round(sum(process.memory_info().rss for process in processes) / 2**20, 1)
    return found


async def run(options: argparse.Namespace) -> int:
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session:
        swaps = Swaps(options, session)
        versions = []
        for path in (options.first, options.second):
            body = {"path": str(path.resolve()), "activate": False}
            versions.append((await swaps.admin("POST", "/versions", body))["version"])
        await swaps.record_alone(versions)
        same = sum(swaps.alone[versions[0], prompt] == swaps.alone[versions[1], prompt] for prompt in PROMPTS)
        print(f"versions {versions}: {len(PROMPTS) - same} of {len(PROMPTS)} prompts tell them apart", flush=True)
        control = await swaps.phase(asyncio.sleep(options.control))
        options.deadline = time.perf_counter() + options.seconds
        seconds: list[float] = []
        memory: list[dict[str, float]] = []
        swapped = await swaps.phase(swaps.swap(versions, seconds, memory))
    return report(options, versions, control, swapped, seconds, memory)


def report(
    options: argparse.Namespace,
    versions: list[str],
    control: Tally,
    swapped: Tally,
    seconds: list[float],
    memory: list[dict[str, float]],
) -> int:
    ordered = sorted(seconds)
    print(f"\n{'':22}{'control':>10}{'swapping':>10}")
    for label, of in (
        ("answered", lambda tally: tally.answered),
        ("failed", lambda tally: len(tally.failed)),
        ("by another version", lambda tally: tally.foreign),
        ("differ from alone", lambda tally: tally.different),
    ):
        print(f"{label:22}{of(control):>10}{of(swapped):>10}")
    print(f"swaps {len(seconds)}, median {ordered[len(ordered) // 2]:.2f} s, longest {ordered[-1]:.2f} s")
    results = {
        "streams": options.streams,
        "swaps": len(seconds),
        "drained": options.drained,
        "versions": versions,
        "swap_seconds": {"median": ordered[len(ordered) // 2], "longest": ordered[-1]},
        "resident_mib": memory,
        "machine": {"cores": psutil.cpu_count(), "load": psutil.getloadavg()},
    }
    for name, tally in (("control", control), ("swapping", swapped)):
        results[name] = {
            "answered": tally.answered,
            "failed": len(tally.failed),
            "failures": tally.failed[:5],
            "by_another_version": tally.foreign,
            "differ_from_alone": tally.different,
            "by_version": dict(tally.versions),
        }
    if options.out:
        options.out.write_text(json.dumps(results, indent=2) + "\n")
    share = swapped.different / max(1, swapped.answered)
    control_share = control.different / max(1, control.answered)
    good = not swapped.failed and not swapped.foreign and swapped.answered and share <= control_share + 0.01
    print("passed" if good else "FAILED", flush=True)
    return 0 if good else 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--key", help="of /admin")
    parser.add_argument("--adapter", default="legal")
    parser.add_argument("--first", type=Path, required=True, help="directory of one version")
    parser.add_argument("--second", type=Path, required=True, help="directory of the other")
    parser.add_argument("--swaps", type=int, default=200)
    parser.add_argument("--drained", action="store_true", help="wait after each swap until the old version is unloaded")
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--control", type=float, default=10.0, help="seconds of streams without swaps")
    parser.add_argument("--seconds", type=float, default=1800.0, help="stop swapping after so many")
    parser.add_argument("--watch", type=int, action="append", default=[], help="a process whose memory is recorded")
    parser.add_argument("--out", type=Path)
    sys.exit(asyncio.run(run(parser.parse_args())))


if __name__ == "__main__":
    main()
