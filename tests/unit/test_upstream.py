"""The engines' client against a server that does what it is told, byte by byte."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from server.errors import EngineUnavailable
from server.upstream import HIGH_WATER, Client

OK = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 2\r\n\r\nok"


class Script:
    """Answers each request with the next of `answers`, then with 200; `close_after` closes after one."""

    def __init__(self) -> None:
        self.answers: list[bytes] = []
        self.close_after = False
        self.connections = 0
        self.requests: list[bytes] = []
        self.lost = asyncio.Event()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                self.requests.append(head + await reader.readexactly(length))
                writer.write(self.answers.pop(0) if self.answers else OK)
                await writer.drain()
                if self.close_after:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            self.lost.set()
        finally:
            writer.close()


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
async def client(script: Script) -> AsyncIterator[Client]:
    server = await asyncio.start_server(script, "127.0.0.1", 0)
    made = Client(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", "secret", 4.0)
    yield made
    made.close()
    server.close()


async def ask(client: Client, body: bytes = b"{}") -> bytes:
    reply = await client.post("/v1/x", body, [(b"x-request-id", b"r")])
    try:
        return await reply.read()
    finally:
        reply.close()


async def test_a_connection_is_kept_and_the_request_is_whole(client: Client, script: Script) -> None:
    for _ in range(3):
        assert await ask(client) == b"ok"
    assert script.connections == 1
    head, _, body = script.requests[0].partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert lines[0] == b"POST /v1/x HTTP/1.1"
    assert {b"authorization: Bearer secret", b"x-request-id: r", b"content-length: 2"} <= set(lines)
    assert body == b"{}"


async def test_requests_at_a_time_have_a_connection_each(client: Client, script: Script) -> None:
    assert await asyncio.gather(*(ask(client) for _ in range(5))) == [b"ok"] * 5
    assert script.connections == 5


async def test_a_connection_the_engine_closed_is_not_used_again(client: Client, script: Script) -> None:
    script.close_after = True
    for _ in range(2):
        assert await ask(client) == b"ok"
        await asyncio.sleep(0.05)
    assert script.connections == 2


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n3\r\ncde\r\n0\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nabcde",
        b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nabcde",
    ],
)
async def test_every_way_to_delimit_a_body(client: Client, script: Script, answer: bytes) -> None:
    script.answers, script.close_after = [answer], b"close" in answer
    assert await ask(client) == b"abcde"


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"garbage\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-le",
        b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    ],
)
async def test_an_answer_that_breaks_off_is_an_error(client: Client, script: Script, answer: bytes) -> None:
    script.answers, script.close_after = [answer], True
    with pytest.raises(EngineUnavailable):
        await ask(client)
    script.close_after = False
    assert await ask(client) == b"ok"


async def test_large_bodies_and_slow_readers(client: Client, script: Script) -> None:
    size = 20 * HIGH_WATER
    head = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size
    script.answers = [head + b"x" * size, head + b"y" * size]
    assert len(await ask(client)) == size
    reply = await client.post("/v1/x", b"{}", [])
    received = 0
    while chunk := await reply.chunk():
        # What was not asked for yet stays with the engine: no chunk grows far past the mark.
        assert len(chunk) <= 2 * HIGH_WATER
        received += len(chunk)
        await asyncio.sleep(0)
    reply.close()
    assert received == size


async def test_leaving_early_drops_the_connection(client: Client, script: Script) -> None:
    script.answers = [b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc"]
    reply = await client.post("/v1/x", b"{}", [])
    assert await reply.chunk() == b"abc"
    reply.close()
    await asyncio.wait_for(script.lost.wait(), 5)


async def test_nobody_there() -> None:
    with pytest.raises(EngineUnavailable):
        await Client("http://127.0.0.1:1", None, 4.0).post("/", b"", [])
    with pytest.raises(EngineUnavailable):
        await Client("unix:/nowhere.sock", None, 4.0).post("/", b"", [])


async def test_unix_socket(tmp_path: Path, script: Script) -> None:
    server = await asyncio.start_unix_server(script, tmp_path / "e.sock")
    client = Client(f"unix:{tmp_path}/e.sock", None, 4.0)
    assert await ask(client) == b"ok"
    client.close()
    server.close()
