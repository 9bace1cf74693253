"""Spans: one for the request inside the client's trace, one for each stage inside that, the adapter as an attribute."""

import time

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from server.call import Call
from server.engine import Engine
from server.routing import Choice
from server.tracing import Tracing, open_tracing

TRACE = "0af7651916cd43dd8448eb211c80319c"


async def test_spans_of_a_call() -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    call = Call.begin({b"traceparent": f"00-{TRACE}-b7ad6b7169203331-01".encode()})
    timing = call.timing
    timing.received = timing.parsed = timing.admitted = timing.routed = timing.entered = time.perf_counter()
    engine = Engine.connect("http://127.0.0.1:1")
    call.choice = Choice("legal", "legal@0", "legal", engine, "legal@0", "explicit", None)
    Tracing(provider).record(call, "/v1/messages", 503)
    await engine.close()
    *stages, whole = exporter.get_finished_spans()
    assert [span.name for span in stages] == ["parse", "route", "engine"]
    assert whole.name == "POST /v1/messages"
    assert format(whole.context.trace_id, "032x") == TRACE
    assert {span.parent.span_id for span in stages if span.parent} == {whole.context.span_id}
    assert whole.attributes is not None
    assert whole.attributes["zephyra.adapter"] == "legal@0"
    assert not whole.status.is_ok
    assert whole.start_time is not None
    assert whole.end_time is not None
    assert abs(whole.end_time / 1e9 - time.time()) < 60


async def test_a_refused_call_has_no_stages() -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    Tracing(provider).record(Call.begin({}), "/tokenize", 401)
    assert [span.name for span in exporter.get_finished_spans()] == ["POST /tokenize"]


def test_without_an_endpoint_there_is_no_tracing() -> None:
    assert open_tracing({}) is None
    tracing = open_tracing({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"})
    assert tracing is not None
    tracing.close()
