"""/admin/router: TinyAda swapped, rolled back and compared with another while traffic flows."""

from collections.abc import Awaitable
from datetime import UTC, datetime

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from adapters.state import StateError
from adapters.store import StoreError
from router import RouterError
from server.admin import Administrator, source_directory
from server.errors import Conflict, RouterRefused, StoreUnavailable
from server.gateway import Gateway

router = APIRouter(prefix="/admin/router", tags=["admin"])


class RouterSource(BaseModel):
    """A TinyAda to put in place."""

    model_config = ConfigDict(extra="forbid")

    path: str = Field(description="Absolute path, on the gateway's machine, of a directory that training wrote.")


class DomainView(BaseModel):
    """A domain of TinyAda, the least confidence it is served with, and the adapter that answers it, if not the base."""

    domain: str
    adapter: str | None
    threshold: float | None


class ShadowView(BaseModel):
    """A TinyAda that decides too, for comparison only; counts are this gateway's, since it was set."""

    digest: str
    compared: int
    disagreed: int
    dropped: int


class RouterView(BaseModel):
    """TinyAda. `digest` serves here, `desired` should on every gateway; `problem` says why it does not.

    In `desired` and `previous`, "shipped" is the TinyAda that the gateway brings along.
    """

    digest: str
    desired: str
    previous: str | None
    since: datetime | None
    problem: str
    domains: list[DomainView]
    shadow: ShadowView | None


@router.get("", summary="TinyAda's domains and who answers them; what serves, and what is compared with it")
async def get_router(request: Request, who: Administrator) -> RouterView:
    return _view(request.state.gateway)


@router.post("", summary="Swap TinyAda")
async def swap_router(source: RouterSource, request: Request, who: Administrator) -> RouterView:
    """Copies the directory into the store, checks it there (digests, labels against the adapters' domains, its smoke
    set), and replaces what serves, on every gateway of the store. Whatever fails leaves the old one serving: 422 says
    what is wrong with the files, 409 which adapters serve a domain that it lacks."""
    gateway: Gateway = request.state.gateway
    path = source_directory(gateway, source.path, RouterRefused)
    await _done(gateway.swap.serve(who, path))
    return _view(gateway)


@router.post("/rollback", summary="Back to the TinyAda before the last change")
async def roll_back(request: Request, who: Administrator) -> RouterView:
    gateway: Gateway = request.state.gateway
    await _done(gateway.swap.roll_back(who))
    return _view(gateway)


@router.put("/shadow", summary="Compare another TinyAda with the one that serves")
async def set_shadow(source: RouterSource, request: Request, who: Administrator) -> RouterView:
    """It decides what was decided, after the answer; disagreement is counted (`zephyra_shadow_decisions_total`)."""
    gateway: Gateway = request.state.gateway
    path = source_directory(gateway, source.path, RouterRefused)
    await _done(gateway.swap.compare(who, path))
    return _view(gateway)


@router.delete("/shadow", summary="Stop the comparison")
async def drop_shadow(request: Request, who: Administrator) -> RouterView:
    gateway: Gateway = request.state.gateway
    await _done(gateway.swap.stop_comparing(who))
    return _view(gateway)


async def _done(change: Awaitable[None]) -> None:
    try:
        await change
    except RouterError as error:
        raise RouterRefused(str(error), "path") from error
    except StateError as error:
        raise Conflict(str(error)) from error
    except (StoreError, OSError) as error:
        raise StoreUnavailable(f"The store cannot be changed: {error}") from error


def _view(gateway: Gateway) -> RouterView:
    state, shadow, classifier = gateway.desired.state.router, gateway.shadow, gateway.classifier
    served, thresholds = gateway.table.domains, classifier.manifest.policy.thresholds
    return RouterView(
        digest=classifier.digest,
        desired=state.serving or "shipped",
        previous=None if state.previous is None else state.previous or "shipped",
        since=datetime.fromtimestamp(state.changed_at, UTC) if state.changed_at else None,
        problem=gateway.swap.problem,
        domains=[
            DomainView(domain=domain, adapter=served.get(domain), threshold=thresholds.get(domain))
            for domain in classifier.domains
        ],
        shadow=shadow.classifier
        and ShadowView(
            digest=shadow.classifier.digest,
            compared=shadow.compared,
            disagreed=shadow.disagreed,
            dropped=shadow.dropped,
        ),
    )
