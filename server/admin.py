"""/admin: adapters published, routed, rolled back and removed while traffic flows."""

import asyncio
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response

from adapters import state as transitions
from adapters.state import RISING, Phase, State, StateError, UnknownAdapter
from adapters.store import StoreError
from adapters.validation import AdapterError, check_name
from adapters.version import digest as digest_of
from router import RouterError
from server.admin_access import administrator
from server.admin_schema import (
    AdapterList,
    AdapterView,
    EngineView,
    Outcome,
    Publication,
    RouteChange,
    adapter_view,
    engine_views,
)
from server.errors import AdapterRefused, Conflict, InvalidRequest, NotFound, StoreUnavailable
from server.gateway import Gateway
from server.rollout import check_files
from server.settings import RESERVED_NAMES

router = APIRouter(prefix="/admin", tags=["admin"])

Administrator = Annotated[str, Depends(administrator)]
Wait = Annotated[bool, Query(description="Answer only once the outcome is known.")]
WAIT_SECONDS = 600.0
POLL_SECONDS = 0.02
# The names that a domain from examples can have.
DOMAIN = re.compile(r"(?!(general|outlier|followup)$)[a-z0-9][a-z0-9_-]{0,62}")


@router.get("/adapters", summary="Every adapter, its route and its versions")
async def list_adapters(request: Request, who: Administrator) -> AdapterList:
    gateway: Gateway = request.state.gateway
    state = gateway.desired.state
    views = [adapter_view(gateway, name, adapter) for name, adapter in state.adapters.items()]
    return AdapterList(revision=state.revision, adapters=views)


@router.get("/adapters/{name}", summary="One adapter")
async def get_adapter(name: str, request: Request, who: Administrator) -> AdapterView:
    return _view(request.state.gateway, name)


@router.post("/adapters/{name}/versions", status_code=202, summary="Publish a version, and route to it once verified")
async def publish_version(
    name: str, publication: Publication, request: Request, response: Response, who: Administrator, wait: Wait = False
) -> Outcome:
    """Checks the files, copies them into the store, loads them on every engine, proves there that they work, and
    gives the version the route (unless `activate` is false). Publishing the same files again changes nothing."""
    gateway: Gateway = request.state.gateway
    _check_publication(gateway, name, publication)
    source = source_directory(gateway, publication.path, AdapterRefused)
    try:
        await asyncio.to_thread(check_files, source, gateway.rollouts.limits)
        examples = await _examples(gateway, publication)
        _check_capacity(gateway, name, await asyncio.to_thread(digest_of, source))
        digest = await asyncio.to_thread(gateway.desired.store.publish, name, source)
    except (AdapterError, StoreError) as error:
        gateway.audit.record(who, "publish", name, None, publication.path, f"refused: {error}")
        raise AdapterRefused(str(error), "path") from error
    try:
        await _change(
            gateway,
            who,
            "publish",
            name,
            lambda state: transitions.publish(
                state,
                name,
                digest,
                time.time(),
                domain=publication.domain,
                examples=examples,
                activate=publication.activate,
            ),
            detail=f"{name}@{digest} from {publication.path}",
        )
    except Conflict:
        # The state did not take it: its files would belong to nothing.
        await asyncio.to_thread(gateway.desired.store.delete, name, digest)
        raise
    if wait:
        response.status_code = 200
        await _settled(gateway, name, digest)
    now = gateway.desired.state.version(name, digest).now
    if wait and now.phase is Phase.FAILED:
        raise AdapterRefused(now.reason, "path")
    return Outcome(adapter=name, version=digest, phase=now.phase, reason=now.reason)


@router.put("/adapters/{name}/route", summary="Change the route to one version, or to several by weight")
async def change_route(
    name: str, change: RouteChange, request: Request, response: Response, who: Administrator, wait: Wait = False
) -> AdapterView:
    """200 where the route is changed, 202 where a version has to be brought up first."""
    gateway: Gateway = request.state.gateway
    await _change(
        gateway, who, "route", name, lambda state: transitions.route(state, name, change.weights, time.time())
    )
    return await _routed(gateway, name, response, wait)


@router.post("/adapters/{name}/rollback", summary="Back to the route before the last change")
async def roll_back(
    name: str, request: Request, response: Response, who: Administrator, wait: Wait = False
) -> AdapterView:
    """200 where the route is changed, 202 where a version has to be brought up first."""
    gateway: Gateway = request.state.gateway
    await _change(gateway, who, "rollback", name, lambda state: transitions.rollback(state, name, time.time()))
    return await _routed(gateway, name, response, wait)


@router.delete("/adapters/{name}", status_code=202, summary="Remove an adapter")
async def remove_adapter(name: str, request: Request, who: Administrator) -> AdapterView:
    """Out of the routes at once; its versions drain, leave the engines, and then their files go."""
    gateway: Gateway = request.state.gateway
    view = _view(gateway, name)
    await _change(gateway, who, "remove", name, lambda state: transitions.remove(state, name, time.time()))
    return view.model_copy(update={"removing": True})


@router.delete("/adapters/{name}/versions/{version}", status_code=202, summary="Remove a version that is not served")
async def remove_version(name: str, version: str, request: Request, who: Administrator) -> Outcome:
    gateway: Gateway = request.state.gateway
    await _change(
        gateway,
        who,
        "remove version",
        name,
        lambda state: transitions.remove_version(state, name, version, time.time()),
        detail=f"{name}@{version}",
    )
    return Outcome(adapter=name, version=version, phase=Phase.DRAINING, reason="being removed")


@router.get("/engines", summary="Every engine and the adapters on it")
async def list_engines(request: Request, who: Administrator) -> list[EngineView]:
    return engine_views(request.state.gateway)


def _view(gateway: Gateway, name: str) -> AdapterView:
    try:
        return adapter_view(gateway, name, gateway.desired.state.adapter(name))
    except UnknownAdapter as error:
        raise NotFound(str(error)) from error


def _check_publication(gateway: Gateway, name: str, publication: Publication) -> None:
    names = gateway.settings.names
    try:
        check_name(name)
    except AdapterError as error:
        raise AdapterRefused(str(error), "name") from error
    if name in RESERVED_NAMES | {names.base, names.resolve}:
        raise AdapterRefused(f"adapter name {name!r} is reserved: choose another", "name")
    domain = publication.domain
    trained = gateway.trained.domains
    if publication.examples is not None and (domain is None or domain in trained or not DOMAIN.fullmatch(domain)):
        raise AdapterRefused(
            "'examples' need a 'domain' that TinyAda does not know, a name of a to z, 0 to 9, _ and -", "examples"
        )
    adapter = gateway.desired.state.adapters.get(name)
    brought = publication.examples is not None or (adapter is not None and adapter.domain == domain)
    if domain is not None and (domain == "general" or (domain not in trained and not brought)):
        known = ", ".join(known for known in trained if known != "general")
        raise AdapterRefused(
            f"'domain': adapters can serve {known}; not {domain!r}, unless 'examples' teach it", "domain"
        )


async def _examples(gateway: Gateway, publication: Publication) -> str | None:
    """Store a new domain's examples once TinyAda has made a class of them; their digest. Raises `AdapterRefused`."""
    if publication.examples is None or publication.domain is None:
        return None
    try:
        digest = await asyncio.to_thread(gateway.added.keep, publication.examples)
        await asyncio.to_thread(gateway.added.made, gateway.trained, publication.domain, digest)
    except RouterError as error:
        raise AdapterRefused(f"'examples': {error}", "examples") from error
    except OSError as error:
        raise StoreUnavailable(f"The adapter store cannot be changed: {error}") from error
    return digest


def source_directory(gateway: Gateway, text: str, refusal: type[InvalidRequest]) -> Path:
    """The directory that an operator names, if it may be read from. Raises `refusal`."""
    path = Path(text)
    if not path.is_absolute() or ".." in path.parts:
        raise refusal(f"'path' must be absolute and without '..', not {text[:200]!r}", "path")
    sources = gateway.settings.store.sources
    resolved = path.resolve()
    if sources and not any(resolved.is_relative_to(source.resolve()) for source in sources):
        allowed = ", ".join(str(source) for source in sources)
        raise refusal(f"'path' must lie below one of store.sources: {allowed}", "path")
    if not resolved.is_dir():
        raise refusal(f"{text[:200]} is not a directory on the gateway's machine", "path")
    return resolved


def _check_capacity(gateway: Gateway, name: str, digest: str) -> None:
    """The engines must hold it beside all others, and a new adapter must leave one slot for roll-outs."""
    capacity = gateway.reconciliation.capacity
    everything = gateway.reconciliation.wanted()
    if capacity is None or f"{name}@{digest}" in everything:
        return
    kept = [gateway.reconciliation.wanted_on(engine) for engine in gateway.reconciliation.homes(name)]
    wanted = max(kept, key=len, default=everything)
    spare = 0 if name in gateway.desired.state.adapters else 1
    if len(wanted) + 1 + spare > capacity:
        routed = {version.engine_name for version in gateway.table.versions} & wanted.keys()
        idle = [engine_name for engine_name in wanted if engine_name not in routed]
        evicted = idle or sorted(routed, key=lambda each: sum(engine.running[each] for engine in gateway.engines))[:1]
        free = ", one of them kept free for roll-outs" if spare else ""
        raise Conflict(
            f"The engines hold {len(wanted)} of at most {capacity} adapters{free}; {name}@{digest} would evict "
            f"{evicted[0]}. Remove a version, or raise engine.max_cpu_loras."
        )


async def _change(
    gateway: Gateway,
    who: str,
    what: str,
    name: str,
    function: Callable[[State], State],
    detail: str = "",
) -> None:
    """Change the desired state and write it down. Raises `NotFound`, `Conflict`, `StoreUnavailable`."""
    seen: list[dict[str, int] | None] = []

    def noted(state: State) -> State:
        adapter = state.adapters.get(name)
        seen.append(adapter.weights if adapter else None)
        return function(state)

    try:
        state = await gateway.desired.change(noted)
    except UnknownAdapter as error:
        raise NotFound(str(error)) from error
    except StateError as error:
        raise Conflict(str(error)) from error
    except (StoreError, OSError) as error:
        raise StoreUnavailable(f"The adapter store cannot be changed: {error}") from error
    adapter = state.adapters.get(name)
    after = (adapter.target or adapter.weights) if adapter else None
    gateway.audit.record(who, what, name, seen[-1], after, detail)


async def _settled(gateway: Gateway, name: str, digest: str) -> None:
    """Return once the version has failed, or is verified and, if it was to be routed, is."""
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        adapter = gateway.desired.state.adapters.get(name)
        if adapter is None or digest not in adapter.versions:
            raise Conflict(f"{name}@{digest} was removed meanwhile.")
        version = adapter.versions[digest]
        waiting = version.phase in RISING or (adapter.target is not None and digest in adapter.target)
        if not waiting and (digest not in adapter.weights or _follows(gateway, name)):
            return
        await asyncio.sleep(POLL_SECONDS)


async def _routed(gateway: Gateway, name: str, response: Response, wait: bool) -> AdapterView:
    deadline = time.monotonic() + (WAIT_SECONDS if wait else 0)
    while True:
        adapter = gateway.desired.state.adapters.get(name)
        done = adapter is not None and adapter.target is None and _follows(gateway, name)
        if done or time.monotonic() >= deadline:
            response.status_code = 200 if done else 202
            return _view(gateway, name)
        await asyncio.sleep(POLL_SECONDS)


def _follows(gateway: Gateway, name: str) -> bool:
    """Whether this gateway's route is the desired one."""
    route = gateway.table.routes.get(name)
    shares = {version.digest: weight for version, weight in route.shares} if route else {}
    return shares == gateway.desired.state.adapters[name].weights
