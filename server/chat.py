"""POST /v1/chat/completions: the way of a request, top to bottom."""

import asyncio
import os
import time
from dataclasses import dataclass

from starlette.types import Message, Receive, Scope, Send

from server.engine import Reply
from server.errors import BodyTooLarge, EngineFailed, EngineUnavailable, ZephyraError
from server.gateway import Gateway
from server.relay import Headers, Timing, relay_stream, relay_whole
from server.request import ChatRequest, parse_chat
from server.routing import Choice, another, choose

PATH = "/v1/chat/completions"
# How much of a refused body is read and dropped, so that the client sees the answer and not a reset connection.
DRAIN_LIMIT = 64 * 2**20


class ClientLeft(Exception):
    """The client closed its connection; nobody reads an answer."""


@dataclass(slots=True)
class ChatCompletions:
    """The endpoint as an ASGI application: parse, choose, forward, relay, record."""

    gateway: Gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        metrics = self.gateway.metrics
        metrics.in_flight.inc()
        request_id = incoming_request_id(scope)
        request: ChatRequest | None = None
        choice: Choice | None = None
        timing = Timing(time.perf_counter())
        try:
            body = await read_body(scope, receive, self.gateway.settings.gateway.max_body_bytes)
            timing.received = time.perf_counter()
            request = parse_chat(body)
            timing.parsed = time.perf_counter()
            choice = self._choose(request)
            timing.routed = time.perf_counter()
            try:
                status = await self._forward(request, choice, timing, receive, send, request_id)
            except (EngineUnavailable, EngineFailed):
                spare = None if timing.started else another(choice, self.gateway.engines)
                if spare is None:
                    raise
                self.gateway.wake()
                choice = spare
                status = await self._forward(request, choice, timing, receive, send, request_id)
        except ClientLeft:
            status = 499
        except ZephyraError as error:
            status = error.status
            if isinstance(error, EngineUnavailable):
                self.gateway.wake()
            await send_error(send, error, request_id)
        finally:
            metrics.in_flight.dec()
        self._record(request, choice, status, timing)

    def _choose(self, request: ChatRequest) -> Choice:
        gateway = self.gateway
        return choose(request, gateway.table, gateway.engines, gateway.classifier)

    async def _forward(
        self,
        request: ChatRequest,
        choice: Choice,
        timing: Timing,
        receive: Receive,
        send: Send,
        request_id: bytes,
    ) -> int:
        extra: Headers = [(b"x-request-id", request_id)]
        headers = {"content-type": "application/json", "x-request-id": request_id.decode("latin-1")}
        body = request.body_for(choice.engine_name)
        with choice.engine.counted(choice.engine_name):
            timing.forwarded = time.perf_counter()
            task = asyncio.ensure_future(self._exchange(choice, body, headers, timing, send, extra))
            return await unless_client_leaves(task, receive)

    async def _exchange(
        self, choice: Choice, body: bytes, headers: dict[str, str], timing: Timing, send: Send, extra: Headers
    ) -> int:
        reply: Reply = await choice.engine.post(PATH, body, headers)
        try:
            if reply.status == 200 and reply.content_type.startswith("text/event-stream"):
                return await relay_stream(reply, choice, timing, send, extra)
            return await relay_whole(reply, choice, timing, send, extra)
        finally:
            reply.close()

    def _record(self, request: ChatRequest | None, choice: Choice | None, status: int, timing: Timing) -> None:
        metrics = self.gateway.metrics
        if request is None or choice is None:
            # The model's name is the client's: as a label it would let strangers grow the metric without bound.
            metrics.requests_child("", "", "refused", str(status)).inc()
            return
        self.gateway.guard.record(choice.engine_name, status)
        # Without its version, or every new one would be a new series.
        metrics.requests_child(choice.model.partition("@")[0], choice.label, choice.reason, str(status)).inc()
        if choice.decision is not None:
            metrics.route.observe(timing.routed - timing.parsed)
            metrics.decisions_child(choice.decision.domain, choice.reason).inc()
            metrics.confidence_child(choice.decision.domain).observe(choice.decision.confidence)
        if not timing.answered:
            return
        now = time.perf_counter()
        before = timing.forwarded - timing.received
        # A stream's relaying runs beside the engine's work: only what comes before the engine delays it.
        after = 0.0 if request.stream else now - timing.answered
        metrics.overhead_child("true" if request.stream else "false").observe(before + after)
        metrics.first_token_child(choice.label).observe(timing.answered - timing.received)
        metrics.duration_child(choice.label).observe(now - timing.received)


async def read_body(scope: Scope, receive: Receive, limit: int) -> bytes:
    """The whole request body. Raises `BodyTooLarge` past `limit` bytes and `ClientLeft`."""
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft
        chunk = message.get("body", b"")
        size += len(chunk)
        if size <= limit:
            chunks.append(chunk)
        else:
            chunks.clear()
        if not message.get("more_body", False):
            break
        if size > DRAIN_LIMIT:
            break
    if size > limit:
        raise BodyTooLarge(f"The body has more than {limit} bytes, the limit of this server. Send less.")
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


async def unless_client_leaves(task: "asyncio.Future[int]", receive: Receive) -> int:
    """The task's result; if the client leaves first, the task is cancelled, which aborts the engine's request."""
    leaving = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait((task, leaving), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientLeft
    finally:
        leaving.cancel()
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while True:
        message: Message = await receive()
        if message["type"] == "http.disconnect":
            return


def incoming_request_id(scope: Scope) -> bytes:
    """The client's X-Request-Id if it is short and printable, else a new one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and 0 < len(value) <= 128 and value.isascii() and value.decode().isprintable():
            return bytes(value)
    return os.urandom(16).hex().encode()


async def send_error(send: Send, error: ZephyraError, request_id: bytes | None = None) -> None:
    body = error.body()
    headers = [*error.headers(), (b"content-length", b"%d" % len(body))]
    if request_id is not None:
        headers.append((b"x-request-id", request_id))
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
