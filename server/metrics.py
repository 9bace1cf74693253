"""The gateway's own metrics, by Prometheus's conventions. Children of hot metrics are bound once and kept."""

import time
from functools import lru_cache

from prometheus_client import CollectorRegistry, Counter, Gauge, disable_created_metrics
from prometheus_client.exposition import generate_latest

from server.call import Call, Timing
from server.engine import Engine
from server.histogram import Histogram
from server.limits import Gate
from server.routing import Choice

MICROSECONDS = (
    10e-6, 20e-6, 30e-6, 50e-6, 75e-6, 100e-6, 150e-6, 200e-6, 300e-6, 500e-6, 750e-6, 1e-3, 2e-3, 5e-3, 10e-3, 50e-3,
)  # fmt: skip
OVERHEAD = (
    50e-6, 100e-6, 150e-6, 200e-6, 300e-6, 500e-6, 750e-6, 1e-3, 1.5e-3, 2e-3, 3e-3, 5e-3, 10e-3, 25e-3, 100e-3, 1.0,
)  # fmt: skip
# From microseconds of parsing to minutes of relaying.
SPREAD = (10e-6, 30e-6, 100e-6, 300e-6, 1e-3, 3e-3, 10e-3, 30e-3, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 120.0)
SECONDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
STAGES = ("parse", "access", "route", "wait", "engine", "relay")
CONFIDENCE = tuple(step / 20 for step in range(1, 21))


class Metrics:
    """One registry per application, so that several can live in one process."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry(auto_describe=True)
        self.requests = self._counter(
            "zephyra_requests", "Requests answered.", ["model", "adapter", "reason", "status"]
        )
        self.decisions = self._counter("zephyra_decisions", "TinyAda's decisions.", ["domain", "reason"])
        self.in_flight = self._gauge("zephyra_requests_in_flight", "Requests being answered now.", [])
        self.confidence = self._histogram(
            "zephyra_decision_confidence", "Calibrated confidence of decisions.", CONFIDENCE, ["domain"]
        )
        self.route = self._histogram("zephyra_route_duration_seconds", "Time TinyAda took to decide.", MICROSECONDS, [])
        self.overhead = self._histogram(
            "zephyra_gateway_overhead_seconds",
            "Time a request spent in the gateway: total less the engine, the queue and the client's sending.",
            OVERHEAD,
            ["stream", "arm"],
        )
        self.stages = self._histogram(
            "zephyra_stage_duration_seconds",
            "Time in each stage of a request; arm is routed, bypass or explicit.",
            SPREAD,
            ["stage", "arm"],
        )
        self.tokens = self._counter("zephyra_tokens", "Tokens by the engines' count.", ["adapter", "kind"])
        self.errors = self._counter("zephyra_adapter_errors", "Answers that failed, 5xx.", ["adapter"])
        self.engine_waiting = self._gauge(
            "zephyra_engine_requests_waiting", "Requests waiting for a place on the engine.", ["engine"]
        )
        self.first_token = self._histogram(
            "zephyra_time_to_first_token_seconds",
            "From the whole request to the first byte back.",
            SECONDS,
            ["adapter", "arm"],
        )
        self.duration = self._histogram(
            "zephyra_request_duration_seconds",
            "From the whole request to the end of the answer.",
            SECONDS,
            ["adapter"],
        )
        self.engine_up = self._gauge("zephyra_engine_up", "1 where the engine answers /health.", ["engine"])
        self.engine_ready = self._gauge("zephyra_engine_ready", "1 where it also has its adapters.", ["engine"])
        self.engine_in_flight = self._gauge("zephyra_engine_requests_in_flight", "Requests forwarded.", ["engine"])
        self.router_info = self._gauge(
            "zephyra_router_info", "1 for the TinyAda that serves, and the one in its shadow.", ["role", "digest"]
        )
        self.router_swaps = self._counter("zephyra_router_swaps", "TinyAdas put in place, or refused.", ["outcome"])
        self.shadow = self._counter(
            "zephyra_shadow_decisions",
            "Conversations that a second TinyAda decided too: the domain that answered, and the one it would choose.",
            ["served", "shadow"],
        )
        self.shadow_dropped = self._counter(
            "zephyra_shadow_dropped", "Conversations that the second TinyAda had no time for.", []
        )
        self.adapters_desired = self._gauge("zephyra_adapters_desired", "Versions that should be loaded.", [])
        self.adapters_loaded = self._gauge("zephyra_adapters_loaded", "Adapters an engine has loaded.", ["engine"])
        self.adapters_drift = self._gauge("zephyra_adapters_drift", "Adapters to load or unload.", ["engine"])

        # The label sets are bounded: known models, known adapters, known reasons, HTTP statuses.
        self.requests_child = lru_cache(maxsize=4096)(self.requests.labels)
        self.decisions_child = lru_cache(maxsize=512)(self.decisions.labels)
        self.tokens_child = lru_cache(maxsize=1024)(self.tokens.labels)
        self.errors_child = lru_cache(maxsize=512)(self.errors.labels)
        self.shadow_child = lru_cache(maxsize=4096)(self.shadow.labels)
        self._routers: dict[str, str] = {}

    def record(self, call: Call, status: int) -> None:
        """Count a request at its end."""
        choice, timing = call.choice, call.timing
        if choice is None:
            # The model's name is the client's: as a label it would let strangers grow the metric without bound.
            self.requests_child("", "", "refused", str(status)).inc()
            return
        # Without its version, or every new one would be a new series.
        self.requests_child(choice.model.partition("@")[0], choice.label, choice.reason, str(status)).inc()
        if status >= 500:
            self.errors_child(choice.label).inc()
        if choice.decision is not None:
            self.route.observe(timing.routed - timing.admitted)
            self.decisions_child(choice.decision.domain, choice.reason).inc()
            self.confidence.labels(choice.decision.domain).observe(choice.decision.confidence)
        if timing.answered:
            self._record_answer(call, choice, timing)

    def _record_answer(self, call: Call, choice: Choice, timing: Timing) -> None:
        now = time.perf_counter()
        arm = choice.arm
        stream = call.request is not None and call.request.stream
        relay = now - timing.answered
        # A stream's relaying runs beside the engine's work: only what comes before the engine delays it.
        overhead = timing.routed - timing.received + (0.0 if stream else relay)
        self.overhead.labels("true" if stream else "false", arm).observe(overhead)
        self.first_token.labels(choice.label, arm).observe(timing.answered - timing.received)
        self.duration.labels(choice.label).observe(now - timing.received)
        spent = (
            timing.parsed - timing.received,
            timing.admitted - timing.parsed,
            timing.routed - timing.admitted,
            timing.entered - timing.routed,
            timing.answered - timing.entered,
            relay,
        )
        for stage, seconds in zip(STAGES, spent, strict=True):
            self.stages.labels(stage, arm).observe(seconds)
        if call.prompt_tokens:
            self.tokens_child(choice.label, "prompt").inc(call.prompt_tokens)
        if call.output_tokens:
            self.tokens_child(choice.label, "output").inc(call.output_tokens)

    def watch_gate(self, url: str, gate: Gate) -> None:
        """From now on each scrape reads how many wait for this engine."""
        self.engine_waiting.labels(url).set_function(lambda: gate.waiting)

    def watch_engine(self, engine: Engine) -> None:
        """From now on each scrape reads this engine's state."""
        self.engine_up.labels(engine.url).set_function(lambda: engine.up)
        self.engine_ready.labels(engine.url).set_function(lambda: engine.ready)
        self.engine_in_flight.labels(engine.url).set_function(lambda: engine.in_flight)
        self.adapters_loaded.labels(engine.url).set_function(lambda: len(engine.loaded))
        self.adapters_drift.labels(engine.url).set_function(lambda: engine.drift)

    def show_router(self, role: str, digest: str | None) -> None:
        """From now on this TinyAda has the role, `serving` or `shadow`."""
        before = self._routers.pop(role, None)
        if before is not None:
            self.router_info.remove(role, before)
        if digest is not None:
            self._routers[role] = digest
            self.router_info.labels(role, digest).set(1)

    def render(self) -> bytes:
        """The text exposition format; no I/O."""
        return generate_latest(self.registry)

    def _counter(self, name: str, text: str, labels: list[str]) -> Counter:
        return Counter(name, text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, labels: list[str]) -> Gauge:
        return Gauge(name, text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], labels: list[str]) -> Histogram:
        return Histogram(name, text, labels, buckets, self.registry)
