"""The decision log: one JSON line for each of TinyAda's decisions, and what another TinyAda would have decided.

Without `prompts` a line holds a keyed hash of the user's turns only; the key lives as long as the process, so equal
prompts can be told within one run and none can be guessed.
"""

import hashlib
import logging
import logging.handlers
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from router import Decision
from router.conversation import user_texts
from server.call import Call
from server.routing import GENERAL, Classifier
from server.settings import DecisionLogSettings

# Lines written together; a quiet log is written out at the next decision after so many seconds.
BATCH = 64
FLUSH_SECONDS = 1.0


class Line(msgspec.Struct, omit_defaults=True):
    """One decision. `served` is the domain that answered: `general` where TinyAda abstained."""

    time: float
    request_id: str
    router: str
    domain: str
    served: str
    reason: str
    confidence: float
    scores: dict[str, float]
    adapter: str
    microseconds: float
    key: str = ""
    hash: str = ""
    turns: list[str] | None = None
    allowed: list[str] | None = None


class DecisionLog:
    """Writes decisions to a rotated file, in batches."""

    def __init__(self, settings: DecisionLogSettings) -> None:
        assert settings.path is not None, "a decision log needs a path"
        settings.path.parent.mkdir(parents=True, exist_ok=True)
        self._handler = logging.handlers.RotatingFileHandler(
            settings.path, maxBytes=settings.max_bytes, backupCount=settings.keep, encoding="utf-8", delay=True
        )
        self._prompts = settings.prompts
        self._secret = os.urandom(16)
        self._lines: list[bytes] = []
        self._flushed = time.monotonic()
        self._encoder = msgspec.json.Encoder()

    def write(self, call: Call, allowed: Iterable[str] | None) -> None:
        """Note a call that TinyAda decided; others are passed over."""
        choice, request, tenant = call.choice, call.request, call.tenant
        if choice is None or request is None or choice.decision is None:
            return
        decision = choice.decision
        turns = user_texts(request.messages)
        line = Line(
            time=round(time.time(), 3),
            request_id=call.request_id.decode("latin-1"),
            router=decision.router,
            domain=decision.domain,
            served=served(decision),
            reason=choice.reason,
            confidence=round(decision.confidence, 4),
            scores={domain: round(score, 4) for domain, score in decision.scores.items()},
            adapter=choice.adapter,
            microseconds=round(decision.microseconds, 1),
            key=tenant.key.name if tenant else "",
            hash=hashlib.blake2b("\0".join(turns).encode(), key=self._secret, digest_size=12).hexdigest(),
            turns=turns if self._prompts else None,
            allowed=None if allowed is None else sorted(allowed),
        )
        self._lines.append(self._encoder.encode(line))
        if len(self._lines) >= BATCH or time.monotonic() - self._flushed > FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what has gathered; rotates where the file is full."""
        if self._lines:
            text = b"\n".join(self._lines).decode()
            self._lines.clear()
            self._handler.emit(logging.LogRecord("decisions", logging.INFO, "", 0, text, None, None))
        self._flushed = time.monotonic()

    def close(self) -> None:
        self.flush()
        self._handler.close()


@dataclass(slots=True)
class Replay:
    """How another TinyAda's decisions compare with those of a log."""

    replayed: int = 0
    # Lines that hold no prompt, or are no lines of such a log.
    skipped: int = 0
    # (served then, served now) -> how often.
    served: Counter[tuple[str, str]] = field(default_factory=Counter)
    # Request ids whose answer would have come from elsewhere.
    changed: list[str] = field(default_factory=list)

    @property
    def agreement(self) -> float:
        """The share that stays where it was."""
        return 1 - len(self.changed) / self.replayed if self.replayed else 1.0


def replay(lines: Iterable[bytes], classifier: Classifier) -> Replay:
    """Decide a log's conversations anew."""
    found = Replay()
    for line in read_lines(lines):
        if line is None or line.turns is None:
            found.skipped += 1
            continue
        messages: list[dict[str, Any]] = [{"role": "user", "content": turn} for turn in line.turns]
        now = served(classifier.route_conversation(messages, line.allowed))
        found.replayed += 1
        found.served[line.served, now] += 1
        if now != line.served:
            found.changed.append(line.request_id)
    return found


def read_lines(lines: Iterable[bytes]) -> Iterator[Line | None]:
    """Each line of a log; None for one that cannot be read, such as one half written."""
    decoder = msgspec.json.Decoder(Line)
    for line in lines:
        if not line.strip():
            continue
        try:
            yield decoder.decode(line)
        except msgspec.MsgspecError:
            yield None


def served(decision: Decision) -> str:
    """The domain that answers."""
    return GENERAL if decision.abstained else decision.domain


def open_log(settings: DecisionLogSettings) -> DecisionLog | None:
    """The log as configured, or none."""
    return DecisionLog(settings) if settings.path is not None else None


def log_files(path: Path) -> list[Path]:
    """A log with its rotated parts, oldest first."""
    rotated = sorted(path.parent.glob(path.name + ".*"), key=lambda part: -int(part.suffix[1:] or 0))
    return [*rotated, path]
