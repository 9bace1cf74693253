"""The desired state: which versions are served under which name, and where each version is in its life.

A `State` is an immutable value; every function below returns a new one or raises `StateError` and changes nothing.
The store keeps it in one file (`adapters.store`), gateways act on it.

    published -> validating -> loading -> verifying -> ready -> serving -> draining -> retired, or failed
"""

import enum
import re

import msgspec

FORMAT = 1
HISTORY = 20
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
VERSION = re.compile(r"[0-9a-f]{12}")


class Phase(enum.StrEnum):
    """Where a version is in its life."""

    PUBLISHED = "published"
    VALIDATING = "validating"
    LOADING = "loading"
    VERIFYING = "verifying"
    READY = "ready"
    SERVING = "serving"
    DRAINING = "draining"
    RETIRED = "retired"
    FAILED = "failed"


# Being brought up; the rollout moves these on.
RISING = frozenset({Phase.PUBLISHED, Phase.VALIDATING, Phase.LOADING, Phase.VERIFYING})
# Verified and on the engines: a route can change to these at once.
ROUTABLE = frozenset({Phase.READY, Phase.SERVING, Phase.DRAINING})
# Engines should hold these, whatever the route says.
RESIDENT = frozenset({Phase.LOADING, Phase.VERIFYING, Phase.READY, Phase.SERVING})


class StateError(ValueError):
    """The change asked for does not fit the state; the message says what would."""


class UnknownAdapter(StateError):
    """No adapter, or no version of it, has this name."""


class PhaseChange(msgspec.Struct, frozen=True):
    """A version entered `phase` at `at` (seconds since 1970)."""

    phase: Phase
    at: float
    reason: str = ""


class VersionState(msgspec.Struct, frozen=True):
    """One version's life; the last entry is now. `removing`: its files go once no engine holds it.

    `examples` are those it came with, or those of its adapter when it came without.
    """

    history: tuple[PhaseChange, ...]
    removing: bool = False
    examples: str | None = None

    @property
    def now(self) -> PhaseChange:
        return self.history[-1]

    @property
    def phase(self) -> Phase:
        return self.now.phase


class AdapterState(msgspec.Struct, frozen=True):
    """One public name. Weights map a version's digest to its share; they need not add up to 100."""

    domain: str | None = None
    # The digest of the examples published last that teach the router this domain; None where the router knows it.
    examples: str | None = None
    weights: dict[str, int] = {}
    # The weights before the last change of route, for `rollback`.
    previous: dict[str, int] = {}
    # Weights to change to as soon as their versions are verified.
    target: dict[str, int] | None = None
    versions: dict[str, VersionState] = {}
    # The digest the configuration file brought last: a restart does not undo what was published since.
    configured: str | None = None
    # When the route last changed, in seconds since 1970.
    routed_at: float = 0.0
    removing: bool = False

    def examples_of(self, digest: str) -> str | None:
        """What teaches the router this domain while the version has the most of the route."""
        version = self.versions.get(digest)
        return version.examples if version is not None and version.examples is not None else self.examples


class RouterState(msgspec.Struct, frozen=True):
    """Which TinyAda serves, by its digest in the store; "" is the one that every gateway brings along."""

    serving: str = ""
    # The one before the last change, for `rollback`; None where there was none.
    previous: str | None = None
    # Decides beside it, for comparison only; "" is none.
    shadow: str = ""
    # What the configuration file brought last: a restart does not undo what was changed since.
    configured: str = ""
    configured_shadow: str = ""
    # When `serving` last changed, in seconds since 1970.
    changed_at: float = 0.0


class State(msgspec.Struct, frozen=True):
    """All of it. `revision` grows by one with every change; `base` tells which base the adapters were made for."""

    format: int = FORMAT
    revision: int = 0
    base: str = ""
    adapters: dict[str, AdapterState] = {}
    # Configured adapters that were removed by hand, with the digest configured then: a restart leaves them away.
    forgotten: dict[str, str] = {}
    router: RouterState = RouterState()

    def adapter(self, name: str) -> AdapterState:
        """Raises `UnknownAdapter`."""
        adapter = self.adapters.get(name)
        if adapter is None:
            known = ", ".join(self.adapters) or "none"
            raise UnknownAdapter(f"There is no adapter {name!r}; there are: {known}.")
        return adapter

    def version(self, name: str, digest: str) -> VersionState:
        """Raises `UnknownAdapter`."""
        adapter = self.adapter(name)
        version = adapter.versions.get(digest)
        if version is None:
            known = ", ".join(adapter.versions) or "none"
            raise UnknownAdapter(f"{name!r} has no version {digest!r}; it has: {known}.")
        return version

    def resident(self) -> list[tuple[str, str]]:
        """(name, digest) of every version that engines should hold."""
        return [
            (name, digest)
            for name, adapter in self.adapters.items()
            for digest, version in adapter.versions.items()
            if version.phase in RESIDENT and not version.removing
        ]


def publish(
    state: State,
    name: str,
    digest: str,
    now: float,
    *,
    domain: str | None = None,
    examples: str | None = None,
    activate: bool = True,
    configured: bool = False,
) -> State:
    """Register a version whose files are in the store. Publishing what is already there changes only the target."""
    adapter = state.adapters.get(name, AdapterState())
    if adapter.removing:
        raise StateError(f"{name!r} is being removed; publish it again once it is gone.")
    if domain is not None and domain != adapter.domain:
        if adapter.domain is not None:
            raise StateError(f"{name!r} serves the domain {adapter.domain!r}; leave 'domain' out, or remove it first.")
        _check_domain_is_free(state, name, domain)
        adapter = msgspec.structs.replace(adapter, domain=domain)
    if examples is not None:
        adapter = msgspec.structs.replace(adapter, examples=examples)
    version = adapter.versions.get(digest)
    if version is not None and version.removing:
        raise StateError(f"{name}@{digest} is being removed; publish it again once it is gone.")
    if version is None or version.phase is Phase.FAILED:
        adapter = _moved(adapter, digest, Phase.PUBLISHED, now)
    if examples is not None or version is None:
        taught = msgspec.structs.replace(adapter.versions[digest], examples=adapter.examples)
        adapter = msgspec.structs.replace(adapter, versions={**adapter.versions, digest: taught})
    if activate:
        adapter = _aimed(adapter, {digest: 100}, now)
    if configured:
        adapter = msgspec.structs.replace(adapter, configured=digest)
    forgotten = {key: value for key, value in state.forgotten.items() if key != name}
    return _settled(_with(msgspec.structs.replace(state, forgotten=forgotten), name, adapter), name, now)


def move(state: State, name: str, digest: str, phase: Phase, now: float, reason: str = "") -> State:
    """Record that a version entered a phase; a verified one is routed if that was the target, a failed one never."""
    state.version(name, digest)
    adapter = _moved(state.adapter(name), digest, phase, now, reason)
    if phase is Phase.FAILED and adapter.target is not None and digest in adapter.target:
        adapter = msgspec.structs.replace(adapter, target=None)
    return _settled(_with(state, name, adapter), name, now)


def route(state: State, name: str, weights: dict[str, int], now: float) -> State:
    """Change the route: at once where all versions are on the engines, else when they are (`target`)."""
    adapter = state.adapter(name)
    if adapter.removing:
        raise StateError(f"{name!r} is being removed.")
    weights = {digest: weight for digest, weight in weights.items() if weight != 0}
    if not weights or any(weight < 0 for weight in weights.values()):
        raise StateError("'weights' must give at least one version a share above 0, and none one below.")
    for digest in weights:
        version = state.version(name, digest)
        if version.removing:
            raise StateError(f"{name}@{digest} is being removed.")
        if version.phase is Phase.FAILED:
            raise StateError(f"{name}@{digest} failed ({version.now.reason}); publish it again first.")
    return _settled(_with(state, name, _aimed(adapter, weights, now)), name, now)


def rollback(state: State, name: str, now: float) -> State:
    """Back to the weights before the last change. A change still pending is called off instead."""
    adapter = state.adapter(name)
    if adapter.target is not None and adapter.weights:
        return _with(state, name, msgspec.structs.replace(adapter, target=None))
    if not adapter.previous:
        raise StateError(f"{name!r} has no earlier route to go back to.")
    return route(state, name, adapter.previous, now)


def remove(state: State, name: str, now: float) -> State:
    """Take the name out of service; versions drain, then their files go. Removing twice is removing once."""
    adapter = state.adapter(name)
    for digest in adapter.versions:
        adapter = _removing(adapter, digest, now)
    adapter = msgspec.structs.replace(
        adapter, domain=None, examples=None, weights={}, previous={}, target=None, removing=True
    )
    forgotten = state.forgotten
    if adapter.configured is not None:
        forgotten = {**forgotten, name: adapter.configured}
    return _with(msgspec.structs.replace(state, forgotten=forgotten), name, adapter)


def remove_version(state: State, name: str, digest: str, now: float) -> State:
    """Let one version go; one that is served, or about to be, is refused."""
    state.version(name, digest)
    adapter = state.adapter(name)
    if digest in adapter.weights or digest in (adapter.target or {}):
        raise StateError(f"{name}@{digest} is being served; change the route first.")
    previous = {} if digest in adapter.previous else adapter.previous
    return _with(state, name, _removing(msgspec.structs.replace(adapter, previous=previous), digest, now))


def drop(state: State, name: str, digest: str) -> State:
    """Forget a version whose removal is due, and the adapter with its last one."""
    adapter = state.adapter(name)
    versions = {key: value for key, value in adapter.versions.items() if key != digest}
    if adapter.removing and not versions:
        return msgspec.structs.replace(
            state, adapters={key: value for key, value in state.adapters.items() if key != name}
        )
    return _with(state, name, msgspec.structs.replace(adapter, versions=versions))


def _with(state: State, name: str, adapter: AdapterState) -> State:
    return msgspec.structs.replace(state, adapters={**state.adapters, name: adapter})


def _moved(adapter: AdapterState, digest: str, phase: Phase, now: float, reason: str = "") -> AdapterState:
    version = adapter.versions.get(digest, VersionState(()))
    if version.history and version.phase is phase and version.now.reason == reason:
        return adapter
    history = (*version.history, PhaseChange(phase, now, reason))[-HISTORY:]
    versions = {**adapter.versions, digest: msgspec.structs.replace(version, history=history)}
    return msgspec.structs.replace(adapter, versions=versions)


def _removing(adapter: AdapterState, digest: str, now: float) -> AdapterState:
    adapter = _moved(adapter, digest, Phase.DRAINING, now, "being removed")
    version = msgspec.structs.replace(adapter.versions[digest], removing=True)
    return msgspec.structs.replace(adapter, versions={**adapter.versions, digest: version})


def _aimed(adapter: AdapterState, weights: dict[str, int], now: float) -> AdapterState:
    """Set the target; versions no longer on the engines start to rise again."""
    for digest in weights:
        if adapter.versions[digest].phase is Phase.RETIRED:
            adapter = _moved(adapter, digest, Phase.PUBLISHED, now, "wanted again")
    target = None if weights == adapter.weights else weights
    return msgspec.structs.replace(adapter, target=target)


def _settled(state: State, name: str, now: float) -> State:
    """The target becomes the route once every version of it is verified."""
    adapter = state.adapter(name)
    target = adapter.target
    if target is None or any(adapter.versions[digest].phase not in ROUTABLE for digest in target):
        return state
    leaving = [digest for digest in adapter.weights if digest not in target]
    for digest in target:
        adapter = _moved(adapter, digest, Phase.SERVING, now)
    for digest in leaving:
        adapter = _moved(adapter, digest, Phase.DRAINING, now, "the route changed")
    adapter = msgspec.structs.replace(adapter, weights=target, previous=adapter.weights, target=None, routed_at=now)
    return _with(state, name, adapter)


def _check_domain_is_free(state: State, name: str, domain: str) -> None:
    for other, adapter in state.adapters.items():
        if other != name and adapter.domain == domain:
            raise StateError(f"the domain {domain!r} is already served by {other!r}; remove that one first.")
