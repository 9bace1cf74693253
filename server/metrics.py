"""The gateway's own metrics, by Prometheus's conventions. Children of hot metrics are bound once and kept."""

from functools import lru_cache

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.exposition import generate_latest

from server.engine import Engine

MICROSECONDS = (
    10e-6, 20e-6, 30e-6, 50e-6, 75e-6, 100e-6, 150e-6, 200e-6, 300e-6, 500e-6, 750e-6, 1e-3, 2e-3, 5e-3, 10e-3, 50e-3,
)  # fmt: skip
OVERHEAD = (
    50e-6, 100e-6, 150e-6, 200e-6, 300e-6, 500e-6, 750e-6, 1e-3, 1.5e-3, 2e-3, 3e-3, 5e-3, 10e-3, 25e-3, 100e-3, 1.0,
)  # fmt: skip
SECONDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
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
            "Time a request spent in the gateway: total less the engine and the client's sending.",
            OVERHEAD,
            ["stream"],
        )
        self.first_token = self._histogram(
            "zephyra_time_to_first_token_seconds",
            "From the whole request to the first byte back.",
            SECONDS,
            ["adapter"],
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
        self.adapters_desired = self._gauge("zephyra_adapters_desired", "Versions that should be loaded.", [])
        self.adapters_loaded = self._gauge("zephyra_adapters_loaded", "Adapters an engine has loaded.", ["engine"])
        self.adapters_drift = self._gauge("zephyra_adapters_drift", "Adapters to load or unload.", ["engine"])

        # The label sets are bounded: known models, known adapters, known reasons, HTTP statuses.
        self.requests_child = lru_cache(maxsize=4096)(self.requests.labels)
        self.decisions_child = lru_cache(maxsize=512)(self.decisions.labels)
        self.confidence_child = lru_cache(maxsize=128)(self.confidence.labels)
        self.overhead_child = lru_cache(maxsize=2)(self.overhead.labels)
        self.first_token_child = lru_cache(maxsize=1024)(self.first_token.labels)
        self.duration_child = lru_cache(maxsize=1024)(self.duration.labels)

    def watch_engine(self, engine: Engine) -> None:
        """From now on each scrape reads this engine's state."""
        self.engine_up.labels(engine.url).set_function(lambda: engine.up)
        self.engine_ready.labels(engine.url).set_function(lambda: engine.ready)
        self.engine_in_flight.labels(engine.url).set_function(lambda: engine.in_flight)
        self.adapters_loaded.labels(engine.url).set_function(lambda: len(engine.loaded))
        self.adapters_drift.labels(engine.url).set_function(lambda: engine.drift)

    def render(self) -> bytes:
        """The text exposition format; no I/O."""
        return generate_latest(self.registry)

    def _counter(self, name: str, text: str, labels: list[str]) -> Counter:
        return Counter(name, text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, labels: list[str]) -> Gauge:
        return Gauge(name, text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], labels: list[str]) -> Histogram:
        return Histogram(name, text, labels, buckets=buckets, registry=self.registry)
