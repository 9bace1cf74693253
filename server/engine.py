"""One vLLM engine behind HTTP: the requests it takes, the adapters it holds, what runs on it.

`Upstream` is the seam of the request path: one method, so that a fake or another client can stand in. Requests go
through the small client of `server.upstream`, everything else through aiohttp.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import aiohttp
import msgspec

from adapters.version import Version
from server.errors import EngineUnavailable
from server.upstream import Client

# Below vLLM's own keep-alive of 5 s, so that a pooled connection is never one the engine is just closing.
KEEPALIVE_SECONDS = 4.0
CONTROL_TIMEOUT = aiohttp.ClientTimeout(total=120)
PROBE_TIMEOUT = aiohttp.ClientTimeout(total=10)
_DEFERRED = re.compile(
    rb'^vllm:num_requests_waiting_by_reason\{[^}\n]*reason="deferred"[^}\n]*\} ([0-9.e+]+)', re.MULTILINE
)


class Reply(Protocol):
    """An engine's answer whose head has arrived."""

    status: int
    content_type: str

    async def read(self) -> bytes:
        """The whole body. Raises `EngineUnavailable` when the engine breaks off."""
        ...

    async def chunk(self) -> bytes:
        """What has come of the body since, b"" at its end. Raises `EngineUnavailable` when the engine breaks off."""
        ...

    def close(self) -> None:
        """Drop the connection if the body has not ended, which makes the engine abort the request."""
        ...


class Upstream(Protocol):
    """What the request path needs of an engine."""

    async def post(self, path: str, body: bytes, headers: Sequence[tuple[bytes, bytes]]) -> Reply:
        """Send a JSON body; returns once the head of the answer is here. Raises `EngineUnavailable`."""
        ...


class LoadRefused(Exception):
    """The engine did not load or unload an adapter; the text is the engine's, after its status."""


class _ModelCard(msgspec.Struct):
    id: str
    root: str | None = None
    parent: str | None = None


class _ModelList(msgspec.Struct):
    data: list[_ModelCard]


class Counted:
    """Counts one request of a version in and out."""

    __slots__ = ("_name", "_running")

    def __init__(self, running: Counter[str], name: str) -> None:
        self._running = running
        self._name = name

    def __enter__(self) -> None:
        self._running[self._name] += 1

    def __exit__(self, *_: object) -> None:
        left = self._running[self._name] - 1
        if left:
            self._running[self._name] = left
        else:
            del self._running[self._name]


@dataclass(slots=True, eq=False)
class Engine:
    """An engine and what is known of it now. `url` is http://host:port or unix:/path."""

    url: str
    session: aiohttp.ClientSession
    client: Client
    origin: str
    # Answers /health.
    up: bool = False
    # Up, and the first reconciliation since then is done.
    ready: bool = False
    # What it holds, and what of that requests may be sent to: not what is about to leave it.
    present: frozenset[str] = frozenset()
    loaded: frozenset[str] = frozenset()
    # How many adapters to load or unload the last look found.
    drift: int = 0
    # Requests that waited for an adapter slot at the last look at its metrics.
    deferred: int = 0
    base_name: str = ""
    # Requests in flight by engine-side name.
    running: Counter[str] = field(default_factory=Counter)

    @classmethod
    def connect(cls, url: str, api_key: str | None = None) -> "Engine":
        """A client for `url`; opens no connection yet."""
        headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        connector: aiohttp.BaseConnector
        if url.startswith("unix:"):
            path = "/" + url.removeprefix("unix:").lstrip("/")
            connector = aiohttp.UnixConnector(path, limit=0, keepalive_timeout=KEEPALIVE_SECONDS)
            origin = "http://engine"
        else:
            connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEPALIVE_SECONDS)
            origin = url.rstrip("/")
        session = aiohttp.ClientSession(connector=connector, headers=headers, auto_decompress=False)
        return cls(url, session, Client(url, api_key, KEEPALIVE_SECONDS), origin)

    async def close(self) -> None:
        self.client.close()
        await self.session.close()

    @property
    def in_flight(self) -> int:
        return self.running.total()

    def counted(self, name: str) -> "Counted":
        """A context that counts a request for the version `name`, from before it is forwarded until its body's end."""
        return Counted(self.running, name)

    def mark_down(self) -> None:
        self.up = self.ready = False
        self.present = self.loaded = frozenset()

    async def post(self, path: str, body: bytes, headers: Sequence[tuple[bytes, bytes]]) -> Reply:
        try:
            return await self.client.post(path, body, headers)
        except EngineUnavailable:
            # Out at once, or the idle look of a dead engine would draw requests; the next good look brings it back.
            self.ready = False
            raise

    async def ask(self, path: str, payload: dict[str, Any]) -> tuple[int, bytes]:
        """Status and body of a small request of the gateway's own. Raises `EngineUnavailable`."""
        try:
            async with self.session.post(self.origin + path, json=payload, timeout=CONTROL_TIMEOUT) as response:
                return response.status, await response.read()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise EngineUnavailable(f"The engine did not answer {path}: {error}") from error

    async def healthy(self) -> bool:
        """Whether /health answers 200."""
        try:
            async with self.session.get(self.origin + "/health", timeout=PROBE_TIMEOUT) as response:
                return response.status == 200
        except (aiohttp.ClientError, OSError, TimeoutError):
            return False

    async def list_adapters(self) -> dict[str, str]:
        """Engine-side name -> root path of each adapter; notes the base's name too. Raises `EngineUnavailable`."""
        try:
            async with self.session.get(self.origin + "/v1/models", timeout=PROBE_TIMEOUT) as response:
                models = msgspec.json.decode(await response.read(), type=_ModelList)
        except (aiohttp.ClientError, OSError, TimeoutError, msgspec.MsgspecError) as error:
            raise EngineUnavailable(f"The engine does not list its models: {error}") from error
        self.base_name = next((card.id for card in models.data if card.parent is None), self.base_name)
        return {card.id: card.root or "" for card in models.data if card.parent is not None}

    async def count_deferred(self) -> int:
        """How many requests wait for a slot of the batch for their adapter. Raises `EngineUnavailable`."""
        try:
            async with self.session.get(self.origin + "/metrics", timeout=PROBE_TIMEOUT) as response:
                found = _DEFERRED.findall(await response.read())
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise EngineUnavailable(f"The engine does not tell its metrics: {error}") from error
        return round(sum(map(float, found)))

    async def load(self, version: Version) -> None:
        """Load a version. Raises `LoadRefused` with the engine's reason, `EngineUnavailable` when it is gone."""
        await self._control("/v1/load_lora_adapter", {"lora_name": version.engine_name, "lora_path": str(version.path)})

    async def unload(self, name: str) -> None:
        """Unload by engine-side name. Raises as `load` does."""
        await self._control("/v1/unload_lora_adapter", {"lora_name": name})

    async def _control(self, path: str, payload: dict[str, str]) -> None:
        status, body = await self.ask(path, payload)
        if status != 200:
            raise LoadRefused(f"{status}: {body[:500].decode(errors='replace')}")
