"""uvicorn's HTTP protocol, bounded in what a client may send before its request is known, with a short way back."""

from asyncio import TimerHandle, Transport
from collections.abc import Callable

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from server.answer import DIRECT, Headers

MAX_HEAD_BYTES = 32 * 1024
# A head that takes longer, or a new connection that says nothing, is closed, in seconds.
HEAD_SECONDS = 10.0
TOO_LARGE = (
    b'{"error":{"message":"The request\'s headers are too large. Send less.",'
    b'"type":"invalid_request_error","param":null,"code":"headers_too_large"}}'
)
TOO_LARGE_HEAD = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: application/json\r\n"
    b"content-length: %d\r\nconnection: close\r\n\r\n" % len(TOO_LARGE)
)


class DirectAnswer:
    """Writes an answer to the client's transport: one system call for a head with what follows it, none of ASGI's
    messages in between. Keeps uvicorn's cycle informed, which goes on to the connection's next request."""

    __slots__ = ("_cycle", "_head", "_protocol")

    def __init__(self, protocol: "BoundedProtocol", cycle: RequestResponseCycle) -> None:
        self._protocol = protocol
        self._cycle = cycle
        self._head = b""

    def call_when_left(self, callback: Callable[[], None] | None) -> None:
        self._protocol.call_when_left(callback)

    async def whole(self, status: int, headers: Headers, body: bytes) -> None:
        await self._writable()
        head = self._written_head(status, headers, b"content-length: %d\r\n\r\n" % len(body))
        self._finish(head + body)

    async def begin(self, status: int, headers: Headers) -> None:
        self._head = self._written_head(status, headers, b"transfer-encoding: chunked\r\n\r\n")

    async def part(self, data: bytes) -> None:
        cycle = self._cycle
        if cycle.flow.write_paused:
            await self._writable()
        if not cycle.disconnected:
            cycle.transport.write(b"%b%x\r\n%b\r\n" % (self._head, len(data), data))
            self._head = b""

    async def end(self) -> None:
        await self._writable()
        self._finish(self._head + b"0\r\n\r\n")

    async def _writable(self) -> None:
        if self._cycle.flow.write_paused and not self._cycle.disconnected:
            await self._cycle.flow.drain()

    def _written_head(self, status: int, headers: Headers, framing: bytes) -> bytes:
        cycle = self._cycle
        cycle.response_started = True
        cycle.waiting_for_100_continue = False
        parts = [STATUS_LINE[status]]
        for name, value in cycle.default_headers:
            parts += (name, b": ", value, b"\r\n")
        for name, value in headers:
            parts += (name, b": ", value, b"\r\n")
        if not cycle.keep_alive:
            parts.append(b"connection: close\r\n")
        parts.append(framing)
        return b"".join(parts)

    def _finish(self, data: bytes) -> None:
        cycle = self._cycle
        if cycle.disconnected:
            return
        cycle.transport.write(data)
        cycle.response_complete = True
        cycle.message_event.set()
        if not cycle.keep_alive:
            cycle.transport.close()
        cycle.on_response()


# The scope's extension through which an answer without an end asks to be called when the server stops, which would
# wait for it.
STOPPING = "zephyra.stopping"


class BoundedProtocol(HttpToolsProtocol):
    """Closes connections whose request head is too large or too slow; tells the endpoint when the client leaves."""

    _head_bytes = 0
    _in_head = True
    _head_timer: TimerHandle | None = None
    _on_left: Callable[[], None] | None = None
    _on_stopping: Callable[[], None] | None = None
    _stopping = False

    def call_when_left(self, callback: Callable[[], None] | None) -> None:
        """Call back once when the client leaves, at once where it has; None takes that back."""
        self._on_left = callback
        if callback is not None and self.transport.is_closing():
            self._tell()

    def call_when_stopping(self, callback: Callable[[], None]) -> None:
        """Call back when the server stops, at once where it is stopping."""
        self._on_stopping = callback
        if self._stopping:
            callback()

    def shutdown(self) -> None:
        super().shutdown()
        self._stopping = True
        if self._on_stopping is not None:
            self._on_stopping()

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._drop_timer()
        super().connection_lost(exc)
        self._tell()

    def data_received(self, data: bytes) -> None:
        within = self._in_head
        super().data_received(data)
        if self._in_head:
            # A read in which the head began is not counted: it may hold the end of the body before.
            self._head_bytes += len(data) if within else 0
            self._judge_head()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._on_stopping = None
        self._in_head = True

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._head_bytes = 0
        self._drop_timer()
        super().on_headers_complete()
        # The request's task was made, but runs later.
        extensions = {DIRECT: DirectAnswer(self, self.cycle), STOPPING: self.call_when_stopping}
        self.scope["extensions"] = extensions  # type: ignore[typeddict-item]

    def _tell(self) -> None:
        callback, self._on_left = self._on_left, None
        if callback is not None:
            callback()

    def _judge_head(self) -> None:
        """A head is still open after a read: it may not grow past its bound, nor stay open for long."""
        if self.transport.is_closing():
            return
        if self._head_bytes > MAX_HEAD_BYTES:
            self.transport.write(TOO_LARGE_HEAD + TOO_LARGE)
            self.transport.close()
        elif self._head_timer is None:
            self._await_head()

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self._close_slow)

    def _close_slow(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()

    def _drop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
