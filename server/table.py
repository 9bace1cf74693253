"""The route table: public name -> version. A request reads one immutable snapshot from beginning to end."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Self

from adapters.version import Version


@dataclass(frozen=True, slots=True)
class RouteTable:
    """What is served under which name.

    `adapters` maps public names to versions, `domains` maps TinyAda's domains to public names. `zero` is the version
    through which the base is served where the engine needs one, else None.
    """

    base: str
    resolve: str
    adapters: Mapping[str, Version]
    domains: Mapping[str, str]
    zero: Version | None

    @classmethod
    def of(cls, base: str, resolve: str, versions: Iterable[Version], zero: Version | None) -> Self:
        adapters = {version.name: version for version in versions}
        domains = {version.domain: name for name, version in adapters.items() if version.domain is not None}
        return cls(base, resolve, MappingProxyType(adapters), MappingProxyType(domains), zero)

    @property
    def names(self) -> list[str]:
        """Every public model name, the routed one first."""
        return [self.resolve, self.base, *self.adapters]

    @property
    def versions(self) -> list[Version]:
        """Every version that an engine must have loaded."""
        return [*self.adapters.values(), *([self.zero] if self.zero else [])]
