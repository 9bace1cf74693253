"""The route table: public name -> version. A request reads one immutable snapshot from beginning to end."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Self

from adapters.version import Version


@dataclass(frozen=True, slots=True)
class RouteTable:
    """What is served under which name.

    `adapters` maps public names to versions, `domains` maps TinyAda's domains to public names. `zero` is the version
    through which the base is served where the engine needs one, else None. `allowed` are the only public names that
    exist for the reader; None is all.
    """

    base: str
    resolve: str
    adapters: Mapping[str, Version]
    domains: Mapping[str, str]
    zero: Version | None
    allowed: frozenset[str] | None = None

    @classmethod
    def of(cls, base: str, resolve: str, versions: Iterable[Version], zero: Version | None) -> Self:
        adapters = {version.name: version for version in versions}
        domains = {version.domain: name for name, version in adapters.items() if version.domain is not None}
        return cls(base, resolve, MappingProxyType(adapters), MappingProxyType(domains), zero)

    @property
    def names(self) -> list[str]:
        """Every public model name, the routed one first."""
        return [name for name in (self.resolve, self.base, *self.adapters) if self.knows(name)]

    def knows(self, name: str) -> bool:
        """Whether a public name exists for the reader."""
        if self.allowed is not None and name not in self.allowed:
            return False
        return name == self.resolve or name == self.base or name in self.adapters

    def restricted(self, names: frozenset[str]) -> Self:
        """The table as one sees it who may use `names` only; the base still answers where TinyAda abstains."""
        adapters = {name: version for name, version in self.adapters.items() if name in names}
        domains = {domain: name for domain, name in self.domains.items() if name in names}
        return replace(
            self, adapters=MappingProxyType(adapters), domains=MappingProxyType(domains), allowed=frozenset(names)
        )

    @property
    def versions(self) -> list[Version]:
        """Every version that an engine must have loaded."""
        return [*self.adapters.values(), *([self.zero] if self.zero else [])]
