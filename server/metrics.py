"""The gateway's own metrics, by Prometheus's conventions. Children of hot metrics are bound once and kept."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.exposition import generate_latest

from server.adapter_metrics import AdapterMetrics
from server.call import STAGES, Call
from server.engine import Engine
from server.histogram import Count, Counter, Histogram, Series
from server.limits import Gate
from server.snapshots import Snapshots

MICROSECONDS = (
    10e-6, 20e-6, 30e-6, 50e-6, 75e-6, 100e-6, 150e-6, 200e-6, 300e-6, 500e-6, 750e-6, 1e-3, 2e-3, 5e-3, 10e-3, 50e-3,
)  # fmt: skip
OVERHEAD = (
    50e-6, 100e-6, 150e-6, 200e-6, 300e-6, 500e-6, 750e-6, 1e-3, 1.5e-3, 2e-3, 3e-3, 5e-3, 10e-3, 25e-3, 100e-3, 1.0,
)  # fmt: skip
# From microseconds of parsing to minutes of relaying.
SPREAD = (10e-6, 30e-6, 100e-6, 300e-6, 1e-3, 3e-3, 10e-3, 30e-3, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 120.0)
SECONDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
CONFIDENCE = tuple(step / 20 for step in range(1, 21))


@dataclass(frozen=True, slots=True)
class Bound:
    """The series that one kind of request is counted in, bound once."""

    requests: Count
    errors: Count
    prompt_tokens: Count
    output_tokens: Count
    overhead: Series
    first_token: Series
    duration: Series
    stages: Sequence[Series]


class Metrics:
    """One registry per application, so that several can live in one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=True)
        # This worker's place among several.
        self.shared: Snapshots | None = None
        self.requests = self._counter(
            "zephyra_requests", "Requests answered.", ["model", "adapter", "reason", "status"]
        )
        self.decisions = self._counter("zephyra_decisions", "TinyAda's decisions.", ["domain", "reason"])
        # Requests being answered now.
        self.running = 0
        in_flight = self._gauge("zephyra_requests_in_flight", "Requests being answered now.", [])
        in_flight.set_function(lambda: self.running)
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

        self.engine_adapters = self._gauge(
            "zephyra_engine_adapters_running", "Distinct versions with requests on the engine now.", ["engine"]
        )
        self.adapter_slots = self._gauge(
            "zephyra_adapter_slots", "Adapters one batch of an engine can have (max-loras); 0 where unknown.", []
        )
        self.adapters = AdapterMetrics(self.registry)

        # The label sets are bounded: known models, known adapters, known reasons, HTTP statuses.
        self._bound: dict[tuple[str, ...], Bound] = {}
        self._routers: dict[str, str] = {}

    def record(self, call: Call, status: int) -> None:
        """Count a request at its end."""
        choice, timing = call.choice, call.timing
        if choice is None:
            # The model's name is the client's: as a label it would let strangers grow the metric without bound.
            self.requests.labels("", "", "refused", str(status)).inc()
            return
        stream = "true" if call.request is not None and call.request.stream else "false"
        # Without its version, or every new one would be a new series.
        model = choice.model.partition("@")[0]
        key = model, choice.label, choice.reason, str(status), stream, choice.arm
        bound = self._bound.get(key) or self._bind(*key)
        bound.requests.inc()
        if status >= 500:
            bound.errors.inc()
        if choice.decision is not None:
            self.route.observe(timing.routed - timing.admitted)
            self.decisions.labels(choice.decision.domain, choice.reason).inc()
            self.confidence.labels(choice.decision.domain).observe(choice.decision.confidence)
        if timing.answered:
            self._record_answer(call, bound)

    def _bind(self, model: str, adapter: str, reason: str, status: str, stream: str, arm: str) -> Bound:
        bound = self._bound[model, adapter, reason, status, stream, arm] = Bound(
            self.requests.labels(model, adapter, reason, status),
            self.errors.labels(adapter),
            self.tokens.labels(adapter, "prompt"),
            self.tokens.labels(adapter, "output"),
            self.overhead.labels(stream, arm),
            self.first_token.labels(adapter, arm),
            self.duration.labels(adapter),
            [self.stages.labels(stage, arm) for stage in STAGES],
        )
        return bound

    def _record_answer(self, call: Call, bound: Bound) -> None:
        timing = call.timing
        now = time.perf_counter()
        streamed = call.request is not None and call.request.stream
        bound.overhead.observe(timing.overhead(now, streamed))
        bound.first_token.observe(timing.answered - timing.received)
        bound.duration.observe(now - timing.received)
        for stage, seconds in zip(bound.stages, timing.spent(now), strict=True):
            stage.observe(seconds)
        if call.prompt_tokens:
            bound.prompt_tokens.inc(call.prompt_tokens)
        if call.output_tokens:
            bound.output_tokens.inc(call.output_tokens)

    def watch_gate(self, url: str, gate: Gate) -> None:
        """From now on each scrape reads how many wait for this engine."""
        self.engine_waiting.labels(url).set_function(lambda: gate.waiting)

    def watch_engine(self, engine: Engine) -> None:
        """From now on each scrape reads this engine's state."""
        self.engine_up.labels(engine.url).set_function(lambda: engine.up)
        self.engine_ready.labels(engine.url).set_function(lambda: engine.ready)
        self.engine_in_flight.labels(engine.url).set_function(lambda: engine.in_flight)
        self.adapters_loaded.labels(engine.url).set_function(lambda: len(engine.present))
        self.adapters_drift.labels(engine.url).set_function(lambda: engine.drift)
        self.engine_adapters.labels(engine.url).set_function(lambda: len(engine.running))

    def forget_engine(self, url: str) -> None:
        """The engine is gone: its series end."""
        for gauge in (
            self.engine_up,
            self.engine_ready,
            self.engine_in_flight,
            self.engine_waiting,
            self.engine_adapters,
            self.adapters_loaded,
            self.adapters_drift,
        ):
            gauge.remove(url)

    def decided(self) -> dict[str, dict[str, int]]:
        """Domain -> reason -> how often TinyAda decided so."""
        found: dict[str, dict[str, int]] = {}
        for sample in next(iter(self.decisions.collect())).samples:
            found.setdefault(sample.labels["domain"], {})[sample.labels["reason"]] = int(sample.value)
        return found

    def overhead_by_arm(self) -> dict[str, list[int]]:
        """Arm -> requests in each bucket of `overhead`, streamed and whole together."""
        found: dict[str, list[int]] = {}
        for (_, arm), counts in self.overhead.counts().items():
            so_far = found.get(arm, [0] * len(counts))
            found[arm] = [a + b for a, b in zip(so_far, counts, strict=True)]
        return found

    def show_router(self, role: str, digest: str | None) -> None:
        """From now on this TinyAda has the role, `serving` or `shadow`."""
        before = self._routers.pop(role, None)
        if before is not None:
            self.router_info.remove(role, before)
        if digest is not None:
            self._routers[role] = digest
            self.router_info.labels(role, digest).set(1)

    def render(self) -> bytes:
        """The text exposition format, of all workers where there are several; alone it does no I/O."""
        return generate_latest(self.shared or self.registry)

    def _counter(self, name: str, text: str, labels: list[str]) -> Counter:
        return Counter(name, text, labels, self.registry)

    def _gauge(self, name: str, text: str, labels: list[str]) -> Gauge:
        return Gauge(name, text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], labels: list[str]) -> Histogram:
        return Histogram(name, text, labels, buckets, self.registry)
