"""Limits: token buckets for a key's minute, and a bounded queue in front of each engine."""

import asyncio
import time
from collections import deque
from dataclasses import dataclass, field

from server.errors import DeadlinePassed, Overloaded

LONGEST_RETRY = 60


class Bucket:
    """So many units a minute, refilled evenly; a full minute's worth may be used at once."""

    __slots__ = ("_capacity", "_level", "_per_second", "_seen")

    def __init__(self, per_minute: int) -> None:
        self._capacity = float(per_minute)
        self._per_second = per_minute / 60
        self._level = self._capacity
        self._seen = time.monotonic()

    def wait(self, units: float = 1.0) -> float:
        """Seconds until `units` are there; 0 where they are."""
        now = time.monotonic()
        self._level = min(self._capacity, self._level + (now - self._seen) * self._per_second)
        self._seen = now
        return max(0.0, (min(units, self._capacity) - self._level) / self._per_second)

    def spend(self, units: float) -> None:
        """Take units out; the level may fall below zero where the cost is known only afterwards."""
        self._level -= units


@dataclass(slots=True, eq=False)
class Gate:
    """What one engine is given at a time: `max_running` requests, and `max_waiting` more that wait their turn.

    A request that would wait longer than `max_wait` seconds, judged by how long requests take now, is refused at once.
    """

    max_running: int
    max_waiting: int
    max_wait: float
    running: int = 0
    # A moving mean of the time requests took, in seconds.
    mean: float = 0.0
    _waiting: deque[asyncio.Future[None]] = field(default_factory=deque)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def expected_wait(self) -> float:
        """Seconds until a request that came now would run."""
        free = self.max_running - self.running
        return 0.0 if free > 0 else self.mean * (len(self._waiting) + 1) / self.max_running

    async def enter(self, deadline: float | None = None) -> None:
        """Wait for a place; pair with `leave`. `deadline` is a `time.time`. Raises `Overloaded`, `DeadlinePassed`."""
        if deadline is not None and deadline <= time.time():
            raise DeadlinePassed("The request's deadline has passed; it was not forwarded.")
        if self.running < self.max_running and not self._waiting:
            self.running += 1
            return
        if len(self._waiting) >= self.max_waiting or self.expected_wait() > self.max_wait:
            raise Overloaded("The server is at its limit. Try again later.", retry_after=self.retry_after())
        await self._wait(deadline)

    def leave(self, seconds: float) -> None:
        """Give the place to the longest waiting; `seconds` is how long it was used."""
        self.mean += 0.1 * (seconds - self.mean)
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self.running -= 1

    def retry_after(self) -> int:
        """Whole seconds after which a place is likely."""
        return max(1, min(LONGEST_RETRY, round(self.expected_wait())))

    async def _wait(self, deadline: float | None) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        left = self.max_wait if deadline is None else min(self.max_wait, deadline - time.time())
        try:
            # Not wait_for: up to Python 3.11 it swallows a cancellation that comes with the turn.
            async with asyncio.timeout(left):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():
                self.leave(self.mean)
            elif turn in self._waiting:
                self._waiting.remove(turn)
            if not isinstance(error, TimeoutError):
                raise
            if deadline is not None and deadline <= time.time():
                raise DeadlinePassed("The request's deadline passed while it waited; it was not forwarded.") from None
            raise Overloaded("The server is at its limit. Try again later.", retry_after=self.retry_after()) from None
