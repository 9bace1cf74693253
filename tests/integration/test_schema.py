"""schemathesis on our own OpenAPI document: no request made from it, valid or not, gets an undocumented 5xx."""

import os
from typing import Any

import httpx
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode

from server.apis import APIS

# More: ZEPHYRA_FUZZ=1000 pytest tests/integration/test_schema.py
EXAMPLES = int(os.environ.get("ZEPHYRA_FUZZ", "15"))


def try_operation(operation: Any, mode: GenerationMode) -> int:
    """Send requests made for one operation; returns how many."""
    sent = 0

    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(case=operation.as_strategy(generation_mode=mode))
    def run(case: schemathesis.Case[Any]) -> None:
        nonlocal sent
        case.call_and_validate(checks=[not_a_server_error])
        sent += 1

    run()
    return sent


def test_no_generated_request_breaks_it(http: httpx.Client) -> None:
    schema = schemathesis.openapi.from_url(f"{http.base_url}/openapi.json")
    tried: set[str] = set()
    for found in schema.get_all_operations():
        operation: Any = found.ok()  # type: ignore[union-attr]
        if operation.path == "/admin/feed":
            continue  # Its answer has no end.
        tried.add(operation.path)
        assert try_operation(operation, GenerationMode.POSITIVE) > 0
        if operation.body:
            assert try_operation(operation, GenerationMode.NEGATIVE) > 0
    assert tried >= {api.path for api in APIS} | {"/v1/models", "/v1/models/{name}", "/v1/route", "/metrics"}
    assert http.get("/health").status_code == 200
    assert "zephyra_requests_in_flight 0.0" in http.get("/metrics").text
