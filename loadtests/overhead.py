"""What the gateway adds: paired calls straight to a fake engine and through the gateway, nginx and LiteLLM's proxy.

    python loadtests/overhead.py [--json FILE] [--quick] [--litellm PROGRAM]

Calls of all kinds alternate within one run, so that whatever else the machine does falls on all of them alike. Each
proxy runs on one core, the engine and the load on another. `rps_per_core` is requests per second of the proxy's own
CPU time, which neither other programs nor the load generator's limits can distort; `rps_measured` is what came out.
LiteLLM's proxy is measured where its program is found, in an environment of its own best: `uv venv DIR`, then
`uv pip install --python DIR/bin/python 'litellm[proxy]'`, then `--litellm DIR/bin/litellm`.
"""

import argparse
import asyncio
import json
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from loadtests.client import Connection, Line, Result, chat_request
from loadtests.processes import ROOT, Server, fake_engine, gateway, litellm, nginx

BARS = {
    "added_p50_ms": 0.5,
    "rps_per_core": 2500,
    "added_ttft_p50_ms": 1.0,
    "cpu_us_per_chunk": 45,
    "added_p99_ms": 5.0,
    "long_prompt_added_p50_ms": 1.5,
    "stream_kilobytes": 60,
}
MODEL = "zephyra-resolve"
ENGINE_MODEL = "base"


def percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def milliseconds(seconds: float) -> float:
    return round(seconds * 1e3, 4)


def paired(servers: dict[str, Server], characters: int, rounds: int) -> dict[str, list[float]]:
    """Latencies of each server, one connection, one call at a time, in turn."""
    requests = {name: chat_request(ENGINE_MODEL if name != "gateway" else MODEL, characters) for name in servers}
    lines = {name: Connection(server.port) for name, server in servers.items()}
    times: dict[str, list[float]] = {name: [] for name in servers}
    for index in range(rounds + rounds // 10):
        for name, line in lines.items():
            seconds = line.call(requests[name])
            if index >= rounds // 10:
                times[name].append(seconds)
    for line in lines.values():
        line.close()
    return times


def added(times: dict[str, list[float]], name: str) -> float | None:
    """The median of what a server adds to the straight call just beside it, in milliseconds."""
    if name not in times:
        return None
    pairs = zip(times[name], times["direct"], strict=True)
    return milliseconds(statistics.median(through - straight for through, straight in pairs))


async def closed_loop(server: Server, request: bytes, connections: int, seconds: float) -> tuple[float, float]:
    """Requests per second, and per second of the server's CPU, with so many connections always busy."""
    lines = [await Line.open(server.port) for _ in range(connections)]
    stop = time.perf_counter() + seconds
    done = 0

    async def work(line: Line) -> None:
        nonlocal done
        while time.perf_counter() < stop:
            await line.call(request)
            done += 1

    began, cpu = time.perf_counter(), server.cpu_seconds()
    await asyncio.gather(*map(work, lines))
    elapsed, used = time.perf_counter() - began, server.cpu_seconds() - cpu
    for line in lines:
        line.close()
    return done / elapsed, done / used


async def open_loop(servers: dict[str, Server], rate: float, seconds: float) -> dict[str, list[float]]:
    """Latencies from when a call was due: Poisson arrivals, `rate` a second through the gateway, a tenth straight."""
    requests = {"direct": chat_request(ENGINE_MODEL), "gateway": chat_request(MODEL)}
    idle: dict[str, list[Line]] = {name: [await Line.open(servers[name].port) for _ in range(64)] for name in requests}
    times: dict[str, list[float]] = {name: [] for name in requests}
    source = random.Random(1)
    tasks: set[asyncio.Task[None]] = set()

    async def one(name: str, due: float) -> None:
        idle[name] = [line for line in idle[name] if line.alive]
        line = idle[name].pop() if idle[name] else await Line.open(servers[name].port)
        await line.call(requests[name])
        times[name].append(time.perf_counter() - due)
        idle[name].append(line)

    due = began = time.perf_counter()
    while due < began + seconds:
        if (wait := due - time.perf_counter()) > 0:
            await asyncio.sleep(wait)
        name = "direct" if source.random() < 0.1 / 1.1 else "gateway"
        task = asyncio.create_task(one(name, due))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        due += source.expovariate(rate * 1.1)
    await asyncio.gather(*tasks)
    for line in (line for lines in idle.values() for line in lines):
        line.close()
    return times


async def streams(servers: dict[str, Server], count: int, rounds: int) -> dict[str, list[Result]]:
    """`count` streams at a time, half of them straight and half through each other server, in turn."""
    results: dict[str, list[Result]] = {name: [] for name in servers}
    names = list(servers)
    requests = {n: chat_request(MODEL if n == "gateway" else ENGINE_MODEL, stream=True) for n in names}

    async def work(index: int) -> None:
        lines = {name: await Line.open(servers[name].port) for name in names}
        await asyncio.sleep(index * 0.004)
        for turn in range(rounds):
            name = names[(index + turn) % len(names)]
            results[name].append(await lines[name].call(requests[name]))
        for line in lines.values():
            line.close()

    await asyncio.gather(*(work(index) for index in range(count)))
    return results


async def chunk_cost(server: Server, model: str, count: int) -> float:
    """Microseconds of the server's CPU for each relayed event, over `count` streams at a time."""
    lines = [await Line.open(server.port) for _ in range(count)]
    request = chat_request(model, stream=True)
    await lines[0].call(request)
    cpu = server.cpu_seconds()
    results = await asyncio.gather(*(line.call(request) for line in lines))
    used = server.cpu_seconds() - cpu
    for line in lines:
        line.close()
    return used / sum(result.events for result in results) * 1e6


async def stream_memory(server: Server, count: int) -> float:
    """Kilobytes that each open stream adds to the server's memory."""
    warm = [await Line.open(server.port) for _ in range(20)]
    request = chat_request(MODEL, stream=True)
    await asyncio.gather(*(line.call(request) for line in warm))
    before = server.resident()
    lines = [await Line.open(server.port) for _ in range(count)]
    calls = [line.call(request) for line in lines]
    await asyncio.sleep(1.0)
    grown = server.resident() - before
    await asyncio.gather(*calls)
    for line in (*warm, *lines):
        line.close()
    return grown / count / 1024


def measure(quick: bool, litellm_program: str | None) -> dict[str, Any]:
    """All figures. Cores 0 and 1: proxies on the first, engine and load on the second."""
    proxies, load = 0, min(1, (os.cpu_count() or 1) - 1)
    os.sched_setaffinity(0, {load})
    rounds, seconds = (300, 2.0) if quick else (2000, 8.0)
    figures: dict[str, Any] = {}
    with (
        tempfile.TemporaryDirectory(prefix="zephyra-overhead-") as directory,
        fake_engine(load) as engine,
        fake_engine(load, "--words", "100", "--chunk-delay", "0.03") as slow,
        nginx(proxies, engine, Path(directory)) as reference,
        litellm(proxies, engine, Path(directory) / "litellm", litellm_program) as other,
    ):
        servers = {"direct": engine}
        if reference:
            servers["nginx"] = reference
        with gateway(proxies, engine) as through:
            servers["gateway"] = through
            note("one connection, 250 characters")
            times = paired(servers, 250, rounds)
            figures["added_p50_ms"] = added(times, "gateway")
            figures["nginx_added_p50_ms"] = added(times, "nginx")
            figures["litellm_added_p50_ms"] = None
            figures["litellm_rps_per_core"] = None
            if other:
                note("LiteLLM, one connection, then 32")
                pair = {"direct": engine, "litellm": other}
                figures["litellm_added_p50_ms"] = added(paired(pair, 250, rounds // 10), "litellm")
                _, per_core = asyncio.run(closed_loop(other, chat_request(ENGINE_MODEL), 32, seconds))
                figures["litellm_rps_per_core"] = round(per_core)
            figures["direct_p50_ms"] = milliseconds(statistics.median(times["direct"]))
            note("one connection, 64,000 characters")
            figures["long_prompt_added_p50_ms"] = added(paired(servers, 64_000, rounds // 2), "gateway")
            note("32 connections, closed loop")
            rps, per_core = asyncio.run(closed_loop(through, chat_request(MODEL), 32, seconds))
            figures |= {"rps_measured": round(rps), "rps_per_core": round(per_core)}
            if reference:
                _, per_core = asyncio.run(closed_loop(reference, chat_request(ENGINE_MODEL), 32, seconds / 2))
                figures["nginx_rps_per_core"] = round(per_core)
            note("open loop at 60 % of the ceiling")
            late = asyncio.run(open_loop({"direct": engine, "gateway": through}, 0.6 * rps, seconds))
            tails = {name: percentile(values, 0.99) for name, values in late.items()}
            figures["added_p99_ms"] = milliseconds(tails["gateway"] - tails["direct"])
            figures |= {f"{name}_open_p99_ms": milliseconds(value) for name, value in tails.items()}
        with gateway(proxies, slow) as through, nginx(proxies, slow, Path(directory) / "slow") as reference:
            note("64 streams")
            pair = {"direct": slow, "gateway": through}
            firsts = asyncio.run(streams(pair, 64, 2 if quick else 8))
            medians = {name: statistics.median(result.first for result in found) for name, found in firsts.items()}
            figures["added_ttft_p50_ms"] = milliseconds(medians["gateway"] - medians["direct"])
            figures["cpu_us_per_chunk"] = round(asyncio.run(chunk_cost(through, MODEL, 64)), 1)
            if reference:
                figures["nginx_cpu_us_per_chunk"] = round(asyncio.run(chunk_cost(reference, ENGINE_MODEL, 64)), 1)
            figures["stream_kilobytes"] = round(asyncio.run(stream_memory(through, 300)), 1)
    return figures


def note(text: str) -> None:
    print(f"overhead: {text}", file=sys.stderr, flush=True)


def machine() -> dict[str, Any]:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    model = next((li for li in Path("/proc/cpuinfo").read_text().splitlines() if li.startswith("model name")), ":")
    return {
        "commit": commit.stdout.strip(),
        "cpu": model.split(":", 1)[1].strip(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
    }


def table(figures: dict[str, Any]) -> str:
    lines = [f"{'figure':28} {'measured':>10} {'bar':>8}"]
    for name, value in figures.items():
        bar = BARS.get(name)
        lines.append(f"{name:28} {'-' if value is None else value:>10} {bar if bar is not None else '':>8}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--litellm", default=shutil.which("litellm"), help="LiteLLM's program")
    options = parser.parse_args()
    figures = measure(options.quick, options.litellm)
    print(table(figures))
    if options.json:
        options.json.write_text(json.dumps({**figures, "machine": machine()}, indent=2) + "\n")


if __name__ == "__main__":
    main()
