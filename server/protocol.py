"""uvicorn's HTTP protocol, bounded in what a client may send before its request is known, and with fewer writes."""

from asyncio import AbstractEventLoop, TimerHandle, Transport
from collections.abc import Callable
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

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


class HeadCork:
    """A transport that holds a response's head until its first body bytes, so that both leave in one system call."""

    def __init__(self, transport: Transport, loop: AbstractEventLoop) -> None:
        self._transport = transport
        self._call_soon = loop.call_soon
        self._head = b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if self._head:
            data, self._head = self._head + data, b""
        elif data.startswith(b"HTTP/1.1 ") and not data.startswith(b"HTTP/1.1 1"):
            self._head = data
            # Where no body follows, the head leaves by itself.
            self._call_soon(self._flush)
            return
        self._transport.write(data)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._head:
            head, self._head = self._head, b""
            self._transport.write(head)


# The scope's extension through which an endpoint asks to be called when its client leaves: cheaper than a task that
# waits for `http.disconnect`.
LEAVING = "zephyra.leaving"
# And through which an answer without an end asks to be called when the server stops, which would wait for it.
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
        super().connection_made(cast(Transport, HeadCork(transport, self.loop)))
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._drop_timer()
        super().connection_lost(exc)
        self._tell()

    def data_received(self, data: bytes) -> None:
        if self._in_head:
            self._head_bytes += len(data)
        super().data_received(data)
        # Counted with what followed the head in one read, so only a head that is still open can be judged.
        if self._in_head and self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self.transport.write(TOO_LARGE_HEAD + TOO_LARGE)
            self.transport.close()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._on_stopping = None
        self.scope["extensions"] = {LEAVING: self.call_when_left, STOPPING: self.call_when_stopping}  # type: ignore[dict-item]
        if not self._in_head:
            self._await_head()

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._head_bytes = 0
        self._drop_timer()
        super().on_headers_complete()

    def _tell(self) -> None:
        callback, self._on_left = self._on_left, None
        if callback is not None:
            callback()

    def _await_head(self) -> None:
        self._in_head = True
        self._head_bytes = 0
        self._drop_timer()
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self._close_slow)

    def _close_slow(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()

    def _drop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
