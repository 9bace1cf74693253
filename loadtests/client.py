"""A bare HTTP client for measuring: sends bytes made beforehand and does nothing but wait for the answer."""

import asyncio
import json
import socket
import time
from dataclasses import dataclass
from typing import Any

CHAT = "/v1/chat/completions"
TEXT = "Does this non-compete clause in my employment contract hold up in court under state law? "


def chat_request(model: str, characters: int = 250, stream: bool = False) -> bytes:
    """A whole chat completion request with a prompt of so many characters."""
    text = (TEXT * (characters // len(TEXT) + 1))[:characters]
    fields: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": text}], "stream": stream}
    body = json.dumps(fields).encode()
    head = (
        f"POST {CHAT} HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class Connection:
    """One kept connection that blocks: the least jitter for latencies one at a time."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), 30)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def call(self, request: bytes) -> float:
        """Seconds until the whole answer, which must be a 200 with a Content-Length."""
        began = time.perf_counter()
        self._socket.sendall(request)
        answer = self._socket.recv(65536)
        while not _complete(answer):
            more = self._socket.recv(65536)
            if not more:
                raise ConnectionError("the server closed the connection")
            answer += more
        return time.perf_counter() - began

    def close(self) -> None:
        self._socket.close()


@dataclass(slots=True)
class Result:
    """Moments of one answer, in seconds since its request (`first`: the first event), and a stream's events."""

    first: float
    whole: float
    events: int


class Line(asyncio.Protocol):
    """One kept connection on an event loop."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._answer = b""
        self._began = self._first = 0.0
        self._events = 0
        self._streamed = False
        self._done: asyncio.Future[Result] | None = None

    @classmethod
    async def open(cls, port: int) -> "Line":
        _, line = await asyncio.get_running_loop().create_connection(cls, "127.0.0.1", port)
        return line

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    @property
    def alive(self) -> bool:
        """Whether the server has not closed it meanwhile, as it does with idle ones."""
        return self._transport is not None and not self._transport.is_closing()

    def call(self, request: bytes) -> "asyncio.Future[Result]":
        """Send; the future is done when the answer is whole, and fails unless that is a 200."""
        if self._transport is None or self._transport.is_closing():
            raise ConnectionError("the server closed the connection")
        self._answer, self._first, self._events, self._streamed = b"", 0.0, 0, False
        self._done = asyncio.get_running_loop().create_future()
        self._began = time.perf_counter()
        self._transport.write(request)
        return self._done

    def data_received(self, data: bytes) -> None:
        done = self._done
        if done is None or done.done():
            return
        now = time.perf_counter()
        if not self._streamed and not self._answer:
            self._streamed = b"text/event-stream" in data
        if self._streamed:
            if not self._first and b"data: " in data:
                self._first = now
            self._events += data.count(b"data: ")
            self._answer = self._answer[-64:] + data
            if self._answer.endswith(b"0\r\n\r\n"):
                done.set_result(Result(self._first - self._began, now - self._began, self._events))
            return
        self._answer += data
        if _complete(self._answer):
            done.set_result(Result(now - self._began, now - self._began, 0))

    def connection_lost(self, exc: Exception | None) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_exception(ConnectionError("the server closed the connection"))

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


def _complete(answer: bytes) -> bool:
    head = answer.find(b"\r\n\r\n")
    if head < 0:
        return False
    if not answer.startswith(b"HTTP/1.1 200"):
        raise ConnectionError(f"not an answer: {answer[:300]!r}")
    lower = answer[:head].lower()
    at = lower.find(b"content-length:")
    if at < 0:
        raise ConnectionError(f"no Content-Length: {answer[:300]!r}")
    end = lower.find(b"\r\n", at)
    length = int(lower[at + 15 : end if end >= 0 else len(lower)])
    return len(answer) >= head + 4 + length
