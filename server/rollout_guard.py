"""Takes a failing canary out of its route: all weight goes back to the heaviest version."""

import asyncio
import logging
import time
from dataclasses import dataclass, field

from adapters.state import State, StateError, route
from adapters.store import StoreError
from server.adapter_metrics import AdapterMetrics
from server.audit import Audit
from server.desired import Desired
from server.settings import CanarySettings
from server.table import RouteTable

log = logging.getLogger("zephyra.adapters")


@dataclass(slots=True)
class Tally:
    """Requests answered since the route changed."""

    total: int = 0
    failed: int = 0

    @property
    def rate(self) -> float:
        return self.failed / self.total if self.total else 0.0


@dataclass(slots=True)
class CanaryGuard:
    """Counts the outcomes of versions in weighted routes; each gateway counts its own requests."""

    desired: Desired
    audit: Audit
    settings: CanarySettings
    figures: AdapterMetrics = field(default_factory=AdapterMetrics)
    # By engine-side name, for versions in weighted routes only.
    tallies: dict[str, Tally] = field(default_factory=dict)
    _heaviest: dict[str, str] = field(default_factory=dict)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def watch(self, table: RouteTable) -> None:
        """Begin anew for routes that changed; keep counting for the others."""
        heaviest = {
            version.engine_name: route.primary.engine_name
            for route in table.routes.values()
            if len(route.shares) > 1
            for version in route.versions
        }
        if heaviest != self._heaviest:
            kept = {name for name, primary in heaviest.items() if self._heaviest.get(name) == primary}
            self.tallies = {name: self.tallies[name] if name in kept else Tally() for name in heaviest}
            self._heaviest = heaviest

    def record(self, engine_name: str, status: int) -> None:
        """Count one answer; a canary past its bound is taken out."""
        tally = self.tallies.get(engine_name)
        if tally is None:
            return
        tally.total += 1
        tally.failed += status >= 500
        primary = self._heaviest[engine_name]
        if engine_name == primary or tally.total < self.settings.min_requests:
            return
        # Where the heaviest version fails as often, the fault is the engine's.
        if tally.rate > self.settings.max_error_rate and tally.rate > self.tallies[primary].rate:
            reason = f"{tally.failed} of {tally.total} requests failed"
            del self.tallies[engine_name]
            task = asyncio.create_task(self._take_out(engine_name, primary, reason))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _take_out(self, canary: str, primary: str, reason: str) -> None:
        name, _, digest = canary.partition("@")
        stable = primary.partition("@")[2]
        before: dict[str, int] = {}

        def changed(state: State) -> State:
            weights = state.adapter(name).weights
            before.update(weights)
            if digest not in weights or stable not in weights:
                return state
            return route(state, name, {stable: 100}, time.time())

        try:
            await self.desired.change(changed)
        except (StateError, StoreError, OSError) as error:
            log.error("the canary %s could not be taken out: %s", canary, error)
            return
        self.figures.rolled_back(name)
        log.error("the canary %s was taken out: %s", canary, reason)
        self.audit.record("canary guard", "rollback", name, before, {stable: 100}, reason)
