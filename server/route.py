"""POST /v1/route: what TinyAda would decide for a chat body. No engine is asked."""

from typing import Any

from fastapi import APIRouter, Request

from server.apis import CHAT
from server.endpoints import read_body
from server.gateway import Gateway
from server.models import admitted_tenant
from server.openapi import body_schema, request_body
from server.request import parse_chat
from server.routing import GENERAL, conversation, target
from server.table import RouteTable

router = APIRouter(tags=["routing"])


@router.post(
    "/v1/route",
    summary="Decide without answering",
    openapi_extra={"requestBody": request_body(body_schema(CHAT, required=()))},
)
async def decide(request: Request) -> dict[str, Any]:
    """Takes a chat completion body (`model` may be left out) and returns the decision with all scores."""
    gateway: Gateway = request.state.gateway
    tenant = admitted_tenant(request)
    table = tenant.sees(gateway.table)
    settings = gateway.settings
    limit = min(settings.gateway.max_body_bytes, tenant.key.max_body_bytes or settings.gateway.max_body_bytes)
    body = await read_body(request.receive, limit, settings.limits.body_seconds)
    parsed = tenant.check(parse_chat(body, table.resolve))
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
            "scores": _shown(decision.scores, table),
            "domains": list(decision.domains),
            "microseconds": decision.microseconds,
        }
    return answer


def _shown(scores: dict[str, float], table: RouteTable) -> dict[str, float]:
    """The scores of the domains that exist for the reader, summing to 1 again."""
    if table.allowed is None:
        return scores
    shown = {domain: score for domain, score in scores.items() if domain == GENERAL or domain in table.domains}
    total = sum(shown.values()) or 1.0
    return {domain: score / total for domain, score in shown.items()}
