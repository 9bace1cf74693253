"""/admin: what there is to watch: the feed of answers, the audit log, TinyAda's measured figures."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from server.admin_access import administrator
from server.admin_schema import engine_views
from server.answer import DIRECT
from server.endpoints import ClientLeft, unless_client_leaves
from server.errors import NotFound
from server.feed import Feed, Listener, event
from server.gateway import Gateway
from server.protocol import STOPPING

router = APIRouter(prefix="/admin", tags=["admin"])

Administrator = Annotated[str, Depends(administrator)]

# Between two `state` events, in seconds.
STATE_SECONDS = 1.0


@router.get(
    "/feed",
    summary="Answers as they are given, as server-sent events",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/event-stream": {}}}},
)
async def watch(request: Request, who: Administrator) -> Response:
    """`answer` for each answered request (the user's words only with console.prompts); `state` every second: engines,
    phases, decisions and overhead since the gateway began."""
    return FeedResponse(request.state.gateway)


@router.get("/audit", summary="The newest lines of the audit log, newest first")
async def read_audit(
    request: Request,
    who: Administrator,
    last: Annotated[int, Query(ge=1, le=200)] = 20,
    adapter: Annotated[str | None, Query(description="Only lines about this adapter.")] = None,
) -> list[dict[str, Any]]:
    gateway: Gateway = request.state.gateway
    return gateway.audit.last(last, adapter)


@router.get("/router/card", summary="The figures TinyAda was measured with")
async def read_card(request: Request, who: Administrator) -> dict[str, Any]:
    """`evaluation` as `python -m router.training.card` stored it in the manifest of the TinyAda that serves."""
    gateway: Gateway = request.state.gateway
    manifest = gateway.classifier.manifest
    if "evaluation" not in manifest.trained:
        raise NotFound("This TinyAda was stored without figures: measure it with `python -m router.training.card`.")
    return {"digest": manifest.digest, "evaluation": manifest.trained["evaluation"]}


class FeedResponse(Response):
    """The feed as an endless response; it ends with its client or with the server."""

    media_type = "text/event-stream"

    def __init__(self, gateway: Gateway) -> None:
        super().__init__(headers={"cache-control": "no-store", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._gateway = gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        feed: Feed = self._gateway.feed
        with feed.listening() as listener:
            extensions = scope.get("extensions") or {}
            notify = extensions.get(STOPPING)
            if notify:
                notify(listener.close)
            try:
                await unless_client_leaves(self._stream(listener, send), extensions.get(DIRECT), receive)
            except ClientLeft:
                return

    async def _stream(self, listener: Listener, send: Send) -> int:
        gateway = self._gateway
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        hello = {"prompts": gateway.feed.prompts, "domains": gateway.classifier.domains}
        body = event("hello", hello)
        while not listener.closed:
            body += event("state", {**_state(gateway), "dropped": listener.dropped})
            await send({"type": "http.response.body", "body": body, "more_body": True})
            body = await listener.take(STATE_SECONDS)
        await send({"type": "http.response.body", "body": body})
        return 200


def _state(gateway: Gateway) -> dict[str, Any]:
    metrics = gateway.metrics
    return {
        "engines": [view.model_dump() for view in engine_views(gateway)],
        "phases": {
            f"{name}@{digest}": version.phase
            for name, adapter in gateway.desired.state.adapters.items()
            for digest, version in adapter.versions.items()
        },
        "decisions": metrics.decided(),
        "overhead": {"bounds": metrics.overhead.bounds, "arms": metrics.overhead_by_arm()},
    }
