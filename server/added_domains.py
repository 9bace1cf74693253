"""Domains that adapters brought along: their examples in the store, and TinyAda with a class for each one served.

    examples/DIGEST.json    the examples of one domain, as they were published; never changed

Every gateway makes the class anew from the examples, so that it also fits another TinyAda. A class serves if and only
if a route does: both are put in place in one step of the event loop.
"""

import hashlib
import logging
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from adapters.state import VERSION, State
from adapters.store import LEFTOVER_SECONDS, StoreError, replace_file
from router import AddedDomain, RouterError, TinyAda
from server.table import RouteTable

log = logging.getLogger("zephyra.router")


@dataclass(slots=True)
class AddedDomains:
    """The examples in `root`, and the classes made of them for the TinyAda at hand."""

    root: Path
    _made: dict[tuple[str, str, str], AddedDomain] = field(default_factory=dict)
    _told: set[tuple[str, str, str]] = field(default_factory=set)

    def keep(self, examples: Sequence[str]) -> str:
        """Store examples; returns their digest. Raises `OSError`."""
        content = msgspec.json.encode(list(examples))
        digest = hashlib.sha256(content).hexdigest()[:12]
        self.root.mkdir(parents=True, exist_ok=True)
        replace_file(self.root / f"{digest}.json", content)
        return digest

    def read(self, digest: str) -> list[str]:
        """Raises `StoreError`."""
        if not VERSION.fullmatch(digest):
            raise StoreError(f"{digest[:80]!r} names no examples; digests have 12 hexadecimal digits")
        path = self.root / f"{digest}.json"
        try:
            return msgspec.json.decode(path.read_bytes(), type=list[str])
        except (OSError, msgspec.MsgspecError) as error:
            raise StoreError(f"{path} cannot be read: {error}") from error

    def made(self, ada: TinyAda, domain: str, digest: str) -> AddedDomain:
        """The class of a domain's examples for this TinyAda, made once. Raises `RouterError`, `StoreError`."""
        key = (ada.digest, domain, digest)
        if key not in self._made:
            self._made[key] = ada.domain(domain, self.read(digest))
        return self._made[key]

    def with_served(self, ada: TinyAda, state: State, table: RouteTable, current: TinyAda) -> TinyAda:
        """`ada` with a class for each domain that an adapter brought along and now serves; `current` if it is that."""
        added = []
        for name, adapter in state.adapters.items():
            domain = adapter.domain
            if domain is None or domain in ada.domains or table.domains.get(domain) != name:
                continue
            examples = adapter.examples_of(table.adapters[name].digest)
            if examples is None:
                continue
            try:
                added.append(self.made(ada, domain, examples))
            except (RouterError, StoreError) as error:
                key = (ada.digest, domain, examples)
                if key not in self._told:
                    self._told.add(key)
                    log.error("the domain %s of %s is not routed to: %s", domain, name, error)
        if not added:
            return current if current.digest == ada.digest else ada
        same = [domain.digest for domain in current.added] == [domain.digest for domain in added]
        return current if same else ada.with_domains(added)

    def prune(self, state: State) -> None:
        """Delete examples that no adapter names any more, and that are not just being published."""
        adapters = state.adapters.values()
        named = {adapter.examples_of(version) for adapter in adapters for version in ("", *adapter.versions)}
        for path in self.root.glob("*.json"):
            if path.stem not in named and time.time() - path.stat().st_mtime > LEFTOVER_SECONDS:
                path.unlink(missing_ok=True)


def lacking(state: State, known: Collection[str], can_add: bool) -> list[str]:
    """Domains that adapters serve and a TinyAda with these could not, each with its adapter."""
    return sorted(
        f"{adapter.domain!r} ({name})"
        for name, adapter in state.adapters.items()
        if adapter.domain is not None
        and adapter.domain not in known
        and not adapter.removing
        and not (adapter.examples is not None and can_add)
    )
