"""Reconciliation: what to do so that an engine serves what is desired. Level-triggered and free of I/O.

The caller reads the engine's state anew each time, asks for a `Plan`, acts, and repeats for ever; nothing is
remembered between two rounds, so a restart, a lost adapter or a half-done change heal in the same way.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from adapters.version import Version


@dataclass(frozen=True, slots=True)
class Plan:
    """Versions to load and engine-side names to unload."""

    load: tuple[Version, ...]
    unload: tuple[str, ...]

    @property
    def drift(self) -> int:
        """How many adapters differ between desire and engine."""
        return len(self.load) + len(self.unload)


def plan(
    desired: Iterable[Version],
    loaded: Mapping[str, str],
    in_flight: Callable[[str], int] = lambda name: 0,
    moved: Collection[str] = (),
) -> Plan:
    """Compare desired versions with an engine's adapters.

    `loaded` maps engine-side names to root paths, as `GET /v1/models` lists them; names without `@` are not ours and
    are left alone. A version no longer desired is unloaded once `in_flight(name)` is zero. One of `moved`, loaded from
    a directory that is gone, is unloaded in the same way and loaded again.
    """
    wanted = {version.engine_name: version for version in desired}
    idle = [name for name in loaded if "@" in name and not in_flight(name)]
    unload = tuple(name for name in idle if name not in wanted or name in moved)
    load = tuple(version for name, version in wanted.items() if name not in loaded or name in unload)
    return Plan(load, unload)
