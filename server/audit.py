"""The audit log: who changed what, when, from what to what. One JSON object a line, only ever appended to."""

import contextlib
import logging
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

log = logging.getLogger("zephyra.audit")


# How far back the newest lines are looked for.
TAIL_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class Audit:
    """Appends to the file at `path`. Several gateways may share it: a line is one write."""

    path: Path

    def record(self, who: str, what: str, adapter: str, before: Any, after: Any, reason: str = "") -> None:
        """Add a line. A log that cannot be written is an error in our own log; the change itself stands."""
        entry = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "who": who,
            "what": what,
            "adapter": adapter,
            "from": before,
            "to": after,
        }
        if not adapter:
            # A change of the router.
            del entry["adapter"]
        if reason:
            entry["reason"] = reason
        line = msgspec.json.encode(entry) + b"\n"
        try:
            handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)
            try:
                os.write(handle, line)
            finally:
                os.close(handle)
        except OSError as error:
            log.error("%s cannot be written (%s): %s", self.path, error.strerror, line.decode().strip())

    def last(self, count: int, adapter: str | None = None) -> list[dict[str, Any]]:
        """The newest lines, newest first, of one adapter or of all; none where there is no log."""
        try:
            with self.path.open("rb") as file:
                file.seek(max(0, self.path.stat().st_size - TAIL_BYTES))
                lines = file.read().splitlines()
        except FileNotFoundError:
            return []
        found: list[dict[str, Any]] = []
        for line in reversed(lines):
            # The first of the tail may be half a line.
            with contextlib.suppress(msgspec.DecodeError):
                entry = msgspec.json.decode(line, type=dict[str, Any])
                if adapter is None or entry.get("adapter") == adapter:
                    found.append(entry)
            if len(found) == count:
                break
        return found
