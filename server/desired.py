"""The desired state as this gateway last read it, and the way to change it."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from adapters.state import State
from adapters.store import Store, StoreError

log = logging.getLogger("zephyra.adapters")

# How often the state file is looked at for changes by other gateways, in seconds.
WATCH_SECONDS = 0.25


@dataclass(slots=True)
class Desired:
    """A snapshot of the store's state; `on_change` is called whenever a newer one was adopted."""

    store: Store
    state: State
    on_change: Callable[[], None]
    _stamp: tuple[int, int, int] = (0, 0, 0)

    async def change(self, function: Callable[[State], State]) -> State:
        """Change the state for every gateway; returns the new one. Raises `StateError`, `StoreError`."""
        state = await asyncio.to_thread(self.store.change, function)
        self._adopt(state)
        return state

    def refresh(self) -> None:
        """Read the state again if it was replaced. Raises `StoreError`."""
        stamp = self.store.stamp()
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
