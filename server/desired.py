"""The desired state as this gateway last read it, and the way to change it."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from adapters.state import State
from adapters.store import NO_STATE, Store, StoreError

log = logging.getLogger("zephyra.adapters")

# How often the state file is looked at for changes by other gateways, in seconds.
WATCH_SECONDS = 0.25


@dataclass(slots=True)
class Desired:
    """A snapshot of the store's state; `on_change` is called whenever a newer one was adopted."""

    store: Store
    state: State
    on_change: Callable[[], None]
    _stamp: tuple[int, int, int] = NO_STATE

    async def change(self, function: Callable[[State], State]) -> State:
        """Change the state for every gateway; returns the new one. Raises `StateError`, `StoreError`."""

        def guarded(state: State) -> State:
            # A volume that is not mounted looks like an empty store.
            if state.revision < self.state.revision:
                raise StoreError(f"the state of {self.store.root} is older than what was read; is the volume mounted?")
            return function(state)

        state = await asyncio.to_thread(self.store.change, guarded)
        self._adopt(state)
        return state

    def refresh(self) -> None:
        """Read the state again if it was replaced. Raises `StoreError`."""
        stamp = self.store.stamp()
        if stamp == NO_STATE and self.state.revision:
            raise StoreError(f"the state of {self.store.root} has vanished; is the volume mounted?")
        if stamp != self._stamp:
            state = self.store.read()
            self._stamp = stamp
            self._adopt(state)

    async def watch(self) -> None:
        """Follow the other gateways' changes, for ever."""
        shown = ""
        while True:
            try:
                self.refresh()
                shown = ""
            except StoreError as error:
                # What was read last goes on being served.
                if str(error) != shown:
                    log.error("%s", error)
                shown = str(error)
            await asyncio.sleep(WATCH_SECONDS)

    def _adopt(self, state: State) -> None:
        if state.revision > self.state.revision:
            self.state = state
            self.on_change()
