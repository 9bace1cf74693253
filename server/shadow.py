"""A second TinyAda that decides beside the one that serves: disagreement is counted, nothing else changes.

It decides after the answer has gone out, one conversation at a time from a bounded queue, and rests between them: it
never has more than a tenth of the core, and delays another request by one decision at most.
"""

import asyncio
import logging
import random
import time
from collections.abc import Container
from dataclasses import dataclass, field
from typing import Any

from router import TinyAda
from router.conversation import user_texts
from router.tokenization import window
from server.call import Call
from server.decisions import served
from server.metrics import Metrics

log = logging.getLogger("zephyra.router")

# Conversations that wait at most; further ones are dropped, and counted.
QUEUE = 256
# How long it rests, in multiples of the time that a decision took.
REST = 9.0


@dataclass(frozen=True, slots=True)
class Case:
    """One conversation to decide again. `answered`: the domain that did."""

    turns: list[str]
    allowed: Container[str] | None
    answered: str


@dataclass(slots=True)
class Shadow:
    """`classifier` is the second TinyAda, None while there is none; the counts begin anew with each."""

    metrics: Metrics
    share: float = 1.0
    classifier: TinyAda | None = None
    compared: int = 0
    disagreed: int = 0
    dropped: int = 0
    _queue: asyncio.Queue[Case] = field(default_factory=lambda: asyncio.Queue(QUEUE))

    def use(self, classifier: TinyAda | None) -> None:
        """From now on compare with this one; what waits for the one before is forgotten."""
        self.classifier = classifier
        self.compared = self.disagreed = self.dropped = 0
        while not self._queue.empty():
            self._queue.get_nowait()

    def offer(self, call: Call, allowed: Container[str] | None) -> None:
        """Note a call that TinyAda decided; others are passed over. Costs the request's end some microseconds."""
        choice, request = call.choice, call.request
        if self.classifier is None or choice is None or request is None or choice.decision is None:
            return
        if self.share < 1 and random.random() >= self.share:
            return
        if self._queue.full():
            self.dropped += 1
            self.metrics.shadow_dropped.inc()
            return
        # Windows rather than texts: a queue of whole bodies would have no bound.
        turns = [window(text) for text in user_texts(request.messages)]
        self._queue.put_nowait(Case(turns, allowed, served(choice.decision)))

    async def run(self) -> None:
        """Decide what was offered, for ever."""
        while True:
            case = await self._queue.get()
            began = time.perf_counter()
            try:
                self._compare(case)
            except Exception:
                # A fault of the second must not end its comparison, and can reach no request.
                log.exception("the shadow TinyAda failed on a conversation")
            await asyncio.sleep((time.perf_counter() - began) * REST)

    def _compare(self, case: Case) -> None:
        if self.classifier is None:
            return
        messages: list[dict[str, Any]] = [{"role": "user", "content": text} for text in case.turns]
        found = served(self.classifier.route_conversation(messages, case.allowed))
        self.compared += 1
        self.disagreed += found != case.answered
        self.metrics.shadow.labels(case.answered, found).inc()
