"""Limits: the bucket refills, the gate is bounded, first come first served, and loses no place."""

import asyncio
import time

import pytest

from server.errors import DeadlinePassed, Overloaded
from server.limits import Bucket, Gate


def test_bucket_says_how_long_to_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    bucket = Bucket(60)
    for _ in range(60):
        assert bucket.wait(1) == 0
        bucket.spend(1)
    assert bucket.wait(1) == pytest.approx(1)
    now[0] += 1
    assert bucket.wait(1) == pytest.approx(0)
    bucket.spend(121)
    assert bucket.wait(1) == pytest.approx(121)
    now[0] += 1000
    assert bucket.wait(60) == 0
    assert bucket.wait(61) == 0


async def test_gate_is_first_come_first_served() -> None:
    gate = Gate(1, 2, 5.0)
    order: list[int] = []

    async def work(number: int) -> None:
        await gate.enter()
        order.append(number)
        await asyncio.sleep(0)
        gate.leave(0.01)

    await asyncio.gather(*(work(number) for number in range(3)))
    assert order == [0, 1, 2]
    assert (gate.running, gate.waiting) == (0, 0)


async def test_gate_refuses_beyond_its_queue() -> None:
    gate = Gate(1, 1, 5.0)
    await gate.enter()
    second = asyncio.ensure_future(gate.enter())
    await asyncio.sleep(0)
    with pytest.raises(Overloaded) as refused:
        await gate.enter()
    assert refused.value.retry_after == 1
    gate.leave(0.1)
    await second
    gate.leave(0.1)
    assert gate.running == 0


async def test_gate_refuses_early_where_the_wait_would_be_too_long() -> None:
    gate = Gate(1, 100, 5.0, mean=30.0)
    await gate.enter()
    with pytest.raises(Overloaded) as refused:
        await gate.enter()
    assert refused.value.retry_after == 30


async def test_gate_gives_up_after_its_longest_wait() -> None:
    gate = Gate(1, 1, 0.02)
    await gate.enter()
    with pytest.raises(Overloaded):
        await gate.enter()
    assert gate.waiting == 0
    gate.leave(0.1)
    await gate.enter()
    assert gate.running == 1


async def test_a_deadline_is_kept() -> None:
    gate = Gate(1, 1, 5.0)
    with pytest.raises(DeadlinePassed):
        await gate.enter(time.time() - 1)
    await gate.enter(time.time() + 60)
    with pytest.raises(DeadlinePassed):
        await gate.enter(time.time() + 0.02)
    assert gate.waiting == 0


@pytest.mark.parametrize("after_turn", [False, True])
async def test_a_waiter_that_leaves_loses_no_place(after_turn: bool) -> None:
    gate = Gate(1, 2, 5.0)
    await gate.enter()
    waiter = asyncio.ensure_future(gate.enter())
    await asyncio.sleep(0)
    if after_turn:
        gate.leave(0.01)
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    if not after_turn:
        gate.leave(0.01)
    assert (gate.running, gate.waiting) == (0, 0)
