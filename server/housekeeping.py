"""What is left to do once engines have let go of versions: retire them, delete their files, forget the oldest."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from adapters.state import Phase, StateError, drop, move, remove_version
from adapters.store import StoreError
from server.desired import Desired
from server.engine import Engine
from server.table import RouteTable

log = logging.getLogger("zephyra.adapters")

# How often this gateway says what it uses, where nothing changes, in seconds.
REPORT_SECONDS = 5.0
# How often the store is swept of what killed gateways left, in seconds.
SWEEP_SECONDS = 600.0
ENDED = frozenset({Phase.RETIRED, Phase.FAILED})


@dataclass(slots=True)
class Housekeeping:
    """Knows what this gateway uses, tells the others, and lets go of what none of them uses."""

    engines: list[Engine]
    # Engines that left, until what runs on them has ended.
    leaving: list[Engine]
    desired: Desired
    table: Callable[[], RouteTable]
    # This gateway's name in the store.
    gateway: str
    # How many retired or failed versions of an adapter stay in the store.
    keep: int = 10
    _reported: tuple[frozenset[str], frozenset[str], dict[str, frozenset[str]]] | None = None
    _reported_at: float = 0.0
    _swept_at: float = field(default_factory=time.monotonic)

    def uses(self) -> frozenset[str]:
        """Engine-side names that requests of this gateway run under, or may at any moment."""
        running = (engine.running.keys() for engine in (*self.engines, *self.leaving))
        return self._routed().union(*running)

    def _routed(self) -> frozenset[str]:
        table = self.table()
        return frozenset({version.engine_name for version in table.versions} | set(table.pinned))

    def report(self) -> None:
        """Tell the other gateways what this one uses, so that they leave it on the engines and on disk."""
        engines, routed = (*self.engines, *self.leaving), self._routed()
        holds = frozenset[str]().union(*(engine.present for engine in engines))
        on = {engine.url: frozenset((engine.loaded & routed) | engine.running.keys()) for engine in engines}
        report = (self.uses(), holds, on)
        if report != self._reported or time.monotonic() - self._reported_at > REPORT_SECONDS:
            try:
                self.desired.store.report(self.gateway, *report)
            except OSError as error:
                log.error("the store cannot be written: %s", error)
                return
            self._reported, self._reported_at = report, time.monotonic()

    async def round(self) -> None:
        """Report, retire what has drained, delete what was removed, forget what ended long ago."""
        self.report()
        draining = [
            (name, digest)
            for name, adapter in self.desired.state.adapters.items()
            for digest, version in adapter.versions.items()
            if version.phase is Phase.DRAINING or version.removing
        ]
        for name, digest in draining:
            try:
                await self._let_go(name, digest)
            except (StoreError, OSError) as error:
                log.error("%s@%s: %s", name, digest, error)
        await self._prune()
        await self._drop_empty()
        if time.monotonic() - self._swept_at > SWEEP_SECONDS:
            self._swept_at = time.monotonic()
            await asyncio.to_thread(self.desired.store.sweep)

    async def _let_go(self, name: str, digest: str) -> None:
        engine_name = f"{name}@{digest}"
        others = self.desired.store.others(self.gateway)
        in_use = engine_name in self.uses() or any(engine_name in use.uses for use in others)
        if in_use or any(engine_name in engine.present for engine in self.engines):
            return
        version = self.desired.state.version(name, digest)
        if not version.removing:
            now = time.time()
            await self.desired.change(
                lambda state: (
                    move(state, name, digest, Phase.RETIRED, now)
                    if state.version(name, digest).phase is Phase.DRAINING
                    else state
                )
            )
            return
        # An engine that cannot be asked may still hold it: vLLM dies of a file that is gone.
        asked = self.engines and all(engine.ready for engine in self.engines)
        if asked and not any(engine_name in use.holds for use in others):
            await self.desired.change(lambda state: drop(state, name, digest))
            await asyncio.to_thread(self.desired.store.delete, name, digest)
            log.info("deleted %s", engine_name)

    async def _prune(self) -> None:
        """Remove the versions that ended longest ago, beyond those kept. Never one that a rollback would want."""
        for name, adapter in self.desired.state.adapters.items():
            ended = sorted(
                (version.now.at, digest)
                for digest, version in adapter.versions.items()
                if version.phase in ENDED
                and not version.removing
                and digest not in adapter.previous
                and digest not in (adapter.target or {})
            )
            for _, digest in ended[: -self.keep]:
                with contextlib.suppress(StateError):
                    await self.desired.change(partial(remove_version, name=name, digest=digest, now=time.time()))

    async def _drop_empty(self) -> None:
        """An adapter removed before it had any version."""
        empty = [name for name, adapter in self.desired.state.adapters.items() if adapter.removing]
        for name in empty:
            if not self.desired.state.adapters[name].versions:
                await self.desired.change(partial(drop, name=name, digest=""))
