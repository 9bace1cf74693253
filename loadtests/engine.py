"""The gateway's share of what a client waits for, with the real vLLM: TinyAda on against bypassed.

    python loadtests/engine.py --url http://127.0.0.1:8000 [--rounds 40] [--json FILE]

Streams one request at a time through a running `zephyra serve`, alternately by TinyAda's choice and past it, both to
the base (a prompt that TinyAda leaves there), so that the engine does the same work in both arms. The share is the
gateway's own time by `Server-Timing` (all but the engine) over what the client saw, which no noise of the engine blurs;
the difference between the arms' medians is shown beside it.
"""

import argparse
import json
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from loadtests.client import CHAT
from loadtests.overhead import machine

BAR = 0.01
PROMPT = "Tell me a short story about a fox who learns to paint."
ARMS: dict[str, dict[str, str]] = {"on": {}, "bypass": {"x-zephyra-bypass": "1"}}


@dataclass(frozen=True, slots=True)
class Answer:
    """Milliseconds of one streamed answer: to its first event, to its end; in the gateway; of that, to decide."""

    first: float
    whole: float
    gateway: float
    route: float


def ask(http: httpx.Client, headers: dict[str, str], tokens: int) -> Answer:
    body = {"model": "zephyra-resolve", "stream": True, "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
    began = time.perf_counter()
    with http.stream(
        "POST", CHAT, headers=headers, json={**body, "messages": [{"role": "user", "content": PROMPT}]}
    ) as reply:
        if reply.status_code != 200 or reply.headers["x-zephyra-adapter"] != "zephyra":
            raise SystemExit(f"not answered by the base: {reply.status_code} {reply.headers}")
        chunks = reply.iter_raw()
        next(chunks)
        first = time.perf_counter() - began
        for _ in chunks:
            pass
    stages = dict(part.split(";dur=") for part in reply.headers["server-timing"].split(", "))
    whole = time.perf_counter() - began
    return Answer(first * 1e3, whole * 1e3, float(stages["gateway"]), float(stages["route"]))


def measure(http: httpx.Client, rounds: int, tokens: int) -> dict[str, Any]:
    """Medians of both arms and the gateway's shares."""
    found: dict[str, list[Answer]] = {arm: [] for arm in ARMS}
    for index in range(rounds + 2):
        for arm, headers in ARMS.items():
            answer = ask(http, headers, tokens)
            if index >= 2:
                found[arm].append(answer)
    on, bypass = found["on"], found["bypass"]
    return {
        "ttft_on_ms": median(answer.first for answer in on),
        "ttft_bypass_ms": median(answer.first for answer in bypass),
        "e2e_on_ms": median(answer.whole for answer in on),
        "e2e_bypass_ms": median(answer.whole for answer in bypass),
        "gateway_ms": median(answer.gateway for answer in on),
        "tinyada_ms": median(answer.route for answer in on),
        "gateway_share_of_ttft": median(answer.gateway / answer.first for answer in on),
        "gateway_share_of_e2e": median(answer.gateway / answer.whole for answer in on),
        "tinyada_share_of_ttft": median(answer.route / answer.first for answer in on),
    }


def median(values: Any) -> float:
    return round(float(statistics.median(values)), 5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--tokens", type=int, default=32, help="in an answer")
    parser.add_argument("--key", help="an API key that may bypass")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    access = {"authorization": f"Bearer {options.key}"} if options.key else {}
    with httpx.Client(base_url=options.url, headers=access, timeout=120) as http:
        figures = measure(http, options.rounds, options.tokens)
    for name, value in figures.items():
        print(f"{name:24} {value}")
    if options.json:
        options.json.write_text(json.dumps({**figures, "machine": machine()}, indent=2) + "\n")
    over = [name for name in ("gateway_share_of_ttft", "gateway_share_of_e2e") if figures[name] > BAR]
    raise SystemExit(f"over {BAR:.0%}: {', '.join(over)}" if over else 0)


if __name__ == "__main__":
    main()
