"""The loop that keeps every engine's adapters as the route table desires them."""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from adapters.reconciler import plan
from adapters.version import Version
from server.engine import Engine, LoadRefused
from server.errors import EngineUnavailable
from server.table import RouteTable

log = logging.getLogger("zephyra.adapters")


@dataclass(slots=True)
class Reconciliation:
    """Looks at every engine every `interval` seconds, and at once when woken."""

    engines: list[Engine]
    table: Callable[[], RouteTable]
    interval: float
    # Engines whose process a supervisor watches: their `up` is not ours to set.
    supervised: bool
    # Why an adapter is not loaded, by engine URL and engine-side name.
    refusals: dict[tuple[str, str], str] = field(default_factory=dict)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)

    def wake(self) -> None:
        self._wake.set()

    async def run(self) -> None:
        while True:
            await asyncio.gather(*(self.reconcile(engine) for engine in self.engines))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), self.interval)
            self._wake.clear()

    async def reconcile(self, engine: Engine) -> None:
        """One round for one engine; never raises."""
        try:
            if not self.supervised:
                engine.up = await engine.healthy()
            if engine.up:
                await self._apply(engine)
            else:
                engine.mark_down()
        except EngineUnavailable as error:
            log.warning("%s: %s", engine.url, error.message)
            engine.ready = False
            if not self.supervised:
                engine.mark_down()

    async def _apply(self, engine: Engine) -> None:
        present = await engine.list_adapters()
        desired = self.table().versions
        step = plan(desired, present, lambda name: engine.running[name])
        engine.loaded = frozenset(present)
        for version in step.load:
            await self._load(engine, version)
        for name in step.unload:
            engine.loaded -= {name}
            await engine.unload(name)
            log.info("%s: unloaded %s", engine.url, name)
        if not engine.ready:
            engine.ready = True
            log.info("%s: ready with %d adapters", engine.url, len(engine.loaded))

    async def _load(self, engine: Engine, version: Version) -> None:
        name = version.engine_name
        try:
            await engine.load(version)
        except LoadRefused as error:
            if self.refusals.get((engine.url, name)) != str(error):
                log.error("%s: %s was refused: %s", engine.url, name, error)
            self.refusals[engine.url, name] = str(error)
            return
        self.refusals.pop((engine.url, name), None)
        engine.loaded |= {name}
        log.info("%s: loaded %s", engine.url, name)
