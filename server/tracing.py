"""OpenTelemetry spans of a request: the whole, and its stages parse, route and engine; only where an exporter is set.

Configured as OpenTelemetry itself is, by OTEL_EXPORTER_OTLP_ENDPOINT or OTEL_EXPORTER_OTLP_TRACES_ENDPOINT
(OpenTelemetry specification, "OTLP Exporter Configuration"). Spans are made at the end of a request from the moments
noted on its way, so that tracing costs nothing while the client waits.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from server.call import Call
from server.settings import SettingsError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


class Tracing:
    """Turns ended calls into spans of a provider."""

    def __init__(self, provider: TracerProvider) -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._tracer = provider.get_tracer("zephyra")
        self._extract = TraceContextTextMapPropagator().extract

    def record(self, call: Call, path: str, status: int) -> None:
        """One span for the call, a child of the client's trace, with a child for each stage it reached."""
        from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context

        timing, choice = call.timing, call.choice
        # perf_counter has no epoch: the two clocks are read together once.
        offset = time.time_ns() - int(time.perf_counter() * 1e9)

        def moment(seconds: float) -> int:
            return offset + int(seconds * 1e9)

        carrier = {name.decode("latin-1"): value.decode("latin-1") for name, value in call.onward()}
        attributes: dict[str, str | int | float] = {"http.route": path, "http.response.status_code": status}
        if choice is not None:
            attributes |= {"zephyra.adapter": choice.adapter, "zephyra.reason": choice.reason}
            if choice.decision is not None:
                attributes |= {
                    "zephyra.domain": choice.decision.domain,
                    "zephyra.confidence": choice.decision.confidence,
                }
        span = self._tracer.start_span(
            f"POST {path}",
            self._extract(carrier),
            SpanKind.SERVER,
            attributes,
            start_time=moment(timing.began),
        )
        if status >= 500:
            span.set_status(Status(StatusCode.ERROR))
        end = time.perf_counter()
        inside = set_span_in_context(span)
        stages = {
            "parse": (timing.received, timing.parsed),
            "route": (timing.admitted, timing.routed),
            "engine": (timing.entered, end),
        }
        for name, (began, ended) in stages.items():
            if began and ended:
                stage = self._tracer.start_span(name, inside, start_time=moment(began))
                stage.end(moment(ended))
        span.end(moment(end))

    def close(self) -> None:
        """Send what is left."""
        self._provider.shutdown()


def open_tracing(environment: Mapping[str, str]) -> Tracing | None:
    """Tracing to the configured OTLP endpoint, or none. Raises `SettingsError` where its packages are missing."""
    if not any(environment.get(name) for name in ENDPOINTS):
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise SettingsError(f"{ENDPOINTS[0]} is set but {error.name} is missing; install zephyra[trace]") from error
    provider = TracerProvider(resource=Resource.create({"service.name": "zephyra"}), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Tracing(provider)
