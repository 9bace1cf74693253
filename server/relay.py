"""The engine's answer on its way to the client: names given back, streams relayed event by event."""

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import msgspec
from starlette.types import Send

from server.engine import Reply
from server.errors import AdapterNotReady, EngineFailed, EngineUnavailable, ZephyraError
from server.routing import Choice

Headers = list[tuple[bytes, bytes]]
EVENT_END = b"\n\n"


@dataclass(slots=True)
class Timing:
    """Moments of one request, from `time.perf_counter`, in seconds."""

    received: float
    parsed: float = 0.0
    routed: float = 0.0
    forwarded: float = 0.0
    # The engine's first byte: the whole body where the answer is not streamed.
    answered: float = 0.0
    started: bool = field(default=False)

    def server_timing(self) -> bytes:
        """The Server-Timing header's value, in milliseconds (W3C Server Timing)."""
        now = time.perf_counter()
        parse = (self.parsed - self.received) * 1e3
        route = (self.routed - self.parsed) * 1e3
        engine = (self.answered - self.forwarded) * 1e3
        gateway = (now - self.received) * 1e3 - engine
        return b"parse;dur=%.3f, route;dur=%.3f, gateway;dur=%.3f, engine;dur=%.3f" % (
            parse,
            route,
            gateway,
            engine,
        )


class Renamer:
    """Replaces the engine-side name with the public one in JSON text.

    The needle is a whole `"model":"..."` member: inside a JSON string its quotes would be escaped, so generated text
    can never match.
    """

    __slots__ = ("_needle", "_replacement")

    def __init__(self, engine_name: str, public_name: str) -> None:
        self._needle = b'"model":' + msgspec.json.encode(engine_name)
        self._replacement = b'"model":' + msgspec.json.encode(public_name)

    def __call__(self, text: bytes) -> bytes:
        return text.replace(self._needle, self._replacement)


def response_headers(choice: Choice, timing: Timing, content_type: str) -> Headers:
    headers = [
        (b"content-type", content_type.encode("latin-1")),
        (b"x-zephyra-adapter", choice.adapter.encode()),
        (b"x-zephyra-reason", choice.reason.encode()),
        (b"server-timing", timing.server_timing()),
    ]
    if choice.decision is not None:
        headers.append((b"x-zephyra-domain", choice.decision.domain.encode()))
        headers.append((b"x-zephyra-confidence", b"%.4f" % choice.decision.confidence))
    return headers


async def relay_whole(reply: Reply, choice: Choice, timing: Timing, send: Send, extra: Headers) -> int:
    """Relay an answer that is not streamed; returns its status. Raises `ZephyraError` before anything is sent."""
    body = await reply.read()
    timing.answered = time.perf_counter()
    check_status(reply.status, body, choice)
    body = Renamer(choice.engine_name, choice.model)(body)
    headers = [*response_headers(choice, timing, reply.content_type), *extra]
    headers.append((b"content-length", b"%d" % len(body)))
    timing.started = True
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
    return reply.status


async def relay_stream(reply: Reply, choice: Choice, timing: Timing, send: Send, extra: Headers) -> int:
    """Relay server-sent events as they come; returns the status. Raises `ZephyraError` before the first byte only.

    The head is sent with the first event, so that a failure before it still has its own status. A later one becomes
    an SSE event with an `error` object, as vLLM itself does.
    """
    rename = Renamer(choice.engine_name, choice.model)
    chunks = _events(reply.chunks())
    first = await anext(chunks, b"")
    if not first:
        raise EngineUnavailable("The engine ended the stream before it began. Try again.")
    timing.answered = time.perf_counter()
    headers = [*response_headers(choice, timing, reply.content_type), (b"cache-control", b"no-cache"), *extra]
    timing.started = True
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": rename(first), "more_body": True})
    status = reply.status
    try:
        done = first.endswith(b"data: [DONE]\n\n")
        async for chunk in chunks:
            await send({"type": "http.response.body", "body": rename(chunk), "more_body": True})
            done = chunk.endswith(b"data: [DONE]\n\n")
        if not done:
            raise EngineUnavailable("The engine ended the stream before its end. Try again.")
    except ZephyraError as error:
        status = error.status
        event = b"data: " + error.body() + EVENT_END + b"data: [DONE]" + EVENT_END
        await send({"type": "http.response.body", "body": event, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})
    return status


def check_status(status: int, body: bytes, choice: Choice) -> None:
    """Turn an engine's failure that is not the client's into an error of ours. Its other 4xx pass through."""
    if status == 404 and choice.engine_name.encode() in body:
        raise AdapterNotReady(f"{choice.adapter} is being loaded again. Try again.", "model")
    if status == 503:
        raise EngineUnavailable("The engine takes no more requests now. Try again.")
    if status >= 500:
        raise EngineFailed(f"The engine failed with status {status}. Try again; if it lasts, see its log.")


async def _events(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Regroup chunks so that each ends at an event's end; what is left at the end comes as it is."""
    rest = b""
    async for chunk in chunks:
        if not rest and chunk.endswith(EVENT_END):
            yield chunk
            continue
        rest += chunk
        end = rest.rfind(EVENT_END)
        if end >= 0:
            yield rest[: end + 2]
            rest = rest[end + 2 :]
    if rest:
        yield rest
