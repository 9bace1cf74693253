"""What /admin takes and answers."""

from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict, Field

from adapters.state import AdapterState, Phase, PhaseChange
from server.gateway import Gateway


class Publication(BaseModel):
    """A version to publish."""

    model_config = ConfigDict(extra="forbid")

    path: str = Field(description="Absolute path, on the gateway's machine, of the directory with the adapter's files.")
    domain: str | None = Field(None, description="The domain of TinyAda that the adapter is to serve.")
    examples: list[str] | None = Field(
        None, description="16 or more prompts, where TinyAda does not know the domain: it learns it from them."
    )
    activate: bool = Field(True, description="Give it the whole route once it is verified.")


class RouteChange(BaseModel):
    """Versions and their shares; one version alone gets everything."""

    model_config = ConfigDict(extra="forbid")

    weights: dict[str, int] = Field(description='Version to share, e.g. {"3f2a9c01d7e4": 95, "b1c2d3e4f5a6": 5}.')


class PhaseView(BaseModel):
    """A phase of a version's life, and since when."""

    phase: Phase
    since: datetime
    reason: str

    @classmethod
    def of(cls, change: PhaseChange) -> "PhaseView":
        return cls(phase=change.phase, since=datetime.fromtimestamp(change.at, UTC), reason=change.reason)


class VersionView(BaseModel):
    """One version. `model` names it in a request; `engines` have it loaded; `weight` is its share here and now."""

    version: str
    model: str
    phase: Phase
    since: datetime
    reason: str
    weight: int
    engines: list[str]
    in_flight: int
    removing: bool
    history: list[PhaseView]


class AdapterView(BaseModel):
    """One adapter. `route`: what this gateway serves; `desired`: what it should; `target`: what waits for a version."""

    name: str
    domain: str | None
    route: dict[str, int]
    desired: dict[str, int]
    target: dict[str, int] | None
    previous: dict[str, int]
    removing: bool
    versions: list[VersionView]


class AdapterList(BaseModel):
    """Every adapter; `revision` grows with every change of the desired state."""

    revision: int
    adapters: list[AdapterView]


class Outcome(BaseModel):
    """A version after a publication."""

    adapter: str
    version: str
    phase: Phase
    reason: str


class LoadedView(BaseModel):
    """An adapter on an engine."""

    name: str
    in_flight: int


class EngineView(BaseModel):
    """One engine. `drift`: adapters to load or unload; `capacity`: how many it keeps in memory, where known;
    `deferred`: requests that wait for an adapter slot of its batch."""

    url: str
    up: bool
    ready: bool
    in_flight: int
    drift: int
    deferred: int
    capacity: int | None
    adapters: list[LoadedView]
    refusals: dict[str, str]


def adapter_view(gateway: Gateway, name: str, adapter: AdapterState) -> AdapterView:
    """The adapter as this gateway sees it now."""
    route = gateway.table.routes.get(name)
    shares = {version.digest: weight for version, weight in route.shares} if route else {}
    versions = []
    for digest, version in adapter.versions.items():
        model = f"{name}@{digest}"
        versions.append(
            VersionView(
                version=digest,
                model=model,
                phase=version.phase,
                since=PhaseView.of(version.now).since,
                reason=version.now.reason,
                weight=shares.get(digest, 0),
                engines=[engine.url for engine in gateway.engines if model in engine.loaded],
                in_flight=sum(engine.running[model] for engine in gateway.engines),
                removing=version.removing,
                history=[PhaseView.of(change) for change in version.history],
            )
        )
    return AdapterView(
        name=name,
        domain=adapter.domain,
        route=shares,
        desired=adapter.weights,
        target=adapter.target,
        previous=adapter.previous,
        removing=adapter.removing,
        versions=versions,
    )


def engine_views(gateway: Gateway) -> list[EngineView]:
    """Every engine as this gateway sees it now."""
    reconciliation = gateway.reconciliation
    return [
        EngineView(
            url=engine.url,
            up=engine.up,
            ready=engine.ready,
            in_flight=engine.in_flight,
            drift=engine.drift,
            deferred=engine.deferred,
            capacity=reconciliation.capacity,
            adapters=[LoadedView(name=name, in_flight=engine.running[name]) for name in sorted(engine.present)],
            refusals={
                name: refusal.reason for (url, name), refusal in reconciliation.refusals.items() if url == engine.url
            },
        )
        for engine in gateway.engines
    ]
