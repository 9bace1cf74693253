"""Warns when requests wait for an adapter slot of their engine's batch, as vLLM's own metrics say.

An adapter beyond `--max-loras` waits until a slot is free, for seconds, while those that have one are served at once.
"""

import asyncio
import logging
from dataclasses import dataclass, field

from server.engine import Engine
from server.errors import EngineUnavailable

log = logging.getLogger("zephyra.adapters")

# Between two looks at the engines' metrics. A request that waits at two of them in a row is worth a warning.
LOOK_SECONDS = 10.0


@dataclass(slots=True)
class Starvation:
    """Keeps each engine's `deferred` up to date."""

    engines: list[Engine]
    _starving: set[str] = field(default_factory=set)

    async def run(self) -> None:
        """For ever."""
        while True:
            await asyncio.gather(*(self.look(engine) for engine in self.engines if engine.ready))
            await asyncio.sleep(LOOK_SECONDS)

    async def look(self, engine: Engine) -> None:
        """One look; warns at the second in a row at which requests wait, until there is one at which none does."""
        before = engine.deferred
        try:
            engine.deferred = await engine.count_deferred()
        except EngineUnavailable:
            # Its health says so too, and reconciliation logs it.
            engine.deferred = 0
        if not engine.deferred:
            self._starving.discard(engine.url)
        elif before and engine.url not in self._starving:
            self._starving.add(engine.url)
            log.warning(
                "%s: %d requests wait for an adapter slot: more adapters are asked for at once than one batch has "
                "slots; raise engine.max_loras, or keep fewer adapters on an engine (engine.copies)",
                engine.url,
                engine.deferred,
            )
