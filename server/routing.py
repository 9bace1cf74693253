"""From a request to the version and the engine that answer it."""

from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import msgspec

from router import Decision
from server.engine import Engine
from server.errors import AdapterNotReady, EngineUnavailable, ModelNotFound
from server.request import RoutedRequest
from server.table import RouteTable

GENERAL = "general"


class Classifier(Protocol):
    """What the gateway needs of TinyAda."""

    @property
    def domains(self) -> tuple[str, ...]: ...

    def route_conversation(self, messages: Sequence[Any], allowed: Container[str] | None = None) -> Decision: ...


@dataclass(frozen=True, slots=True)
class Choice:
    """Who answers. `adapter` is what clients are told: name@version, or the base's public name."""

    model: str
    adapter: str
    # The adapter's public name, or the base's: a metric label without versions.
    label: str
    engine: Engine
    engine_name: str
    reason: str
    decision: Decision | None

    @property
    def arm(self) -> str:
        """`routed` by TinyAda, `bypass` where it was skipped, `explicit` where the client named who answers."""
        return "routed" if self.decision else self.reason

    @property
    def domain(self) -> str | None:
        return self.decision.domain if self.decision else None


def choose(
    request: RoutedRequest,
    table: RouteTable,
    engines: Sequence[Engine],
    classifier: Classifier,
    bypass: bool = False,
) -> Choice:
    """Decide who answers; with `bypass` the base, unasked. Raises `ModelNotFound`, `EngineUnavailable`,
    `AdapterNotReady`."""
    name, reason, decision = (table.base, "bypass", None) if bypass else target(request, table, classifier)
    ready = [engine for engine in engines if engine.ready]
    if not ready:
        raise EngineUnavailable("No engine is ready; one is starting or being brought back. Try again.")
    version = table.pick(name, lambda: conversation(request.messages))
    if version is not None:
        holders = [engine for engine in ready if version.engine_name in engine.loaded]
        if holders:
            engine = _least_busy(holders)
            adapter = version.engine_name
            return Choice(request.model, adapter, version.name, engine, adapter, reason, decision)
        if decision is None:
            raise AdapterNotReady(f"The adapter {name!r} is not loaded yet. Try again.", "model")
        reason = "fallback"
    engine = _least_busy(ready)
    engine_name = table.zero.engine_name if table.zero else engine.base_name
    return Choice(request.model, table.base, table.base, engine, engine_name, reason, decision)


def target(request: RoutedRequest, table: RouteTable, classifier: Classifier) -> tuple[str, str, Decision | None]:
    """The public name that should answer, the reason, and TinyAda's decision if it was asked."""
    model = request.model
    if not table.knows(model):
        raise ModelNotFound(model)
    if model != table.resolve:
        if model in table.pending:
            raise AdapterNotReady(f"The adapter {model!r} is being brought up. Try again.", "model")
        return model, "explicit", None
    allowed = None if table.allowed is None else table.domains
    decision = classifier.route_conversation(request.messages, allowed)
    if decision.abstained:
        return table.base, "abstained", decision
    if decision.domain == GENERAL:
        return table.base, decision.reason, decision
    adapter = table.domains.get(decision.domain)
    if adapter is None:
        return table.base, "fallback", decision
    return adapter, decision.reason, decision


def another(choice: Choice, engines: Sequence[Engine]) -> Choice | None:
    """The same choice on another engine that has the version; None where there is none."""
    at_base = "@" not in choice.engine_name
    others = [
        engine
        for engine in engines
        if engine is not choice.engine and engine.ready and (at_base or choice.engine_name in engine.loaded)
    ]
    if not others:
        return None
    engine = _least_busy(others)
    return replace(choice, engine=engine, engine_name=engine.base_name if at_base else choice.engine_name)


def conversation(messages: Sequence[dict[str, Any]]) -> bytes:
    """What stays the same through a conversation: its messages up to the first of the user."""
    opening: list[dict[str, Any]] = []
    for message in messages:
        opening.append(message)
        if message.get("role") == "user":
            break
    return msgspec.json.encode(opening)


def _least_busy(engines: Sequence[Engine]) -> Engine:
    return min(engines, key=lambda engine: engine.in_flight) if len(engines) > 1 else engines[0]
