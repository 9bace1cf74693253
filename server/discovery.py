"""Engines that come and go: the addresses of a name, or the lines of a file, looked up again and again.

A Kubernetes headless service answers with the address of each ready pod, and a file says what an operator wrote. A new
engine gets its adapters by reconciliation and only then takes requests. One that left gets no more requests and
finishes those it has; its series leave /metrics when it is done, which is the time to stop it.
"""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from server.engine import Engine
from server.metrics import Metrics
from server.reconciliation import Reconciliation
from server.settings import ENGINE_SCHEMES, FILE_SCHEME

log = logging.getLogger("zephyra.engine")

# Between two looks at whether an engine that left has finished its requests, in seconds.
DRAIN_SECONDS = 0.25


class Unknown(Exception):
    """Nothing can be said of a source now; the text says why."""


async def look_up(source: str) -> frozenset[str]:
    """The engines' URLs that a source names now. Raises `Unknown`."""
    try:
        if source.startswith(FILE_SCHEME):
            return read_file(Path(source.removeprefix(FILE_SCHEME)))
        parts = urlsplit(source)
        return await addresses(parts.hostname or "", parts.port or 80)
    except OSError as error:
        raise Unknown(str(error)) from error


async def addresses(host: str, port: int) -> frozenset[str]:
    """An URL for each address of the name. Raises `OSError` where it has none."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    hosts = [str(address[0]) for *_, address in found]
    return frozenset(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}" for host in hosts)


def read_file(path: Path) -> frozenset[str]:
    """The URLs of a file, one a line; `#` begins a comment. Raises `OSError`, `Unknown`."""
    lines = (line.partition("#")[0].strip() for line in path.read_text().splitlines())
    urls = frozenset(filter(None, lines))
    for url in urls:
        if not url.startswith(ENGINE_SCHEMES):
            raise Unknown(f"{url!r} must begin with one of {', '.join(ENGINE_SCHEMES)}")
    return urls


@dataclass(slots=True)
class Discovery:
    """Keeps the engines as `sources` say."""

    sources: tuple[str, ...]
    reconciliation: Reconciliation
    metrics: Metrics
    api_key: str | None
    # Seconds between two look-ups.
    interval: float
    resolve: Callable[[str], Awaitable[frozenset[str]]] = field(default_factory=lambda: look_up)
    _found: dict[str, dict[str, Engine]] = field(default_factory=dict)
    _closing: set[asyncio.Task[None]] = field(default_factory=set)
    _shown: dict[str, str] = field(default_factory=dict)

    async def run(self) -> None:
        """For ever, where there is a source."""
        try:
            while self.sources:
                for source in self.sources:
                    await self.look(source)
                await asyncio.sleep(self.interval)
        finally:
            for task in self._closing:
                task.cancel()
            await asyncio.gather(*self._closing, return_exceptions=True)

    async def look(self, source: str) -> None:
        """One look-up. A source that says nothing keeps its engines: their health says whether they are there."""
        known = self._found.setdefault(source, {})
        try:
            found = await self.resolve(source)
        except Unknown as error:
            if self._shown.get(source) != str(error):
                log.warning("engine.urls: %s: %s; its %d engines stay", source, error, len(known))
            self._shown[source] = str(error)
            return
        self._shown.pop(source, None)
        for url in sorted(found - known.keys()):
            known[url] = self._admit(url)
        for url in sorted(known.keys() - found):
            self._dismiss(known.pop(url))

    def _admit(self, url: str) -> Engine:
        engine = Engine.connect(url, self.api_key)
        self.metrics.watch_engine(engine)
        self.reconciliation.admit(engine)
        log.info("%s: found", url)
        return engine

    def _dismiss(self, engine: Engine) -> None:
        self.reconciliation.dismiss(engine)
        log.info("%s: is to go; %d requests run on it", engine.url, engine.in_flight)
        task = asyncio.create_task(self._close(engine), name=f"drain-{engine.url}")
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _close(self, engine: Engine) -> None:
        """Forget the engine once nothing runs on it."""
        try:
            while engine.in_flight:  # noqa: ASYNC110 -- nothing signals the end of the last request
                await asyncio.sleep(DRAIN_SECONDS)
        finally:
            with contextlib.suppress(ValueError):
                self.reconciliation.housekeeping.leaving.remove(engine)
            # It may be back already.
            if all(other.url != engine.url for other in self.reconciliation.engines):
                self.metrics.forget_engine(engine.url)
            log.info("%s: gone", engine.url)
            await engine.close()
