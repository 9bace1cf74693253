"""The routed APIs as ASGI applications: the way of a request, top to bottom."""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field

from starlette.types import Message, Receive, Scope, Send

from server.access import Access, Tenant
from server.answer import DIRECT, Answer, AsgiAnswer, Direct
from server.apis import Api
from server.call import BYPASS, Call
from server.decisions import DecisionLog
from server.engine import Reply
from server.errors import BodyTimeout, BodyTooLarge, EngineFailed, EngineUnavailable, Forbidden, ZephyraError
from server.gateway import Gateway
from server.limits import Gate
from server.relay import relay_stream, relay_whole
from server.request import RoutedRequest, parse
from server.routing import Choice, another, choose
from server.tracing import Tracing

log = logging.getLogger("zephyra")

# How much of a refused body is read and dropped, so that the client sees the answer and not a reset connection.
DRAIN_LIMIT = 64 * 2**20


class ClientLeft(Exception):
    """The client closed its connection; nobody reads an answer."""


@dataclass(slots=True)
class Gates:
    """A gate for each engine, made when it is first asked for."""

    gateway: Gateway
    _gates: dict[str, Gate] = field(default_factory=dict)

    def of(self, url: str) -> Gate:
        gate = self._gates.get(url)
        if gate is None:
            present = {engine.url for engine in self.gateway.engines}
            self._gates = {known: gate for known, gate in self._gates.items() if known in present or gate.running}
            limits = self.gateway.settings.limits
            gate = self._gates[url] = Gate(limits.max_running, limits.max_waiting, limits.max_wait)
            self.gateway.metrics.watch_gate(url, gate)
        return gate


@dataclass(slots=True)
class RoutedEndpoint:
    """One API: read, admit, parse, choose, wait, forward, relay, record."""

    api: Api
    gateway: Gateway
    access: Access
    gates: Gates
    decisions: DecisionLog | None
    tracing: Tracing | None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        metrics = self.gateway.metrics
        call = Call.begin(dict(scope["headers"]))
        direct: Direct | None = (scope.get("extensions") or {}).get(DIRECT)
        answer: Answer = direct or AsgiAnswer(send)
        metrics.running += 1
        try:
            status = await self._answer(call, answer, direct, receive)
        except ClientLeft:
            status = 499
        except Exception as error:
            status = await self._refuse(call, error, answer)
        finally:
            metrics.running -= 1
        self._record(call, status)

    def _record(self, call: Call, status: int) -> None:
        self.gateway.metrics.record(call, status)
        if call.tenant is not None:
            call.tenant.spend(call.prompt_tokens + call.output_tokens)
            shadow = self.gateway.shadow
            if self.decisions is not None or shadow.classifier is not None:
                table = call.tenant.sees(self.gateway.table)
                allowed = None if table.allowed is None else table.domains
                shadow.offer(call, allowed)
                if self.decisions is not None:
                    self.decisions.write(call, allowed)
        if call.choice is not None:
            self.gateway.guard.record(call.choice.engine_name, status)
        if self.gateway.feed.wanted:
            self.gateway.feed.tell(call, status)
        if self.tracing is not None:
            self.tracing.record(call, self.api.path, status)

    async def _refuse(self, call: Call, error: Exception, answer: Answer) -> int:
        if not isinstance(error, ZephyraError):
            log.error("request %s failed", call.request_id.decode(), exc_info=error)
            error = ZephyraError("The gateway failed on this request. Its log says why.")
        if isinstance(error, EngineUnavailable):
            self.gateway.wake()
        if call.timing.sent:
            raise error
        headers = [*error.headers(), (b"x-request-id", call.request_id)]
        await answer.whole(error.status, headers, self.api.error_body(error))
        return error.status

    async def _answer(self, call: Call, answer: Answer, direct: Direct | None, receive: Receive) -> int:
        timing = call.timing
        tenant = call.tenant = self.access.tenant(call.headers)
        with tenant.admitted():
            call.check_encoding()
            body = await self._read(tenant, receive)
            timing.received = time.perf_counter()
            request = parse(self.api, body)
            timing.parsed = time.perf_counter()
            request = tenant.check(request)
            timing.admitted = time.perf_counter()
            choice = call.choice = self._choose(call, tenant, request)
            call.request = request
            timing.routed = time.perf_counter()
            return await unless_client_leaves(self._forward(call, request, choice, answer), direct, receive)

    async def _forward(self, call: Call, request: RoutedRequest, choice: Choice, answer: Answer) -> int:
        """Forward to the chosen engine; what failed before its first byte is tried once on another."""
        try:
            return await self._attempt(call, request, choice, answer)
        except (EngineUnavailable, EngineFailed):
            spare = None if call.timing.sent else another(choice, self.gateway.engines)
            if spare is None:
                raise
            self.gateway.wake()
            call.choice = spare
            return await self._attempt(call, request, spare, answer)

    async def _attempt(self, call: Call, request: RoutedRequest, choice: Choice, answer: Answer) -> int:
        """Wait for a place on the engine, ask it, relay what it says."""
        gate = self.gates.of(choice.engine.url)
        # Counted from before it waits: an adapter it is meant for is not unloaded meanwhile.
        with choice.engine.counted(choice.engine_name):
            await gate.enter(call.deadline())
            entered = call.timing.entered = time.perf_counter()
            reply = None
            try:
                reply = await choice.engine.post(self.api.path, request.body_for(choice.engine_name), call.onward())
                relay = relay_stream if streams(reply) else relay_whole
                return await relay(reply, call, self.api, choice, answer)
            finally:
                if reply is not None:
                    reply.close()
                gate.leave(time.perf_counter() - entered)

    async def _read(self, tenant: Tenant, receive: Receive) -> bytes:
        settings = self.gateway.settings
        limit = settings.gateway.max_body_bytes
        if tenant.key.max_body_bytes is not None:
            limit = min(limit, tenant.key.max_body_bytes)
        return await read_body(receive, limit, settings.limits.body_seconds)

    def _choose(self, call: Call, tenant: Tenant, request: RoutedRequest) -> Choice:
        gateway = self.gateway
        table = tenant.sees(gateway.table)
        bypass = False
        if request.model == table.resolve:
            bypass = self._bypasses(call, tenant)
        return choose(request, table, gateway.engines, gateway.classifier, bypass)

    def _bypasses(self, call: Call, tenant: Tenant) -> bool:
        asked = call.headers.get(BYPASS)
        if asked == b"1":
            if not tenant.key.may_bypass:
                raise Forbidden(f"This key may not send {BYPASS.decode()}.")
            return True
        share = self.gateway.settings.router.bypass_share
        return share > 0 and random.random() < share


def streams(reply: Reply) -> bool:
    """Whether an engine's answer is a stream of events."""
    return reply.status == 200 and reply.content_type.startswith("text/event-stream")


async def read_body(receive: Receive, limit: int, seconds: float) -> bytes:
    """The whole request body. Raises `BodyTooLarge` past `limit` bytes, `BodyTimeout` after `seconds`, `ClientLeft`."""
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body", False):
        body: bytes = message.get("body", b"")
        if len(body) > limit:
            raise _too_large(limit)
        return body
    try:
        async with asyncio.timeout(seconds):
            return await _read_chunks(message, receive, limit)
    except TimeoutError:
        raise BodyTimeout(f"The body did not arrive within {seconds:.0f} s. Send it faster.") from None


async def _read_chunks(message: Message, receive: Receive, limit: int) -> bytes:
    chunks: list[bytes] = []
    size = 0
    while True:
        if message["type"] == "http.disconnect":
            raise ClientLeft
        chunk = message.get("body", b"")
        size += len(chunk)
        if size <= limit:
            chunks.append(chunk)
        else:
            chunks.clear()
        if not message.get("more_body", False) or size > DRAIN_LIMIT:
            break
        message = await receive()
    if size > limit:
        raise _too_large(limit)
    return b"".join(chunks)


def _too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"The body has more than {limit} bytes, the limit here. Send less.")


async def unless_client_leaves(work: Coroutine[None, None, int], direct: Direct | None, receive: Receive) -> int:
    """The work's result; if the client leaves first it is cancelled, which aborts the engine's request.

    The work runs in the present task. Our own protocol says when the client leaves; beside another server's a second
    task watches for it. Raises `ClientLeft`.
    """
    task = asyncio.current_task()
    assert task is not None, "an ASGI application runs in a task"
    left = False

    def leave() -> None:
        nonlocal left
        left = True
        task.cancel()

    watcher = None
    if direct:
        direct.call_when_left(leave)
    else:
        watcher = asyncio.ensure_future(_call_when_left(leave, receive))
    try:
        return await work
    except asyncio.CancelledError:
        if left and not task.uncancel():
            raise ClientLeft from None
        raise
    finally:
        if direct:
            direct.call_when_left(None)
        if watcher:
            watcher.cancel()


async def _call_when_left(callback: Callable[[], None], receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    callback()
