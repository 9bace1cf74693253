"""On which engines an adapter is kept: the same answer on every gateway, from nothing but names."""

import hashlib
from collections.abc import Iterable


def homes(adapter: str, engines: Iterable[str], copies: int | None) -> frozenset[str]:
    """The URLs of the engines that keep `adapter`, `copies` of those given, or all of them for None.

    Rendezvous hashing: an engine that goes moves only what it kept, and gets the same back when it returns.
    """
    if copies is None:
        return frozenset(engines)
    ranked = sorted(engines, key=lambda url: (_score(adapter, url), url), reverse=True)
    return frozenset(ranked[:copies])


def _score(adapter: str, url: str) -> bytes:
    return hashlib.blake2b(url.encode(), digest_size=8, key=adapter.encode()[:64]).digest()
