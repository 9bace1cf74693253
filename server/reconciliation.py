"""The loops that keep every engine's adapters, and the route table, as the desired state says."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from adapters.placement import homes
from adapters.reconciler import plan
from adapters.store import ZERO, StoreError
from adapters.version import Version
from server.adapter_metrics import AdapterMetrics
from server.desired import Desired
from server.engine import Engine, LoadRefused
from server.errors import EngineUnavailable
from server.housekeeping import Housekeeping
from server.table import RouteTable, follow
from server.verification import answers

log = logging.getLogger("zephyra.adapters")

# A refused load is tried again after the interval, then twice that, up to so many seconds.
LONGEST_BACKOFF = 60.0


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an engine lacks an adapter, how often it said so, and when it is asked again (`time.monotonic`)."""

    reason: str
    times: int
    retry_at: float
    delay: float


@dataclass(slots=True)
class Reconciliation:
    """Looks at every engine every `interval` seconds, and at once when woken."""

    engines: list[Engine]
    housekeeping: Housekeeping
    desired: Desired
    table: Callable[[], RouteTable]
    # Replaces the table that requests read.
    flip: Callable[[RouteTable], None]
    interval: float
    # Engines whose process a supervisor watches: their `up` is not ours to set.
    supervised: bool
    # How many adapters an engine keeps in memory, where that is known.
    capacity: int | None = None
    # How many adapters one batch can have, where that is known.
    slots: int | None = None
    # On how many engines an adapter is kept; None is all.
    copies: int | None = None
    figures: AdapterMetrics = field(default_factory=AdapterMetrics)
    # By engine URL and engine-side name.
    refusals: dict[tuple[str, str], Refusal] = field(default_factory=dict)
    _wakes: list[asyncio.Event] = field(default_factory=list)
    _group: asyncio.TaskGroup | None = None
    _loops: dict[str, asyncio.Task[None]] = field(default_factory=dict)

    def wake(self) -> None:
        for event in self._wakes:
            event.set()

    async def run(self) -> None:
        """For ever: one loop for each engine, so that a slow one holds up none of the others, and one for the rest."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            for engine in self.engines:
                self._look_after(engine)
            group.create_task(self._repeat(self.housekeeping.round))

    def admit(self, engine: Engine) -> None:
        """An engine came: from now on it is looked after, and takes requests once it is ready."""
        self.engines.append(engine)
        self._look_after(engine)

    def dismiss(self, engine: Engine) -> None:
        """An engine left: it gets no more requests; what runs on it goes on."""
        self.engines.remove(engine)
        engine.ready = False
        if loop := self._loops.pop(engine.url, None):
            loop.cancel()
        for key in [key for key in self.refusals if key[0] == engine.url]:
            del self.refusals[key]
        if engine.in_flight:
            self.housekeeping.leaving.append(engine)

    def _look_after(self, engine: Engine) -> None:
        if self._group is not None:
            self._loops[engine.url] = self._group.create_task(self._repeat(lambda: self.reconcile(engine)))

    async def _repeat(self, step: Callable[[], Awaitable[None]]) -> None:
        event = asyncio.Event()
        self._wakes.append(event)
        try:
            while True:
                event.clear()
                try:
                    await step()
                except Exception:
                    # A fault in one round must not end the loop that heals everything else.
                    log.exception("reconciliation failed; it goes on with the next round")
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(event.wait(), self.interval)
        finally:
            self._wakes.remove(event)

    def follow(self) -> None:
        """Bring the route table up to the desired state as far as the engines are, by one replaced reference."""
        current = self.table()
        new = follow(self.desired.state, current, self.desired.store.version, self.everywhere)
        if new != current:
            self.flip(new)
            self.housekeeping.report()
            self.wake()

    def everywhere(self, name: str) -> bool:
        """Whether every ready engine that is to keep the version, and at least one, has it."""
        ready = [engine for engine in self.homes(name) if engine.ready]
        return bool(ready) and all(name in engine.loaded for engine in ready)

    def wanted(self) -> dict[str, Version]:
        """Every version that engines should hold, by engine-side name, the most needed first."""
        state, table = self.desired.state, self.table()
        versions = [*([table.zero] if table.zero else []), *table.versions]
        versions += [
            self.desired.store.version(name, digest, state.adapters[name].domain) for name, digest in state.resident()
        ]
        return {version.engine_name: version for version in versions}

    def homes(self, name: str) -> list[Engine]:
        """The engines that are up and to keep the version; what an engine kept moves on while it is down."""
        adapter, up = name.partition("@")[0], [engine for engine in self.engines if engine.up]
        kept = homes(adapter, (engine.url for engine in up), None if adapter == ZERO else self.copies)
        return [engine for engine in up if engine.url in kept]

    def wanted_on(self, engine: Engine) -> dict[str, Version]:
        """Those of `wanted` that this engine should hold."""
        return {name: version for name, version in self.wanted().items() if self._belongs(engine, name)}

    def wants(self, engine: Engine, name: str) -> bool:
        """Whether the engine should hold it."""
        return name in self.wanted() and self._belongs(engine, name)

    def _belongs(self, engine: Engine, name: str) -> bool:
        kept = self.homes(name)
        if engine in kept:
            return True
        # It serves on until those that are to keep it can.
        return name in engine.present and not all(home.ready and name in home.loaded for home in kept)

    def refusal(self, name: str) -> str | None:
        """Why some engine lacks the adapter, if one refused it twice: once may be an engine's last breath."""
        found = (
            refusal.reason for (_, refused), refusal in self.refusals.items() if refused == name and refusal.times > 1
        )
        return next(found, None)

    async def reconcile(self, engine: Engine) -> None:
        """One round for one engine; never raises."""
        try:
            if not self.supervised:
                was, engine.up = engine.up, await engine.healthy()
                if was != engine.up:
                    # Others take over what it kept, or give it back.
                    self.wake()
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
        engine.present = frozenset(present)
        wanted = self.wanted_on(engine)
        moved = {name for name, root in present.items() if name in wanted and _gone(root, wanted[name])}
        step = plan(wanted.values(), present, lambda name: engine.running[name], moved)
        engine.drift = step.drift
        # What other engines keep gets no more requests here, and is unloaded once idle.
        surplus = (engine.present & self.wanted().keys()) - wanted.keys()
        engine.loaded = engine.present - moved - surplus
        if any([await self._unload(engine, name) for name in step.unload]):
            # What has left the engine can be retired now.
            self.wake()
        for version in step.load:
            await self._load(engine, version)
        if not engine.ready:
            engine.ready = True
            log.info("%s: ready with %d adapters", engine.url, len(engine.loaded))
        self.follow()

    async def _load(self, engine: Engine, version: Version) -> None:
        name = version.engine_name
        refusal = self.refusals.get((engine.url, name))
        if not self.wants(engine, name) or (refusal and time.monotonic() < refusal.retry_at):
            return
        if self.capacity is not None and len(engine.present) >= self.capacity:
            self._refuse(engine, name, f"the engine holds its limit of {self.capacity} adapters; remove one")
            return
        began = time.perf_counter()
        try:
            await engine.load(version)
            self.figures.loaded(version.name, time.perf_counter() - began)
        except LoadRefused as error:
            # Another gateway on the same engine may have been quicker.
            if name not in await engine.list_adapters():
                if not await answers(engine):
                    raise EngineUnavailable(f"The engine answers nothing now: {error}") from error
                self._refuse(engine, name, str(error))
                return
        self.refusals.pop((engine.url, name), None)
        engine.present |= {name}
        engine.loaded |= {name}
        log.info("%s: loaded %s", engine.url, name)
        if engine.ready:
            self.follow()

    def _refuse(self, engine: Engine, name: str, reason: str) -> None:
        before = self.refusals.get((engine.url, name))
        if before is None or before.reason != reason:
            log.error("%s: %s was refused: %s", engine.url, name, reason)
        delay = min(before.delay * 2, LONGEST_BACKOFF) if before else self.interval
        times = before.times + 1 if before else 1
        self.refusals[engine.url, name] = Refusal(reason, times, time.monotonic() + delay, delay)

    def forgive(self, name: str) -> None:
        """Ask every engine again at once, as after a new publication."""
        for key in [key for key in self.refusals if key[1] == name]:
            del self.refusals[key]

    async def _unload(self, engine: Engine, name: str) -> bool:
        """Whether it was unloaded: one that is used, wanted again or refused was not."""
        # Asked again here: while others were loaded, the route may have gone back to it.
        try:
            self.desired.refresh()
        except StoreError as error:
            # Without the store nobody knows who else uses it. What is loaded serves on.
            log.error("%s: %s is not unloaded: %s", engine.url, name, error)
            return False
        wanted = self.wants(engine, name)
        misplaced = wanted and name not in engine.loaded
        if (wanted and not misplaced) or engine.running[name] or self._used_elsewhere(engine, name):
            return False
        engine.loaded -= {name}
        try:
            await engine.unload(name)
        except LoadRefused as error:
            # Gone already, as after the unload of another gateway; the next round sees what is there.
            log.info("%s: %s was not unloaded: %s", engine.url, name, error)
            return False
        engine.present -= {name}
        self.refusals.pop((engine.url, name), None)
        log.info("%s: unloaded %s", engine.url, name)
        return True

    def _used_elsewhere(self, engine: Engine, name: str) -> bool:
        others = self.desired.store.others(self.housekeeping.gateway)
        if name in self.wanted() and not self._belongs(engine, name):
            # Everyone uses it, but on the engines that keep it.
            return any(name in use.on.get(engine.url, ()) for use in others)
        return any(name in use.uses for use in others)


def _gone(root: str, version: Version) -> bool:
    """Whether an engine has the version from a directory that is no more: a lazy reload would kill vLLM."""
    return root != str(version.path) and not Path(root).exists()
