"""Engines found by name: the addresses of a name, looked up again and again, become engines and leave.

A Kubernetes headless service answers with the address of each ready pod: a new replica is found, gets its adapters by
reconciliation, and only then takes requests; one that is being stopped is out of the name before it is signalled.
"""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from server.engine import Engine
from server.metrics import Metrics
from server.reconciliation import Reconciliation
from server.settings import DNS_SCHEME

log = logging.getLogger("zephyra.engine")

# Between two looks at whether an engine that left has finished its requests, in seconds.
DRAIN_SECONDS = 0.25


async def addresses(host: str, port: int) -> frozenset[str]:
    """The addresses of a name now. Raises `OSError` where it has none."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return frozenset(str(address[0]) for *_, address in found)


@dataclass(slots=True)
class Discovery:
    """Keeps the engines as the names in `urls` say; those without `dns+http://` are not its business."""

    urls: tuple[str, ...]
    reconciliation: Reconciliation
    metrics: Metrics
    api_key: str | None
    # Seconds between two look-ups.
    interval: float
    resolve: Callable[[str, int], Awaitable[frozenset[str]]] = field(default_factory=lambda: addresses)
    _found: dict[str, dict[str, Engine]] = field(default_factory=dict)
    _closing: set[asyncio.Task[None]] = field(default_factory=set)

    async def run(self) -> None:
        """For ever."""
        names = [url for url in self.urls if url.startswith(DNS_SCHEME)]
        try:
            while names:
                for name in names:
                    await self.look(name)
                await asyncio.sleep(self.interval)
        finally:
            for task in self._closing:
                task.cancel()
            await asyncio.gather(*self._closing, return_exceptions=True)

    async def look(self, name: str) -> None:
        """One look-up. A name that resolves to nothing keeps its engines: their health says whether they are there."""
        parts = urlsplit(name)
        host, port = parts.hostname or "", parts.port or 80
        known = self._found.setdefault(name, {})
        try:
            found = await self.resolve(host, port)
        except OSError as error:
            log.warning("engine.urls: %s cannot be resolved (%s); it keeps %d engines", name, error, len(known))
            return
        for address in sorted(found - known.keys()):
            known[address] = self._admit(f"http://[{address}]:{port}" if ":" in address else f"http://{address}:{port}")
        for address in sorted(known.keys() - found):
            self._dismiss(known.pop(address))

    def _admit(self, url: str) -> Engine:
        engine = Engine.connect(url, self.api_key)
        self.metrics.watch_engine(engine)
        self.reconciliation.admit(engine)
        log.info("%s: found", url)
        return engine

    def _dismiss(self, engine: Engine) -> None:
        self.reconciliation.dismiss(engine)
        self.metrics.forget_engine(engine.url)
        log.info("%s: gone from its name", engine.url)
        task = asyncio.create_task(self._close(engine), name=f"drain-{engine.url}")
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _close(self, engine: Engine) -> None:
        """Close the engine's connections once nothing runs on it."""
        try:
            while engine.in_flight:  # noqa: ASYNC110 -- nothing signals the end of the last request
                await asyncio.sleep(DRAIN_SECONDS)
        finally:
            with contextlib.suppress(ValueError):
                self.reconciliation.leaving.remove(engine)
            await engine.close()
