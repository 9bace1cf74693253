"""What lives as long as the gateway: TinyAda, the store, the route table, the engines, and the tasks for them."""

import asyncio
import contextlib
import json
import logging
import os
import socket
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

from adapters.state import Phase, State
from adapters.store import ZERO, Store, StoreError
from adapters.version import Version, read_version
from adapters.zero import write_zero_adapter
from router import RouterError, TinyAda
from server.added_domains import AddedDomains
from server.audit import Audit
from server.desired import Desired
from server.discovery import Discovery
from server.engine import Engine
from server.feed import Feed
from server.housekeeping import Housekeeping
from server.metrics import Metrics
from server.reconciliation import Reconciliation
from server.rollout import Limits, Rollouts
from server.rollout_guard import CanaryGuard
from server.routers import SHIPPED, Routers, checked
from server.seeding import seed
from server.settings import Settings, SettingsError
from server.shadow import Shadow
from server.starvation import Starvation
from server.supervisor import LORA_RANKS, Supervisor, adapter_capacity, adapter_slots, engine_device
from server.swap import RouterSwap
from server.table import RouteTable

log = logging.getLogger("zephyra")


@dataclass(slots=True)
class Gateway:
    """The state that requests read. `table` and `classifier` are replaced whole, never changed."""

    settings: Settings
    metrics: Metrics
    table: RouteTable
    classifier: TinyAda
    # TinyAda without the domains that adapters brought along.
    trained: TinyAda
    added: AddedDomains
    engines: list[Engine]
    supervisor: Supervisor | None
    desired: Desired
    reconciliation: Reconciliation
    rollouts: Rollouts
    guard: CanaryGuard
    audit: Audit
    shadow: Shadow
    swap: RouterSwap
    discovery: Discovery
    feed: Feed = field(default_factory=Feed)

    def wake(self) -> None:
        """Look at the engines now rather than at the next interval."""
        self.reconciliation.wake()

    def flip(self, table: RouteTable) -> None:
        """Requests from now on read `table`."""
        for name, route in table.routes.items():
            if self.table.routes.get(name) != route:
                shares = ", ".join(f"{version.digest} {weight}" for version, weight in route.shares)
                log.info("route of %s: %s", name, shares)
        slots = self.reconciliation.slots
        if slots is not None and len(table.versions) > slots >= len(self.table.versions):
            log.warning(
                "%d versions are served, but a batch has %d adapter slots: requests will wait for one another; "
                "raise engine.max_loras",
                len(table.versions),
                slots,
            )
        # A domain and its route come and go together: nothing runs between these two lines.
        self.classifier = self.added.with_served(self.trained, self.desired.state, table, self.classifier)
        self.table = table
        self.guard.watch(table)

    def put_router(self, classifier: TinyAda) -> None:
        """Requests from now on ask this TinyAda."""
        self.trained = classifier
        self.classifier = self.added.with_served(classifier, self.desired.state, self.table, classifier)
        self.metrics.show_router("serving", classifier.digest)
        self.metrics.router_swaps.labels("served").inc()
        log.info("TinyAda %s serves, with the domains %s", classifier.digest, ", ".join(classifier.domains))

    def follow(self) -> None:
        """The desired state changed: act on it now."""
        self.reconciliation.follow()
        self._follow_examples()
        self.reconciliation.wake()
        self.rollouts.wake()
        self.swap.wake()

    def _follow_examples(self) -> None:
        """New examples of an adapter whose route stays as it is."""
        self.classifier = self.added.with_served(self.trained, self.desired.state, self.table, self.classifier)
        self.added.prune(self.desired.state)

    def missing(self) -> list[str]:
        """What stands between now and being ready; empty when ready."""
        findings: list[str] = []
        if not any(engine.ready for engine in self.engines):
            findings.append("no engine is ready")
        for engine in self.engines:
            due = [version.engine_name for version in self.table.versions]
            absent = [name for name in due if name not in engine.loaded and engine in self.reconciliation.homes(name)]
            if engine.ready and absent:
                refusals = [self.reconciliation.refusals.get((engine.url, name)) for name in absent]
                reasons = [refusal.reason if refusal else "not loaded yet" for refusal in refusals]
                listed = ", ".join(f"{name} ({why})" for name, why in zip(absent, reasons, strict=True))
                findings.append(f"{engine.url} lacks {listed}")
        for name in sorted(self.table.pending):
            adapter = self.desired.state.adapters.get(name)
            # One published by hand is announced by its own phases; only the configured ones are promised.
            if adapter and adapter.configured in adapter.versions:
                now = adapter.versions[adapter.configured].now
                findings.append(f"{name} is {now.phase}" + (f": {now.reason}" if now.phase is Phase.FAILED else ""))
        return findings


@contextlib.asynccontextmanager
async def running_gateway(settings: Settings, home: Path | None = None) -> AsyncIterator[Gateway]:
    """A gateway with its background tasks; leaving the context stops all it started.

    `home` is for its engine's socket and its temporary files; without one, a directory that goes with it.
    Raises `SettingsError` where an adapter, TinyAda, the store or the base cannot be used.
    """
    with contextlib.ExitStack() as stack:
        if home is None:
            temporary = tempfile.TemporaryDirectory(prefix="zephyra-", ignore_cleanup_errors=True)
            home = Path(stack.enter_context(temporary))
        home.mkdir(exist_ok=True)
        gateway = _build(settings, home)
        tasks = [
            asyncio.create_task(gateway.reconciliation.run(), name="reconciliation"),
            asyncio.create_task(gateway.rollouts.run(), name="rollouts"),
            asyncio.create_task(gateway.desired.watch(), name="desired-state"),
            asyncio.create_task(gateway.swap.run(), name="router"),
            asyncio.create_task(gateway.shadow.run(), name="shadow"),
            asyncio.create_task(gateway.discovery.run(), name="discovery"),
            asyncio.create_task(Starvation(gateway.engines).run(), name="starvation"),
        ]
        if gateway.supervisor:
            gateway.supervisor.start(gateway.engines[0])
        try:
            yield gateway
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if gateway.supervisor:
                await gateway.supervisor.stop()
            for engine in gateway.engines:
                await engine.close()
            gateway.desired.store.retract(gateway.reconciliation.housekeeping.gateway)


def check(settings: Settings) -> None:
    """Raise `SettingsError` for what can be known to be unusable before anything is started."""
    classifier = load_classifier(settings)
    _check_domains(settings, classifier)
    versions = load_versions(settings)
    for version in versions:
        lora_rank(version)
    if settings.store.path is not None:
        seed(settings, versions, settings.store.path)


def _build(settings: Settings, directory: Path) -> Gateway:
    classifier = load_classifier(settings)
    versions = load_versions(settings)
    _check_domains(settings, classifier)
    store, state = seed(settings, versions, directory / "store")
    routers = Routers(store.root / "routers")
    serving = SHIPPED
    if state.router.serving != SHIPPED:
        classifier, serving = _stored_classifier(routers, state, classifier)
    zero = None
    if engine_device(settings.engine) == "cpu":
        zero = _zero_version(settings, store, directory)
    table = RouteTable.of(settings.names.base, settings.names.resolve, {}, zero)
    metrics = Metrics()
    supervisor = None
    capacity, slots = settings.engine.max_cpu_loras, settings.engine.max_loras
    max_rank = settings.engine.max_lora_rank or LORA_RANKS[-1]
    if settings.engine.urls:
        listed = [url for url in settings.engine.urls if url not in settings.engine.sources]
        engines = [Engine.connect(url, settings.engine.api_key) for url in listed]
    else:
        known = [store.version(name, digest) for name, adapter in state.adapters.items() for digest in adapter.versions]
        rank = max((lora_rank(version) for version in known if version.path.exists()), default=8)
        max_rank = settings.engine.max_lora_rank or next(allowed for allowed in LORA_RANKS if allowed >= rank)
        count = sum(not adapter.removing for adapter in state.adapters.values()) + (zero is not None)
        capacity, slots = adapter_capacity(settings.engine, count), adapter_slots(settings.engine, count)
        supervisor = Supervisor(settings.engine, settings.base.model, count, rank, lambda: gateway.wake(), directory)
        engines = [Engine.connect(supervisor.url)]
    desired = Desired(store, state, lambda: gateway.follow())
    audit = Audit(store.root / "audit.jsonl")
    name = f"{socket.gethostname()}-{os.getpid()}-{os.urandom(4).hex()}"
    housekeeping = Housekeeping(engines, [], desired, lambda: gateway.table, name, settings.store.keep)
    reconciliation = Reconciliation(
        engines,
        housekeeping,
        desired,
        lambda: gateway.table,
        lambda table: gateway.flip(table),
        settings.engine.poll_interval,
        supervisor is not None,
        capacity,
        slots,
        settings.engine.copies,
        metrics.adapters,
    )
    of_store = settings.store
    limits = Limits(settings.base.model, max_rank, of_store.max_bytes, of_store.exam_share, of_store.exam_questions)
    rollouts = Rollouts(desired, reconciliation, limits, settings.engine.poll_interval, metrics.adapters)
    guard = CanaryGuard(desired, audit, settings.canary, metrics.adapters)
    shadow = Shadow(metrics, settings.router.shadow_share)
    swap = RouterSwap(
        desired, routers, settings.router, audit, metrics, shadow, lambda ada: gateway.put_router(ada), serving
    )
    metrics.show_router("serving", classifier.digest)
    discovery = Discovery(
        settings.engine.sources, reconciliation, metrics, settings.engine.api_key, settings.engine.resolve_interval
    )
    for engine in engines:
        metrics.watch_engine(engine)
    metrics.adapters_desired.set_function(lambda: len(reconciliation.wanted()))
    metrics.adapter_slots.set(slots or 0)
    metrics.adapters.watch(lambda: desired.state, lambda: gateway.table)
    gateway = Gateway(
        settings,
        metrics,
        table,
        classifier,
        classifier,
        AddedDomains(store.root / "examples"),
        engines,
        supervisor,
        desired,
        reconciliation,
        rollouts,
        guard,
        audit,
        shadow,
        swap,
        discovery,
    )
    gateway.feed.prompts = settings.console.prompts
    reconciliation.follow()
    return gateway


def load_classifier(settings: Settings) -> TinyAda:
    """The TinyAda that will serve: as configured, or what the store's state has put in its place since.

    Raises `SettingsError`.
    """
    router = settings.router
    if router.shadow is not None:
        _checked("router.shadow", router.shadow)
    classifier = _checked("router.path", router.path)
    if settings.store.path is None:
        return classifier
    try:
        state = Store(settings.store.path.resolve()).read()
    except StoreError as error:
        raise SettingsError(f"store.path: {error}") from error
    configured = SHIPPED if router.path is None else classifier.digest
    if state.router.configured != configured or state.router.serving == configured:
        return classifier
    return _stored_classifier(Routers(settings.store.path.resolve() / "routers"), state, classifier)[0]


def _checked(key: str, path: Path | None) -> TinyAda:
    try:
        return checked(path)
    except RouterError as error:
        raise SettingsError(f"{key}: {error}") from error


def _stored_classifier(routers: Routers, state: State, otherwise: TinyAda) -> tuple[TinyAda, str]:
    """What the state says should serve, with its name there; `otherwise` where it cannot be loaded."""
    try:
        return routers.load(state.router.serving), state.router.serving
    except RouterError as error:
        log.error("TinyAda %s cannot be loaded, the configured one serves: %s", state.router.serving, error)
        return otherwise, SHIPPED


def load_versions(settings: Settings) -> list[Version]:
    """The configured adapters' versions. Raises `SettingsError` naming the adapter."""
    versions = []
    for name, adapter in settings.adapters.items():
        try:
            versions.append(read_version(name, adapter.path, adapter.domain))
        except OSError as error:
            problem = f"{adapter.path} must hold adapter_config.json and adapter_model.safetensors"
            raise SettingsError(f"adapters.{name}.path: {problem} ({error.strerror})") from error
    return versions


def lora_rank(version: Version) -> int:
    """The rank its configuration states. Raises `SettingsError`."""
    try:
        return int(json.loads((version.path / "adapter_config.json").read_text())["r"])
    except (ValueError, KeyError, TypeError) as error:
        raise SettingsError(f"adapters.{version.name}.path: adapter_config.json states no rank 'r'") from error


def _check_domains(settings: Settings, classifier: TinyAda) -> None:
    for name, adapter in settings.adapters.items():
        if adapter.domain is not None and adapter.domain not in classifier.domains:
            known = ", ".join(classifier.domains)
            raise SettingsError(f"adapters.{name}.domain: TinyAda knows no {adapter.domain!r}; it knows {known}")


def _zero_version(settings: Settings, store: Store, directory: Path) -> Version:
    """The zero adapter, kept in the store: its path must outlive this process, as an engine may."""
    try:
        written = write_zero_adapter(settings.base.model, directory / "zero")
        return store.version(ZERO, store.publish(ZERO, written))
    except (OSError, KeyError, ValueError) as error:
        raise SettingsError(f"base.model: no usable config.json for {settings.base.model!r}: {error}") from error
    except StoreError as error:
        raise SettingsError(f"store.path: {error}") from error
