"""Swapping TinyAda while it serves: what the desired state names is loaded, checked, and put in place by one reference.

The desired state is shared, so a swap reaches every gateway on the store. The directories that the configuration
names are looked at for new files. All of it happens beside the requests, which read the reference they find.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from adapters.state import RouterState, State, StateError
from adapters.store import StoreError
from router import GENERAL, RouterError, TinyAda
from router.manifest import MANIFEST, files_of, read_manifest
from server.added_domains import lacking
from server.audit import Audit
from server.desired import Desired
from server.metrics import Metrics
from server.routers import SHIPPED, Routers
from server.settings import RouterSettings
from server.shadow import Shadow

log = logging.getLogger("zephyra.router")

# How often the configured directories are looked at, in seconds.
WATCH_SECONDS = 1.0
# What could not be loaded is tried again after so many seconds.
RETRY_SECONDS = 30.0
NOBODY = "router settings"


@dataclass(slots=True)
class Watched:
    """A configured directory. It has changed once its files differ from the last time and have then stayed a while."""

    path: Path
    _seen: object = None
    _settled: bool = False

    def changed(self) -> bool:
        """Whether there are new files, all written; true once for each change."""
        stamps = []
        for name in (*files_of(self.path), MANIFEST):
            with contextlib.suppress(OSError):
                found = (self.path / name).stat()
                stamps.append((name, found.st_ino, found.st_mtime_ns, found.st_size))
        if stamps != self._seen:
            self._seen, self._settled = stamps, False
            return False
        fresh = not self._settled
        self._settled = True
        return fresh


@dataclass(slots=True)
class RouterSwap:
    """Keeps the TinyAda that serves, and the one in its shadow, as the desired state says."""

    desired: Desired
    routers: Routers
    settings: RouterSettings
    audit: Audit
    metrics: Metrics
    shadow: Shadow
    # Replaces the TinyAda that requests read.
    put: Callable[[TinyAda], None]
    # What the state called the one that serves, and the one in its shadow.
    serving: str
    shadowing: str = ""
    # Why what the state names is not in place.
    problem: str = ""
    _failed: dict[str, float] = field(default_factory=dict)
    _watched: list[tuple[bool, Watched]] = field(default_factory=list)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def __post_init__(self) -> None:
        for shadow, path in ((False, self.settings.path), (True, self.settings.shadow)):
            if path is not None:
                self._watched.append((shadow, Watched(path)))

    def wake(self) -> None:
        self._wake.set()

    async def run(self) -> None:
        """Follow the desired state and the configured directories, for ever."""
        while True:
            self._wake.clear()
            try:
                for shadow, watched in self._watched:
                    if watched.changed():
                        await self._configured_changed(watched.path, shadow)
                await self.follow()
            except Exception:
                log.exception("following the router's state failed; it goes on with the next round")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), WATCH_SECONDS)

    async def serve(self, who: str, source: Path) -> None:
        """Put the TinyAda of a directory in place, here and on every gateway of the store.

        Raises `RouterError` where it cannot serve, `StateError` where adapters serve domains it lacks, `StoreError`:
        the one before then goes on serving.
        """
        await self._change(who, "swap router", source, serving_state)

    async def compare(self, who: str, source: Path) -> None:
        """Let the TinyAda of a directory decide in the shadow of the one that serves. Raises as `serve` does."""
        await self._change(who, "shadow router", source, shadow_state)

    async def stop_comparing(self, who: str) -> None:
        """No shadow any more. Raises `StoreError`."""
        before = self.desired.state.router.shadow
        await self.desired.change(lambda state: shadow_state(state, "", (), time.time()))
        self.audit.record(who, "shadow router", "", before, "")
        await self.follow()

    async def roll_back(self, who: str) -> None:
        """Back to the TinyAda before the last change. Raises `RouterError`, `StateError`, `StoreError`."""
        before = self.desired.state.router
        if before.previous is None:
            raise StateError("No other TinyAda has served here; there is none to go back to.")
        ada = await asyncio.to_thread(self.routers.load, before.previous)
        digest = before.previous
        await self.desired.change(
            lambda state: serving_state(state, digest, ada.domains, time.time(), ada.statistics is not None)
        )
        self.audit.record(who, "roll back router", "", before.serving, digest)
        await self.follow(ada)

    async def follow(self, loaded: TinyAda | None = None) -> None:
        """Put in place what the state names, as far as it can be loaded; `loaded` is it, where that is at hand."""
        async with self._lock:
            wanted = self.desired.state.router
            if (wanted.serving, wanted.shadow) == (self.serving, self.shadowing):
                return
            problems: list[str] = []
            if wanted.serving != self.serving:
                ada = await self._load(wanted.serving, loaded, problems)
                if ada is not None:
                    self.serving = wanted.serving
                    self.put(ada)
            if wanted.shadow != self.shadowing:
                shadow = await self._load(wanted.shadow, loaded, problems) if wanted.shadow else None
                if shadow is not None or not wanted.shadow:
                    self.shadowing = wanted.shadow
                    self.shadow.use(shadow)
                    self.metrics.show_router("shadow", shadow.digest if shadow else None)
            self.problem = "; ".join(problems)
        named = (wanted.serving, wanted.previous or "", wanted.shadow, wanted.configured, wanted.configured_shadow)
        await asyncio.to_thread(self.routers.prune, named)

    async def _load(self, digest: str, loaded: TinyAda | None, problems: list[str]) -> TinyAda | None:
        if loaded is not None and loaded.digest == digest:
            return loaded
        if time.monotonic() < self._failed.get(digest, 0.0):
            problems.append(self.problem)
            return None
        try:
            return await asyncio.to_thread(self.routers.load, digest)
        except RouterError as error:
            self._failed[digest] = time.monotonic() + RETRY_SECONDS
            problems.append(f"TinyAda {digest} cannot be loaded: {error}")
            log.error("%s; the one before goes on", problems[-1])
            self.metrics.router_swaps.labels("refused").inc()
            return None

    async def _change(
        self, who: str, what: str, source: Path, change: Callable[[State, str, Iterable[str], float, bool], State]
    ) -> None:
        before = self.desired.state.router
        shadow = change is shadow_state
        was = before.shadow if shadow else before.serving
        try:
            ada = await asyncio.to_thread(self.routers.bring, source)
            await self.desired.change(
                lambda state: change(state, ada.digest, ada.domains, time.time(), ada.statistics is not None)
            )
        except (RouterError, StateError) as error:
            self._refuse(who, what, was, source, error)
            raise
        self.audit.record(who, what, "", was, ada.digest, f"from {source}")
        await self.follow(ada)

    def _refuse(self, who: str, what: str, was: str, source: Path, error: Exception) -> None:
        log.error("%s: refused, the one before goes on: %s", what, error)
        self.metrics.router_swaps.labels("refused").inc()
        self.audit.record(who, what, "", was, str(source), f"refused: {error}")

    async def _configured_changed(self, path: Path, shadow: bool) -> None:
        """New files in a configured directory: put them in place, unless the state had them already."""
        router = self.desired.state.router
        was = router.configured_shadow if shadow else router.configured
        what = "shadow router" if shadow else "swap router"
        try:
            if (await asyncio.to_thread(read_manifest, path)).digest == was:
                return
            ada = await asyncio.to_thread(self.routers.bring, path, True)
            await self.desired.change(lambda state: configured_state(state, ada, shadow, time.time()))
        except (RouterError, StateError) as error:
            self.problem = f"{path}: {error}"
            self._refuse(NOBODY, what, was, path, error)
        except (StoreError, OSError) as error:
            log.error("%s: %s", path, error)
        else:
            self.audit.record(NOBODY, what, "", was, ada.digest, f"new files in {path}")
            await self.follow(ada)


def serving_state(state: State, digest: str, domains: Iterable[str], now: float, can_add: bool = False) -> State:
    """The state in which this TinyAda serves; `can_add`: domains can be added to it from examples.

    Raises `StateError` where adapters serve domains that it lacks.
    """
    known = {*domains, GENERAL}
    absent = lacking(state, known, can_add)
    if absent:
        raise StateError(
            f"This TinyAda knows no {', '.join(absent)}; its domains are {', '.join(sorted(known))}. "
            "Remove these adapters first, or train it with these domains."
        )
    if digest == state.router.serving:
        return state
    router = msgspec.structs.replace(state.router, serving=digest, previous=state.router.serving, changed_at=now)
    return msgspec.structs.replace(state, router=router)


def shadow_state(state: State, digest: str, domains: Iterable[str], now: float, can_add: bool = False) -> State:
    """The state in which this TinyAda is the shadow; with "" there is none. Its domains may be others."""
    return msgspec.structs.replace(state, router=msgspec.structs.replace(state.router, shadow=digest))


def configured_state(state: State, ada: TinyAda | None, shadow: bool, now: float) -> State:
    """The state once the configuration brought this TinyAda (None: the shipped one, or no shadow).

    What was changed since the configuration last brought one stays. Raises `StateError` as `serving_state` does.
    """
    digest = ada.digest if ada is not None else SHIPPED
    router: RouterState = state.router
    if shadow:
        if router.configured_shadow == digest:
            return state
        state = shadow_state(state, digest, (), now)
        return msgspec.structs.replace(state, router=msgspec.structs.replace(state.router, configured_shadow=digest))
    if router.configured == digest:
        return state
    found = ada if ada is not None else TinyAda.load()
    state = serving_state(state, digest, found.domains, now, found.statistics is not None)
    return msgspec.structs.replace(state, router=msgspec.structs.replace(state.router, configured=digest))
