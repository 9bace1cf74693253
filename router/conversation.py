"""From a conversation to one decision: a fold over the user's turns.

Stateless stickiness: every request carries its whole conversation, so the domain is found again each time. A turn
that leans on what came before ("and the year before?", "thanks!") keeps the domain; any other switches when it is
more probable than the present domain by a margin. Only user turns decide.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

LAST_TURNS = 12
"""Only so many of the latest user turns are read."""

LONG_TURN, SHORT_MARGIN = 16, 0.8
"""Turns of fewer tokens need a greater margin to switch, up to this one."""

WEAK = 0.35
"""A domain held with less confidence than this is not worth keeping."""


class Scores(NamedTuple):
    """What the model says of one text. ``probabilities`` follow the domains; ``known`` is the probability that the
    text is of any domain at all, ``leaning`` that it means something only after earlier turns; ``tokens``
    its length."""

    probabilities: tuple[float, ...]
    known: float
    leaning: float
    tokens: int = 100

    @property
    def confidence(self) -> float:
        return max(self.probabilities) * self.known * (1.0 - self.leaning)

    @property
    def best(self) -> int:
        return self.probabilities.index(max(self.probabilities))


def user_texts(messages: object) -> list[str]:
    """Texts of the user's turns, oldest first, the latest `LAST_TURNS`; whatever is malformed counts as empty."""
    if not isinstance(messages, Sequence) or isinstance(messages, str | bytes):
        return []
    texts: list[str] = []
    for message in reversed(messages):
        if isinstance(message, dict) and message.get("role") == "user":
            texts.append(content_text(message.get("content")))
            if len(texts) == LAST_TURNS:
                break
    return texts[::-1]


def content_text(content: Any) -> str:
    """The text of a message's content: a string, or the text parts of a list of parts."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list | tuple):
        return ""
    parts = (part.get("text") if isinstance(part, dict) else part for part in content)
    return "\n".join(part for part in parts if isinstance(part, str))


def fold(turns: Iterable[Scores], margin: float, slip: float) -> tuple[Scores, bool]:
    """The scores to decide by, and whether they were kept from an earlier turn than the last.

    ``turns`` must hold at least one.
    """
    present: Scores | None = None
    kept = False
    for turn in turns:
        kept = present is not None and not _switches(present, turn, margin, slip)
        if present is None or not kept:
            present = turn
    if present is None:
        raise ValueError("fold needs at least one turn")
    return present, kept


def _switches(present: Scores, turn: Scores, margin: float, slip: float) -> bool:
    if turn.best == present.best:
        return turn.confidence >= present.confidence  # the same domain: keep the surer scores
    if present.confidence < WEAK:
        return turn.confidence > present.confidence
    if turn.leaning > slip or turn.known < 0.5:
        return False
    short = max(0.0, min(1.0, (LONG_TURN - turn.tokens) / LONG_TURN))
    needed = margin + short * (SHORT_MARGIN - margin)  # a few words say little by themselves
    return turn.confidence - turn.probabilities[present.best] > needed
