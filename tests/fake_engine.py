"""A small engine that speaks vLLM's subset: its APIs (JSON and SSE), models, load and unload, health, faults on demand.

`python -m tests.fake_engine --port 9000` runs it alone, for the benchmarks.
"""

import argparse
import asyncio
import contextlib
import json
import socket
import threading
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.types import Receive, Scope, Send

from server.protocol import BoundedProtocol
from tests import fake_answers, fake_metrics

BASE = "base"
WORDS = ("An ", "answer ", "of ", "a ", "few ", "words", ".")


@dataclass
class FakeEngine:
    """An ASGI application. Change its fields while it runs to make it slow, failing or breaking off."""

    adapters: dict[str, str] = field(default_factory=dict)
    # Every body received for an answer, parsed, and its path and headers.
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    loads: list[str] = field(default_factory=list)
    aborted: int = 0
    running: int = 0
    record: bool = True
    healthy: bool = True
    # Break off every connection, as a killed process does; running streams end at their next chunk.
    dead: bool = False
    # Seconds before the head of an answer, and between two chunks.
    delay: float = 0.0
    chunk_delay: float = 0.0
    # Answer every request with this status and body instead.
    failure: tuple[int, bytes] | None = None
    # Close the connection after this many chunks (0: before the first).
    break_after: int | None = None
    # Cut events into chunks of so many bytes.
    chunk_bytes: int | None = None
    # Engine-side names whose load is refused with 500.
    refuse: set[str] = field(default_factory=set)
    words: tuple[str, ...] = WORDS
    # Engine-side names that answer as the base does, as an adapter whose modules match nothing.
    like_base: set[str] = field(default_factory=set)
    # Engine-side names whose chats are answered with 500.
    failing: set[str] = field(default_factory=set)
    unloads: list[str] = field(default_factory=list)
    # What /metrics says: answers given, and requests that wait for an adapter slot.
    answered: int = 0
    deferred: int = 0
    # What an answer says of its end: `abort` is what a stopping engine says.
    finish: str = "stop"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return
        if self.dead:
            # A head that promises more than comes: the connection breaks off, as a killed process's does.
            await send({"type": "http.response.start", "status": 503, "headers": [(b"content-length", b"99")]})
            raise ConnectionResetError("the engine is dead")
        path, body = scope["path"], b""
        more = scope["method"] == "POST"
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        if path in ("/health", "/v1/models", "/metrics"):
            await self._tell(path, send)
        elif path == "/v1/load_lora_adapter":
            await self._load(json.loads(body), send)
        elif path == "/v1/unload_lora_adapter":
            name = json.loads(body)["lora_name"]
            found = self.adapters.pop(name, None)
            self.unloads.append(name)
            await _answer(send, 200 if found else 404, b"done", b"text/plain")
        elif path == "/v1/completions" and b'"logprobs"' in body:
            await self._complete(json.loads(body), send)
        elif path in fake_answers.WHOLE:
            await self._generate(scope, body, receive, send)
        else:
            await _answer(send, 404, b'{"detail":"Not Found"}')

    async def _tell(self, path: str, send: Send) -> None:
        if path == "/health":
            await _answer(send, 200 if self.healthy else 503, b"")
        elif path == "/v1/models":
            await _answer(send, 200, self._models())
        else:
            await _answer(send, 200, fake_metrics.render(self.answered, self.running, self.deferred), b"text/plain")

    def _models(self) -> bytes:
        cards = [{"id": BASE, "root": "/base", "parent": None}]
        cards += [{"id": name, "root": root, "parent": BASE} for name, root in self.adapters.items()]
        return json.dumps({"object": "list", "data": cards}).encode()

    async def _load(self, body: dict[str, str], send: Send) -> None:
        name = body["lora_name"]
        if name in self.refuse:
            await _answer(
                send,
                500,
                _error("LoRA rank 64 is greater than max_lora_rank 16.", "InternalServerError", 500),
            )
        elif name in self.adapters:
            await _answer(
                send,
                400,
                _error(f"The lora adapter '{name}' has already been loaded.", "BadRequestError", 400),
            )
        else:
            self.adapters[name] = body["lora_path"]
            self.loads.append(name)
            await _answer(send, 200, f"Success: LoRA adapter '{name}' added successfully.".encode(), b"text/plain")

    async def _complete(self, request: dict[str, Any], send: Send) -> None:
        """The first token's log-probabilities: the base's, or others for each adapter."""
        model = request["model"]
        if model != BASE and model not in self.adapters:
            await _answer(send, 404, _error(f"The model `{model}` does not exist.", "NotFoundError", 404))
            return
        plain = model == BASE or model.startswith("zero@") or model in self.like_base
        shift = 0.0 if plain else 0.1 + zlib.crc32(model.encode()) / 2**33
        logprobs = {"top_logprobs": [{" a": -0.5 - shift, " b": -1.5 + shift}]}
        choice = {"index": 0, "text": " a", "logprobs": logprobs, "finish_reason": "length"}
        await _answer(send, 200, _compact({"id": "cmpl-1", "object": "text_completion", "choices": [choice]}))

    async def _generate(self, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        request, path = json.loads(body), scope["path"]
        self.answered += 1
        if self.record:
            self.requests.append(request)
            self.headers.append({name.decode(): value.decode() for name, value in scope["headers"]})
            self.paths.append(path)
        if self.delay and not await self._sleep(self.delay, receive):
            return
        model = request["model"]
        answer = fake_answers.Answer(model, self.words, self.finish)
        if self.failure:
            await _answer(send, *self.failure)
        elif model in self.failing:
            await _answer(send, 500, _error("EngineCore failed", "InternalServerError", 500))
        elif model != BASE and model not in self.adapters:
            await _answer(send, 404, _error(f"The model `{model}` does not exist.", "NotFoundError", 404))
        elif request.get("stream") and path in fake_answers.STREAMED:
            usage = bool((request.get("stream_options") or {}).get("include_usage"))
            await self._stream(fake_answers.STREAMED[path](answer, usage), receive, send)
        elif self.break_after is not None:
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"99")]})
            raise ConnectionResetError("breaking off on demand")
        else:
            await _answer(send, 200, _compact(fake_answers.WHOLE[path](answer)))

    async def _stream(self, events: Iterator[bytes], receive: Receive, send: Send) -> None:
        head = {"type": "http.response.start", "status": 200}
        await send({**head, "headers": [(b"content-type", b"text/event-stream; charset=utf-8")]})
        for index, event in enumerate(events):
            if index == self.break_after or self.dead:
                raise ConnectionResetError("breaking off on demand")
            if self.chunk_delay and not await self._sleep(self.chunk_delay, receive):
                return
            size = self.chunk_bytes or len(event)
            for start in range(0, len(event), size):
                await send({"type": "http.response.body", "body": event[start : start + size], "more_body": True})
                if self.chunk_bytes:
                    await asyncio.sleep(0.001)
        await send({"type": "http.response.body", "body": b""})

    async def _sleep(self, seconds: float, receive: Receive) -> bool:
        """Sleep; False when the client left meanwhile."""
        self.running += 1
        leaving = asyncio.ensure_future(receive())
        try:
            await asyncio.wait([leaving], timeout=seconds)
            if leaving.done():
                self.aborted += 1
                return False
            return True
        finally:
            leaving.cancel()
            self.running -= 1


def _compact(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _error(message: str, kind: str, code: int) -> bytes:
    return _compact({"error": {"message": message, "type": kind, "param": None, "code": code}})


async def _answer(send: Send, status: int, body: bytes, content_type: bytes = b"application/json") -> None:
    headers = [(b"content-type", content_type), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class Served:
    """An ASGI application on a loopback port, in a thread with an event loop of its own."""

    def __init__(
        self,
        app: Any,
        lifespan: str = "off",
        http: type[asyncio.Protocol] = BoundedProtocol,
        address: tuple[str, int] = ("127.0.0.1", 0),
    ) -> None:
        self._socket = socket.create_server(address)
        host, self.port = self._socket.getsockname()[:2]
        self.url = f"http://{host}:{self.port}"
        config = uvicorn.Config(
            app,
            lifespan=lifespan,  # type: ignore[arg-type]
            http=http,
            ws="none",
            log_level="critical",
            timeout_graceful_shutdown=5,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],), daemon=True)

    def __enter__(self) -> "Served":
        self._thread.start()
        while not self._server.started:
            if not self._thread.is_alive():
                raise RuntimeError("the server did not start")
            threading.Event().wait(0.01)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(15)
        with contextlib.suppress(OSError):
            self._socket.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=9000)
    parser.add_argument("--words", type=int, default=len(WORDS), help="words in an answer")
    parser.add_argument("--chunk-delay", type=float, default=0.0, help="seconds between two chunks")
    options = parser.parse_args()
    words = tuple("word " for _ in range(options.words))
    fake = FakeEngine(record=False, words=words, chunk_delay=options.chunk_delay)
    uvicorn.run(fake, port=options.port, lifespan="off", log_level="warning", access_log=False)
