"""A small HTTP/1.1 client for one engine: kept connections, one write per request, chunks as they come.

It does what the request path needs and no more: POST, Content-Length or chunked answers, no redirects, no cookies, no
compression. aiohttp does the same at about twice the CPU per chunk (loadtests/overhead.py).
"""

import asyncio
import ssl
import time
from collections.abc import Sequence
from typing import cast
from urllib.parse import urlsplit

import httptools

from server.errors import EngineUnavailable

CONNECT_SECONDS = 10.0
# What may wait unread before the engine is told to pause, in bytes.
HIGH_WATER = 256 * 1024
BROKE_OFF = "The engine broke off while answering. Try again."
UNREACHABLE = "The engine is not reachable; it is being brought back. Try again."


class Connection(asyncio.Protocol):
    """One connection: a request at a time, its answer's head and body. It is itself the `Reply`."""

    def __init__(self, pool: "Client") -> None:
        self._pool = pool
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._asked = False
        self._waiter: asyncio.Future[None] | None = None
        self._clear()
        self.idle_since = 0.0

    def _clear(self) -> None:
        self.status = 0
        self.content_type = "application/json"
        self._body: list[bytes] = []
        self._size = 0
        self._head_complete = self._complete = self._paused = self._keep = self._bounded = False
        self._failed = False

    # What the pool and the request path call

    @property
    def open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    async def exchange(self, request: bytes) -> None:
        """Send a whole request; returns once the head of its answer is here. Raises `EngineUnavailable`."""
        if self._transport is None:
            raise EngineUnavailable(UNREACHABLE)
        self._clear()
        self._asked = True
        self._transport.write(request)
        while not self._head_complete:
            await self._wait()

    async def read(self) -> bytes:
        """The whole body. Raises `EngineUnavailable`."""
        while not self._complete:
            # A whole body is wanted: it may fill up past the mark.
            self._resume()
            await self._wait()
        return self._take()

    async def chunk(self) -> bytes:
        """What has come since, b"" at the end. Raises `EngineUnavailable`."""
        while not self._body and not self._complete:
            await self._wait()
        chunk = self._take()
        if self._paused:
            self._resume()
        return chunk

    def close(self) -> None:
        """Keep the connection where its answer has ended, else drop it, which makes the engine abort the request."""
        if self._complete and self._keep and self.open:
            self._resume()
            self._pool.give_back(self)
        else:
            self.drop()

    def drop(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no asyncio.Transport by class.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if not self._asked or self._complete:
            # Nobody asked: what it is cannot be known, so the connection is of no use.
            self.drop()
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._failed = True
            self.drop()
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._pool.forget(self)
        if self._head_complete and not self._bounded and not self._failed:
            # Neither a length nor chunks: the body ends with the connection.
            self._complete = True
        elif not self._complete:
            self._failed = True
        self._wake()

    # httptools

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name == b"content-type":
            self.content_type = value.decode("latin-1")
        elif name in (b"content-length", b"transfer-encoding"):
            self._bounded = True

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status >= 200:
            self.status = status
            self._head_complete = True

    def on_body(self, body: bytes) -> None:
        self._body.append(body)
        self._size += len(body)
        if self._size > HIGH_WATER and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        if self._head_complete:
            self._keep = self._parser.should_keep_alive()
            self._complete = True

    def _take(self) -> bytes:
        body = self._body
        if len(body) == 1:
            chunk = body.pop()
        else:
            chunk = b"".join(body)
            body.clear()
        self._size = 0
        return chunk

    def _resume(self) -> None:
        if self._paused and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()

    async def _wait(self) -> None:
        if self._failed:
            raise EngineUnavailable(BROKE_OFF)
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Client:
    """Kept connections to one engine. `url` is http://host:port, https://host:port or unix:/path."""

    def __init__(self, url: str, api_key: str | None, keepalive: float) -> None:
        self._keepalive = keepalive
        self._idle: list[Connection] = []
        self._heads: dict[str, bytes] = {}
        self._tls: ssl.SSLContext | None = None
        self._socket: str | None = None
        authority = "engine"
        if url.startswith("unix:"):
            self._socket = "/" + url.removeprefix("unix:").lstrip("/")
        else:
            parts = urlsplit(url)
            self._host = parts.hostname or "127.0.0.1"
            self._port = parts.port or (443 if parts.scheme == "https" else 80)
            self._tls = ssl.create_default_context() if parts.scheme == "https" else None
            authority = parts.netloc.rpartition("@")[2]
        self._fixed = f"host: {authority}\r\ncontent-type: application/json\r\n"
        if api_key:
            self._fixed += f"authorization: Bearer {api_key}\r\n"

    async def post(self, path: str, body: bytes, headers: Sequence[tuple[bytes, bytes]]) -> Connection:
        """Send a JSON body; returns once the head of the answer is here. Raises `EngineUnavailable`."""
        parts = [self._head(path)]
        for name, value in headers:
            parts += (name, b": ", value, b"\r\n")
        parts += (b"content-length: %d\r\n\r\n" % len(body), body)
        connection = self._kept() or await self._connect()
        try:
            await connection.exchange(b"".join(parts))
        except BaseException:
            connection.drop()
            raise
        return connection

    def close(self) -> None:
        """Drop the idle connections; those in use end with their requests."""
        self._keepalive = 0.0
        while self._idle:
            self._idle.pop().drop()

    def give_back(self, connection: Connection) -> None:
        if not self._keepalive:
            connection.drop()
            return
        connection.idle_since = time.monotonic()
        self._idle.append(connection)

    def forget(self, connection: Connection) -> None:
        if connection in self._idle:
            self._idle.remove(connection)

    def _head(self, path: str) -> bytes:
        head = self._heads.get(path)
        if head is None:
            head = self._heads[path] = f"POST {path} HTTP/1.1\r\n{self._fixed}".encode()
        return head

    def _kept(self) -> Connection | None:
        """The connection that was used last, if it is young enough; those before it are older still."""
        if not self._idle:
            return None
        connection = self._idle.pop()
        if connection.open and time.monotonic() - connection.idle_since < self._keepalive:
            return connection
        for old in (connection, *self._idle):
            old.drop()
        self._idle.clear()
        return None

    async def _connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                if self._socket is not None:
                    _, made = await loop.create_unix_connection(lambda: Connection(self), self._socket)
                else:
                    _, made = await loop.create_connection(
                        lambda: Connection(self), self._host, self._port, ssl=self._tls
                    )
        except (OSError, TimeoutError) as error:
            raise EngineUnavailable(UNREACHABLE) from error
        return made
