"""The FastAPI application: `create_app(settings)`. Importing opens no file and reads no environment."""

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Callable, Mapping
from types import MappingProxyType
from typing import Any, cast

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from server import admin, admin_router, admin_watch, models, route
from server.access import Access
from server.apis import APIS
from server.console import pages
from server.decisions import open_log
from server.endpoints import Gates, RoutedEndpoint
from server.errors import EngineUnavailable, Forbidden, InvalidRequest, MethodNotAllowed, NotFound, ZephyraError
from server.gateway import Gateway, running_gateway
from server.neighbours import share_feed
from server.openapi import routed_paths
from server.settings import Settings
from server.snapshots import WRITE_SECONDS, Snapshots
from server.tracing import open_tracing
from server.workers import Worker

log = logging.getLogger("zephyra")


class Application(FastAPI):
    """FastAPI, with the routed APIs answered before its middleware: they need none of it and pay for all of it."""

    routed: Mapping[str, RoutedEndpoint] = MappingProxyType({})
    _forwarded: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST":
            endpoint = self.routed.get(scope["path"])
            if endpoint is not None:
                await endpoint(scope, receive, send)
                return
        if self._forwarded is None:
            # What is for this machine alone must see the client behind a proxy, as far as uvicorn would trust it.
            trusted = os.environ.get("FORWARDED_ALLOW_IPS", "127.0.0.1")
            inner: Any = super().__call__
            self._forwarded = cast(ASGIApp, ProxyHeadersMiddleware(inner, trusted))
        await self._forwarded(scope, receive, send)

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI document, the routed APIs included."""
        if self.openapi_schema is None:
            document = super().openapi()
            document["paths"] = {**routed_paths(), **document["paths"]}
        assert self.openapi_schema is not None, "FastAPI keeps the document it made"
        return self.openapi_schema


def create_app(
    settings: Settings, on_start: Callable[[Gateway], None] | None = None, worker: Worker | None = None
) -> Application:
    """The gateway's application, as one of several workers or alone.

    `on_start` is called with the running gateway, before the first request.
    """

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
        access = Access.of(settings.access)
        following = asyncio.create_task(access.follow(), name="keys")
        async with running_gateway(settings, worker.home if worker and worker.first else None) as gateway:
            gates = Gates(gateway)
            decisions = open_log(settings.decisions)
            tracing = open_tracing(os.environ)
            application.routed = {
                api.path: RoutedEndpoint(api, gateway, access, gates, decisions, tracing) for api in APIS
            }
            if on_start:
                on_start(gateway)
            sharing = asyncio.create_task(share(worker, gateway), name="metrics") if worker else None
            telling = (
                asyncio.create_task(share_feed(gateway.feed, worker.directory, worker.index, worker.count), name="feed")
                if worker
                else None
            )
            yield {"gateway": gateway, "access": access}
            following.cancel()
            if telling:
                telling.cancel()
            if worker and sharing:
                await worker.may_stop_engine(settings.gateway.shutdown_grace)
                sharing.cancel()
                await asyncio.gather(sharing, return_exceptions=True)
            if decisions:
                decisions.close()
            if tracing:
                tracing.close()

    app = application = Application(
        title="Zephyra", summary="One base, many experts: TinyAda picks the adapter.", lifespan=lifespan
    )
    for api in APIS:
        app.router.routes.append(Route(api.path, endpoint=_not_started, methods=["POST"]))
    app.include_router(models.router)
    app.include_router(route.router)
    app.include_router(admin.router)
    app.include_router(admin_router.router)
    app.include_router(admin_watch.router)
    app.include_router(pages.router)
    app.get("/health", tags=["health"], summary="Alive")(health)
    app.get("/ready", tags=["health"], summary="Able to answer")(ready)
    app.get("/metrics", tags=["health"], summary="Prometheus metrics")(metrics)
    app.add_exception_handler(ZephyraError, _answer_error)
    app.add_exception_handler(HTTPException, _answer_http)
    app.add_exception_handler(RequestValidationError, _answer_validation)
    app.add_exception_handler(Exception, _answer_unexpected)
    return app


async def share(worker: Worker, gateway: Gateway) -> None:
    """Put this worker's metrics where the others find them, for ever and once more at the end."""
    worker.end_with_parent()
    shared = gateway.metrics.shared = Snapshots(gateway.metrics.registry, worker.directory, worker.index)
    try:
        while True:
            shared.write()
            await asyncio.sleep(WRITE_SECONDS)
    finally:
        shared.write()


async def _not_started(request: Request) -> Response:
    """Keeps the routed paths known, for 405 and its Allow; `Application` answers them once the gateway runs."""
    return _response(EngineUnavailable("The gateway is starting. Try again."))


async def health() -> dict[str, str]:
    """The process is alive; says nothing of engines."""
    return {"status": "ok"}


async def ready(request: Request) -> Response:
    """200 when engine, adapters and TinyAda are in place; else 503 with what is missing."""
    missing = request.state.gateway.missing()
    if missing:
        if not _may_observe(request):
            missing = ["ask with a key that may observe"]
        return JSONResponse({"status": "not ready", "missing": missing}, 503, {"retry-after": "2"})
    return JSONResponse({"status": "ready"})


async def metrics(request: Request) -> Response:
    """Prometheus's text exposition format."""
    access: Access = request.state.access
    if not access.tenant(dict(request.scope["headers"])).key.may_observe:
        raise Forbidden("This key may not read metrics. Ask the operator for one that may observe.")
    gateway: Gateway = request.state.gateway
    return Response(gateway.metrics.render(), media_type=CONTENT_TYPE_LATEST)


def _may_observe(request: Request) -> bool:
    access: Access = request.state.access
    try:
        return access.tenant(dict(request.scope["headers"])).key.may_observe
    except ZephyraError:
        return False


def _response(error: ZephyraError) -> Response:
    headers = {name.decode(): value.decode() for name, value in error.headers()}
    return Response(error.body(), error.status, headers)


async def _answer_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ZephyraError)
    return _response(error)


async def _answer_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        return _response(
            NotFound(f"There is no {request.method} {request.url.path} here. See /docs for what there is.")
        )
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "another method")
        response = _response(MethodNotAllowed(f"{request.url.path} takes {allowed}, not {request.method}."))
        response.headers.update(error.headers or {})
        return response
    return _response(InvalidRequest(str(error.detail)))


async def _answer_validation(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    findings: list[dict[str, Any]] = list(error.errors())
    first = findings[0]
    where = ".".join(str(part) for part in first["loc"])
    return _response(InvalidRequest(f"{where}: {first['msg']}", where))


async def _answer_unexpected(request: Request, error: Exception) -> Response:
    # The server's own log has the traceback; the client gets none of it.
    return _response(ZephyraError("The gateway failed on this request. Its log says why."))
