"""Whether the gateway stays the same size: clients that come, go, hang and break off, for as long as wanted.

    python loadtests/soak.py [--minutes 15] [--share 0.7] [--json FILE]

Against the fake engine, at a share of the rate of such clients that the gateway can serve: that ceiling is measured
first, by a short run of all kinds but those that hang, as many at a time as keep it busy. Prints memory, descriptors,
open requests and metric series as it goes; ends with status 1 if, after the first third, memory grew by more than
5 MB, or if descriptors, requests or series are left over at the end.
"""

import argparse
import asyncio
import json
import random
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from loadtests.client import Line, chat_request
from loadtests.overhead import machine
from loadtests.processes import Server, fake_engine, gateway

MODELS = ("zephyra-resolve", "zephyra", "legal", "code")
ALLOWED_GROWTH = 5 * 2**20
SAMPLE_SECONDS = 5.0


@dataclass
class Sample:
    seconds: float
    resident: int
    descriptors: int
    requests: int
    series: int


async def whole(port: int, source: random.Random) -> None:
    line = await Line.open(port)
    for _ in range(source.randint(1, 5)):
        await line.call(chat_request(source.choice(MODELS), source.randint(20, 4000)))
    line.close()


async def streamed(port: int, source: random.Random) -> None:
    line = await Line.open(port)
    await line.call(chat_request(source.choice(MODELS), stream=True))
    line.close()


async def breaks_off(port: int, source: random.Random) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(chat_request(source.choice(MODELS), stream=True))
    await reader.read(1)
    await asyncio.sleep(source.random() * 0.1)
    writer.transport.abort()


async def hangs(port: int, source: random.Random) -> None:
    """Sends part of a request and then nothing; leaves after a while."""
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    request = chat_request("legal")
    writer.write(request[: source.randrange(1, len(request))])
    await asyncio.sleep(source.uniform(1, 12))
    writer.close()


async def junk(port: int, source: random.Random) -> None:
    """Unknown models, each another, and bytes that are no HTTP."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    if source.random() < 0.5:
        writer.write(chat_request(f"unknown-{source.getrandbits(64)}"))
    else:
        writer.write(source.randbytes(200) + b"\r\n\r\n")
    await asyncio.wait_for(reader.read(1000), 15)
    writer.close()


BUSY = (whole, whole, whole, streamed, streamed, breaks_off, junk)
BEHAVIOURS = (*BUSY, hangs)
CEILING_SECONDS = 10.0
AT_A_TIME = 32


async def look(server: Server, since: float) -> Sample:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
    text = (await reader.read()).decode()
    writer.close()
    lines = text.splitlines()
    series = [line for line in lines if line.startswith("zephyra_")]
    running = next(float(line.split()[1]) for line in lines if line.startswith("zephyra_requests_in_flight "))
    process = server.process
    return Sample(round(time.monotonic() - since, 1), server.resident(), process.num_fds(), int(running), len(series))


async def ceiling(server: Server) -> float:
    """Clients a second that the gateway serves when it is never idle."""
    source = random.Random(3)
    served = 0
    began = time.monotonic()

    async def one_after_another() -> None:
        nonlocal served
        while time.monotonic() - began < CEILING_SECONDS:
            await source.choice(BUSY)(server.port, source)
            served += 1

    await asyncio.gather(*(one_after_another() for _ in range(AT_A_TIME)))
    return served / (time.monotonic() - began)


async def soak(server: Server, seconds: float, rate: float) -> tuple[list[Sample], int]:
    """Samples over the time, the last with all clients gone; and how many clients failed unexpectedly."""
    source = random.Random(7)
    tasks: set[asyncio.Task[None]] = set()
    failed = 0

    def ended(task: asyncio.Task[None]) -> None:
        nonlocal failed
        tasks.discard(task)
        failed += task.exception() is not None

    began = time.monotonic()
    samples = [await look(server, began)]
    while (now := time.monotonic() - began) < seconds:
        task = asyncio.create_task(source.choice(BEHAVIOURS)(server.port, source))
        tasks.add(task)
        task.add_done_callback(ended)
        if now > samples[-1].seconds + SAMPLE_SECONDS:
            samples.append(await look(server, began))
            show(samples[-1])
        await asyncio.sleep(source.expovariate(rate))
    await asyncio.gather(*tasks, return_exceptions=True)
    # Idle connections and half requests are given up within the gateway's own limits.
    await asyncio.sleep(12)
    samples.append(await look(server, began))
    show(samples[-1])
    return samples, failed


def show(sample: Sample) -> None:
    size = f"{sample.resident / 2**20:8.1f} MB {sample.descriptors:5d} descriptors"
    print(f"{sample.seconds:7.0f} s {size} {sample.requests:4d} requests {sample.series:5d} series", flush=True)


def judge(samples: list[Sample]) -> list[str]:
    """What is wrong; empty where all is well."""
    third = samples[len(samples) // 3]
    first, last = samples[0], samples[-1]
    findings = []
    if last.resident - third.resident > ALLOWED_GROWTH:
        findings.append(f"memory grew by {(last.resident - third.resident) / 2**20:.1f} MB after the first third")
    if last.descriptors > first.descriptors + 8:
        findings.append(f"{last.descriptors - first.descriptors} descriptors are left over")
    if last.requests:
        findings.append(f"{last.requests} requests are left over")
    if last.series > third.series + 100:
        findings.append(f"metrics grew by {last.series - third.series} series")
    return findings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--share", type=float, default=0.7, help="of the ceiling")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with fake_engine(1, "--chunk-delay", "0.01") as engine, gateway(0, engine) as server:
        rate = options.share * asyncio.run(ceiling(server))
        print(f"{rate:.0f} clients a second, {options.share:.0%} of the ceiling", flush=True)
        samples, failed = asyncio.run(soak(server, options.minutes * 60, rate))
    findings = judge(samples)
    if failed:
        findings.append(f"{failed} clients failed")
    print("\n".join(findings) or "memory, descriptors, requests and series are as they were")
    if options.json:
        options.json.write_text(
            json.dumps(
                {
                    "machine": machine(),
                    "clients_per_second": round(rate, 1),
                    "share_of_ceiling": options.share,
                    "failed": failed,
                    "findings": findings,
                    "samples": [asdict(sample) for sample in samples],
                },
                indent=1,
            )
            + "\n"
        )
    raise SystemExit(bool(findings))


if __name__ == "__main__":
    main()
