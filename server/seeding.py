"""Opens the store and brings the configured adapters into it, once each."""

import hashlib
import json
import logging
import time
from collections.abc import Iterable
from pathlib import Path

import msgspec

from adapters.state import Phase, State, StateError, publish
from adapters.store import Store, StoreError
from adapters.version import Version
from router import RouterError
from server.routers import Routers
from server.settings import Settings, SettingsError
from server.swap import configured_state

log = logging.getLogger("zephyra.adapters")


def seed(settings: Settings, configured: Iterable[Version], temporary: Path) -> tuple[Store, State]:
    """The store with every configured adapter in it, and its state. Raises `SettingsError`.

    What was published, routed or removed since an adapter was first configured stays; a changed file in the
    configuration is a new version. `temporary` is where the store is when none is configured.
    """
    try:
        store = Store.open(settings.store.path or temporary)
        _claim_base(store, settings.base.model)
        for version in configured:
            _import(store, version)
        _import_router(store, settings.router.path, shadow=False)
        _import_router(store, settings.router.shadow, shadow=True)
        return store, store.read()
    except StoreError as error:
        raise SettingsError(f"store.path: {error}") from error


def _import_router(store: Store, path: Path | None, shadow: bool) -> None:
    """Bring a configured TinyAda into the store; what has served in its place since then stays."""
    key = "router.shadow" if shadow else "router.path"
    try:
        ada = Routers(store.root / "routers").bring(path, follow_links=True) if path is not None else None
        store.change(lambda state: configured_state(state, ada, shadow, time.time()))
    except (RouterError, StateError) as error:
        raise SettingsError(f"{key}: {error}") from error


def _import(store: Store, version: Version) -> None:
    state = store.read()
    name, digest = version.name, version.digest
    adapter = state.adapters.get(name)
    if state.forgotten.get(name) == digest or (adapter and adapter.removing):
        log.info("%s@%s is configured but was removed by hand; it stays away", name, digest)
        return
    known = adapter.versions.get(digest) if adapter else None
    same_domain = adapter is not None and version.domain in (None, adapter.domain)
    if adapter and adapter.configured == digest and same_domain and not (known and known.phase is Phase.FAILED):
        if known and not store.holds(name, digest):
            store.publish(name, version.path, follow_links=True)
        return
    store.publish(name, version.path, follow_links=True)
    try:
        store.change(lambda before: publish(before, name, digest, time.time(), domain=version.domain, configured=True))
    except StateError as error:
        raise SettingsError(f"adapters.{name}: {error}") from error


def _claim_base(store: Store, base: str) -> None:
    """A store belongs to one base: its adapters fit no other."""
    digest = base_shape(base)

    def claimed(state: State) -> State:
        if state.base not in ("", digest):
            raise StoreError(f"{store.root} holds adapters of another base; use another directory for this one.")
        return msgspec.structs.replace(state, base=digest)

    store.change(claimed)


def base_shape(base: str) -> str:
    """12 hex digits for a base: of its config.json without what does not change its shape, or of its id."""
    path = Path(base) / "config.json"
    try:
        config = json.loads(path.read_text())
    except (OSError, ValueError):
        return hashlib.sha256(base.encode()).hexdigest()[:12]
    for key in ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache"):
        config.pop(key, None)
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:12]
