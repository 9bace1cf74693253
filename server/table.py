"""The route table: public name -> version, or weighted versions. A request reads one immutable snapshot throughout."""

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Self

from adapters.state import AdapterState, Phase, State
from adapters.version import Version

VersionOf = Callable[[str, str, str | None], Version]


@dataclass(frozen=True, slots=True)
class Route:
    """Who answers under one public name: versions with their weights, the heaviest first."""

    shares: tuple[tuple[Version, int], ...]

    @property
    def primary(self) -> Version:
        return self.shares[0][0]

    @property
    def versions(self) -> list[Version]:
        return [version for version, _ in self.shares]

    def pick(self, conversation: bytes) -> Version:
        """The version for a conversation: always the same one while the weights stay, on every gateway.

        Weighted rendezvous hashing (Thaler and Ravishankar 1998): a change of weights moves as few as can be.
        """
        return max(self.shares, key=lambda share: _score(conversation, share[0].engine_name, share[1]))[0]


def _score(conversation: bytes, name: str, weight: int) -> float:
    drawn = int.from_bytes(hashlib.blake2b(conversation, digest_size=8, key=name.encode()[:64]).digest(), "big")
    return -weight / math.log((drawn + 1) / (2**64 + 1))


@dataclass(frozen=True, slots=True)
class RouteTable:
    """What is served under which name.

    `adapters` maps public names to versions (a weighted name to its heaviest one), `domains` maps TinyAda's domains to
    public names. `zero` is the version through which the base is served where the engine needs one, else None.
    `routes` has every name's weights, `pinned` what a request may name as name@version, `pending` names that are
    being brought up for the first time. `allowed` are the only public names that exist for the reader; None is all.
    """

    base: str
    resolve: str
    adapters: Mapping[str, Version]
    domains: Mapping[str, str]
    zero: Version | None
    routes: Mapping[str, Route]
    pinned: Mapping[str, Version]
    pending: frozenset[str]
    allowed: frozenset[str] | None = None

    @classmethod
    def of(
        cls,
        base: str,
        resolve: str,
        routes: Mapping[str, Route],
        zero: Version | None,
        pinned: Iterable[Version] = (),
        pending: Iterable[str] = (),
    ) -> Self:
        adapters = {name: route.primary for name, route in routes.items()}
        domains = {version.domain: name for name, version in adapters.items() if version.domain is not None}
        routed = [version for route in routes.values() for version in route.versions]
        pins = {version.engine_name: version for version in (*pinned, *routed)}
        return cls(
            base,
            resolve,
            MappingProxyType(adapters),
            MappingProxyType(domains),
            zero,
            MappingProxyType(dict(routes)),
            MappingProxyType(pins),
            frozenset(pending),
        )

    @property
    def names(self) -> list[str]:
        """Every public model name, the routed one first."""
        return [name for name in (self.resolve, self.base, *self.adapters) if self.knows(name)]

    def knows(self, name: str) -> bool:
        """Whether a public name exists for the reader."""
        if self.allowed is not None and name.partition("@")[0] not in self.allowed:
            return False
        return name in (self.resolve, self.base) or name in self.adapters or name in self.pinned or name in self.pending

    def restricted(self, names: frozenset[str]) -> Self:
        """The table as one sees it who may use `names` only; the base still answers where TinyAda abstains."""
        adapters = {name: version for name, version in self.adapters.items() if name in names}
        domains = {domain: name for domain, name in self.domains.items() if name in names}
        return replace(
            self, adapters=MappingProxyType(adapters), domains=MappingProxyType(domains), allowed=frozenset(names)
        )

    @property
    def versions(self) -> list[Version]:
        """Every version that an engine must have loaded for the routes."""
        routed = [version for route in self.routes.values() for version in route.versions]
        return [*routed, *([self.zero] if self.zero else [])]

    def pick(self, name: str, conversation: Callable[[], bytes]) -> Version | None:
        """The version that answers under `name`, a public name or name@version; None for the base."""
        route = self.routes.get(name)
        if route is None:
            return self.pinned.get(name)
        if len(route.shares) == 1:
            return route.primary
        return route.pick(conversation())


def follow(state: State, current: RouteTable, version_of: VersionOf, loaded: Callable[[str], bool]) -> RouteTable:
    """The table for `state`, as far as the engines are: a route changes once all its versions are `loaded`.

    Until then a name keeps the route it has; a name without one gets the desired route, whose requests wait for their
    version (503), or none where nothing was ever verified (`pending`).
    """
    routes: dict[str, Route] = {}
    pinned: list[Version] = []
    pending: list[str] = []
    for name, adapter in state.adapters.items():
        if adapter.removing:
            continue
        pinned += [
            version_of(name, digest, adapter.domain)
            for digest, version in adapter.versions.items()
            if version.phase is Phase.READY and not version.removing
        ]
        desired = _desired(name, adapter, version_of)
        if desired is None:
            pending.append(name)
            continue
        kept = current.routes.get(name)
        if kept is None or kept == desired or all(loaded(version.engine_name) for version in desired.versions):
            kept = desired
        routes[name] = kept
    return RouteTable.of(current.base, current.resolve, routes, current.zero, pinned, pending)


def _desired(name: str, adapter: AdapterState, version_of: VersionOf) -> Route | None:
    if not adapter.weights:
        return None
    shares = sorted(adapter.weights.items(), key=lambda share: (-share[1], share[0]))
    return Route(tuple((version_of(name, digest, adapter.domain), weight) for digest, weight in shares))
