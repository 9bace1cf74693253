"""One request on its way: what is known of it so far."""

import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass

from server.access import Tenant
from server.answer import Headers
from server.errors import EncodingNotSupported, InvalidRequest
from server.request import RoutedRequest
from server.routing import Choice

BYPASS = b"x-zephyra-bypass"
DEADLINE = b"x-zephyra-deadline"
STAGES = ("parse", "access", "route", "wait", "engine", "relay")

_PLAIN = re.compile(rb"[\x21-\x7e]{1,128}")
# W3C Trace Context, level 1.
_TRACEPARENT = re.compile(rb"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_TRACESTATE = re.compile(rb"[\x20-\x7e]{1,512}")


@dataclass(slots=True)
class Timing:
    """Moments of one request, from `time.perf_counter`, in seconds; 0 where it did not get so far."""

    began: float
    # The whole body is here.
    received: float = 0.0
    parsed: float = 0.0
    admitted: float = 0.0
    routed: float = 0.0
    # The engine had a place for it.
    entered: float = 0.0
    # The engine's first byte: the whole body where the answer is not streamed.
    answered: float = 0.0
    # The answer's head is on its way to the client: an error can no longer have a status of its own.
    sent: bool = False

    def spent(self, now: float) -> tuple[float, ...]:
        """Seconds in each of `STAGES`, of a request that was answered and ended at `now`."""
        return (
            self.parsed - self.received,
            self.admitted - self.parsed,
            self.routed - self.admitted,
            self.entered - self.routed,
            self.answered - self.entered,
            now - self.answered,
        )

    def overhead(self, now: float, stream: bool) -> float:
        """Seconds that the gateway added. A stream's relaying runs beside the engine's work: it does not count."""
        return self.routed - self.received + (0.0 if stream else now - self.answered)

    def server_timing(self) -> bytes:
        """The Server-Timing header's value, in milliseconds (W3C Server Timing)."""
        parse = (self.parsed - self.received) * 1e3
        route = (self.routed - self.admitted) * 1e3
        engine = (self.answered - self.entered) * 1e3
        gateway = (time.perf_counter() - self.received) * 1e3 - engine
        return b"parse;dur=%.3f, route;dur=%.3f, gateway;dur=%.3f, engine;dur=%.3f" % (parse, route, gateway, engine)


@dataclass(slots=True)
class Call:
    """A request's headers, and what the stages of its way have found out. `headers` has lower-case names."""

    headers: Mapping[bytes, bytes]
    request_id: bytes
    timing: Timing
    tenant: Tenant | None = None
    request: RoutedRequest | None = None
    choice: Choice | None = None
    # Tokens by the engine's own count; for a stream without usage, its events.
    prompt_tokens: int = 0
    output_tokens: int = 0

    @classmethod
    def begin(cls, headers: Mapping[bytes, bytes]) -> "Call":
        given = headers.get(b"x-request-id")
        usable = given is not None and _PLAIN.fullmatch(given)
        return cls(headers, given if given and usable else os.urandom(16).hex().encode(), Timing(time.perf_counter()))

    def onward(self) -> Headers:
        """The client's headers that an engine gets: the request's id and its trace, nothing else."""
        headers = [(b"x-request-id", self.request_id)]
        trace = self.headers.get(b"traceparent")
        if trace is not None and _TRACEPARENT.fullmatch(trace):
            headers.append((b"traceparent", trace))
            state = self.headers.get(b"tracestate")
            if state is not None and _TRACESTATE.fullmatch(state):
                headers.append((b"tracestate", state))
        return headers

    def deadline(self) -> float | None:
        """The moment, as seconds since 1970, after which nobody waits for an answer. Raises `InvalidRequest`."""
        given = self.headers.get(DEADLINE)
        if given is None:
            return None
        try:
            return float(given)
        except ValueError:
            raise InvalidRequest(f"{DEADLINE.decode()} must be seconds since 1970, e.g. {time.time():.1f}.") from None

    def check_encoding(self) -> None:
        """Raise `EncodingNotSupported` for a compressed body: unpacked it could have any size."""
        encoding = self.headers.get(b"content-encoding", b"identity")
        if encoding.lower() != b"identity":
            raise EncodingNotSupported("Send the body without Content-Encoding; compressed bodies are not read.")
