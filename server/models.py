"""GET /v1/models and /v1/models/{id}, in OpenAI's shape."""

import time
from typing import Any

from fastapi import APIRouter, Request

from server.access import Access, Tenant
from server.errors import ModelNotFound
from server.gateway import Gateway
from server.table import RouteTable

router = APIRouter(tags=["models"])
_STARTED = int(time.time())


@router.get("/v1/models", summary="List the models")
async def list_models(request: Request) -> dict[str, Any]:
    """Every public name: the routed model, the base, each adapter."""
    table = visible_table(request)
    return {"object": "list", "data": [_card(name, table) for name in table.names]}


@router.get("/v1/models/{name}", summary="One model")
async def retrieve_model(name: str, request: Request) -> dict[str, Any]:
    """One model by its public name; 404 for any other."""
    table = visible_table(request)
    if not table.knows(name):
        raise ModelNotFound(name)
    return _card(name, table)


def visible_table(request: Request) -> RouteTable:
    """The route table as the request's key sees it. Raises `Unauthorized`, `Forbidden`, `RateLimited`."""
    gateway: Gateway = request.state.gateway
    return admitted_tenant(request).sees(gateway.table)


def admitted_tenant(request: Request) -> Tenant:
    """Whose request it is, its rate counted. Raises `Unauthorized`, `Forbidden`, `RateLimited`."""
    access: Access = request.state.access
    tenant = access.tenant(dict(request.scope["headers"]))
    with tenant.admitted():
        return tenant


def _card(name: str, table: RouteTable) -> dict[str, Any]:
    card: dict[str, Any] = {"id": name, "object": "model", "created": _STARTED, "owned_by": "zephyra"}
    version = table.adapters.get(name)
    if version is not None:
        card |= {"parent": table.base, "domain": version.domain, "version": version.digest}
    return card
