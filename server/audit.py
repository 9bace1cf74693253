"""The audit log: who changed what, when, from what to what. One JSON object a line, only ever appended to."""

import logging
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

log = logging.getLogger("zephyra.audit")


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
