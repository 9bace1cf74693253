"""The feed: what the gateway answers, as it happens, for those who listen. Without a listener nothing is made."""

import asyncio
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec

from router.conversation import user_texts
from server.call import STAGES, Call
from server.decisions import served
from server.errors import Overloaded
from server.request import RoutedRequest

# Answers that wait for one listener at most; a slower one misses some, and is told how many.
QUEUE = 256
LISTENERS = 16
# Characters of a prompt, where prompts may be seen.
SHOWN = 300

_encoder = msgspec.json.Encoder()


class Answered(msgspec.Struct, omit_defaults=True):
    """One answered request. Times are milliseconds; `stages` is empty where the engine gave no answer."""

    time: float
    request_id: str
    model: str
    adapter: str
    reason: str
    status: int
    stream: bool
    # TinyAda's best domain, and the one that answered: `general` where it abstained. "" where it was not asked.
    domain: str = ""
    served: str = ""
    confidence: float = 0.0
    microseconds: float = 0.0
    overhead: float = 0.0
    total: float = 0.0
    stages: dict[str, float] = {}
    # How the user's last turn begins, where the settings allow it to be seen.
    prompt: str | None = None

    @classmethod
    def of(cls, call: Call, status: int, prompts: bool) -> "Answered | None":
        """None for a call that was refused before anyone was chosen."""
        choice, request, timing = call.choice, call.request, call.timing
        if choice is None or request is None:
            return None
        now = time.perf_counter()
        line = cls(
            time=round(time.time(), 3),
            request_id=call.request_id.decode("latin-1"),
            model=choice.model,
            adapter=choice.adapter,
            reason=choice.reason,
            status=status,
            stream=request.stream,
            total=_milliseconds(now - timing.received),
            prompt=_last_turn(request) if prompts else None,
        )
        if choice.decision is not None:
            line.domain, line.served = choice.decision.domain, served(choice.decision)
            line.confidence = round(choice.decision.confidence, 4)
            line.microseconds = round(choice.decision.microseconds, 1)
        if timing.answered:
            spent = timing.spent(now)
            line.stages = {stage: _milliseconds(seconds) for stage, seconds in zip(STAGES, spent, strict=True)}
            line.overhead = _milliseconds(timing.overhead(now, request.stream))
        return line


@dataclass(slots=True, eq=False)
class Listener:
    """One who listens; `dropped` counts what came faster than it was taken."""

    dropped: int = 0
    closed: bool = False
    _events: deque[bytes] = field(default_factory=deque)
    _woken: asyncio.Event = field(default_factory=asyncio.Event)

    def put(self, event: bytes) -> None:
        if len(self._events) >= QUEUE:
            self.dropped += 1
            return
        self._events.append(event)
        self._woken.set()

    def close(self) -> None:
        """End the listening from outside, as a stopping server does."""
        self.closed = True
        self._woken.set()

    async def take(self, seconds: float) -> bytes:
        """All that has come, as server-sent events; b"" where nothing came within `seconds` or it was closed."""
        if not self._events and not self.closed:
            try:
                async with asyncio.timeout(seconds):
                    await self._woken.wait()
            except TimeoutError:
                return b""
        taken = b"".join(self._events)
        self._events.clear()
        self._woken.clear()
        return taken


class Told(Protocol):
    """Another process that is told of answers."""

    def put(self, event: bytes) -> None: ...

    def close(self) -> None: ...


@dataclass(slots=True)
class Feed:
    """Tells every listener of every answer. `prompts`: with the user's words."""

    prompts: bool = False
    listeners: set[Listener] = field(default_factory=set)
    # Other workers that have listeners.
    neighbours: set[Told] = field(default_factory=set)
    # Set while there are listeners here.
    listened: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def wanted(self) -> bool:
        """Whether anyone is to be told."""
        return bool(self.listeners or self.neighbours)

    @contextmanager
    def listening(self) -> Iterator[Listener]:
        """A listener for as long as the context lasts. Raises `Overloaded` beyond `LISTENERS` of them."""
        if len(self.listeners) >= LISTENERS:
            raise Overloaded(f"{LISTENERS} listen already, the most that may. Close another console first.")
        listener = Listener()
        self.listeners.add(listener)
        self.listened.set()
        try:
            yield listener
        finally:
            self.listeners.discard(listener)
            if not self.listeners:
                self.listened.clear()

    def tell(self, call: Call, status: int) -> None:
        """Pass an ended call on to the listeners, here and elsewhere."""
        line = Answered.of(call, status, self.prompts) if self.wanted else None
        if line is not None:
            text = event("answer", line)
            self.hear(text)
            for neighbour in self.neighbours:
                neighbour.put(text)

    def hear(self, event: bytes) -> None:
        """Pass an event on to the listeners here."""
        for listener in self.listeners:
            listener.put(event)


def event(name: str, value: Any) -> bytes:
    """A server-sent event with JSON data."""
    return b"event: " + name.encode() + b"\ndata: " + _encoder.encode(value) + b"\n\n"


def _last_turn(request: RoutedRequest) -> str:
    return next(reversed(user_texts(request.messages)), "")[:SHOWN]


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1e3, 4)
