"""What is seen of adapters: versions by phase, shares of their routes, loads, failures, canaries taken out.

Read from the desired state and the route table at each scrape, so that the series are as many as there are adapters
now. Counters of every adapter begin at 0: Prometheus's `increase` sees nothing of a series that begins at 1.
"""

from collections import Counter
from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from adapters.state import Phase, State
from server.histogram import Histogram
from server.table import RouteTable

LOAD_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
# The phases in which a version can fail.
STEPS = (Phase.VALIDATING, Phase.LOADING, Phase.VERIFYING)


class AdapterMetrics(Collector):
    """Counts what this gateway did with adapters; `watch` tells it where to read what is."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        registry = registry or CollectorRegistry(auto_describe=True)
        self._state: Callable[[], State] = State
        self._table: Callable[[], RouteTable] | None = None
        self._failures: Counter[tuple[str, str]] = Counter()
        self._rollbacks: Counter[str] = Counter()
        self._load = Histogram(
            "zephyra_adapter_load_seconds",
            "Time an engine took to load a version, as seen by this gateway.",
            ["adapter"],
            LOAD_SECONDS,
            registry,
        )
        registry.register(self)

    def watch(self, state: Callable[[], State], table: Callable[[], RouteTable]) -> None:
        """From now on each scrape reads these."""
        self._state, self._table = state, table

    def loaded(self, name: str, seconds: float) -> None:
        """An engine loaded a version of the adapter."""
        self._load.labels(name).observe(seconds)

    def failed(self, name: str, step: Phase) -> None:
        """A version did not get past `step`."""
        self._failures[name, step] += 1

    def rolled_back(self, name: str) -> None:
        """A canary was taken out of the adapter's route."""
        self._rollbacks[name] += 1

    def collect(self) -> Iterable[Metric]:
        versions = GaugeMetricFamily(
            "zephyra_adapter_versions", "Versions in the store, by phase.", labels=["adapter", "phase"]
        )
        failures = CounterMetricFamily(
            "zephyra_adapter_failures", "Versions that failed, by the step they failed in.", labels=["adapter", "step"]
        )
        rollbacks = CounterMetricFamily(
            "zephyra_canary_rollbacks", "Canaries that the guard took out of their route.", labels=["adapter"]
        )
        for name, adapter in self._state().adapters.items():
            phases = Counter(version.phase for version in adapter.versions.values())
            for phase in Phase:
                versions.add_metric([name, phase], phases[phase])
            for step in STEPS:
                failures.add_metric([name, step], self._failures[name, step])
            rollbacks.add_metric([name], self._rollbacks[name])
        yield from (versions, failures, rollbacks, self._shares())

    def _shares(self) -> Metric:
        shares = GaugeMetricFamily(
            "zephyra_adapter_share",
            "Share of its adapter's requests a version is routed, 0 to 1.",
            labels=["adapter", "version"],
        )
        for name, route in self._table().routes.items() if self._table else ():
            total = sum(weight for _, weight in route.shares)
            for version, weight in route.shares:
                shares.add_metric([name, version.digest], weight / total)
        return shares
