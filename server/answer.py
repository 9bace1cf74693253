"""Where an endpoint's answer goes: ASGI's messages, or straight to the client's transport."""

from collections.abc import Callable
from typing import Protocol

from starlette.types import Send

Headers = list[tuple[bytes, bytes]]

# The ASGI scope's extension under which our own protocol offers a `Direct`.
DIRECT = "zephyra.direct"


class Answer(Protocol):
    """One answer: whole, or begun and then sent in parts. A part follows at once where an answer is begun."""

    async def whole(self, status: int, headers: Headers, body: bytes) -> None: ...

    async def begin(self, status: int, headers: Headers) -> None: ...

    async def part(self, data: bytes) -> None: ...

    async def end(self) -> None: ...


class Direct(Answer, Protocol):
    """An answer that goes to the transport, which also knows when the client leaves."""

    def call_when_left(self, callback: Callable[[], None] | None) -> None:
        """Call back once when the client leaves, at once where it has; None takes that back."""
        ...


class AsgiAnswer:
    """An answer as ASGI messages, for any server."""

    __slots__ = ("_send",)

    def __init__(self, send: Send) -> None:
        self._send = send

    async def whole(self, status: int, headers: Headers, body: bytes) -> None:
        await self.begin(status, [*headers, (b"content-length", b"%d" % len(body))])
        await self._send({"type": "http.response.body", "body": body})

    async def begin(self, status: int, headers: Headers) -> None:
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def part(self, data: bytes) -> None:
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self) -> None:
        await self._send({"type": "http.response.body", "body": b""})
