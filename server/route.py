"""POST /v1/route: what TinyAda would decide for a chat body. No engine is asked."""

from typing import Any

from fastapi import APIRouter, Request

from server.chat import read_body
from server.gateway import Gateway
from server.request import parse_chat
from server.routing import conversation, target

router = APIRouter(tags=["routing"])


@router.post("/v1/route", summary="Decide without answering")
async def decide(request: Request) -> dict[str, Any]:
    """Takes a chat completion body (`model` may be left out) and returns the decision with all scores."""
    gateway: Gateway = request.state.gateway
    body = await read_body(request.scope, request.receive, gateway.settings.gateway.max_body_bytes)
    table = gateway.table
    parsed = parse_chat(body, default_model=table.resolve)
    name, reason, decision = target(parsed, table, gateway.classifier)
    version = table.pick(name, lambda: conversation(parsed.messages))
    answer: dict[str, Any] = {
        "model": name,
        "adapter": version.engine_name if version else name,
        "reason": reason,
    }
    if decision is not None:
        answer |= {
            "domain": decision.domain,
            "confidence": decision.confidence,
            "abstained": decision.abstained,
            "scores": decision.scores,
            "domains": list(decision.domains),
            "microseconds": decision.microseconds,
        }
    return answer
