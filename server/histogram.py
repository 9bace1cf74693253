"""Histograms and counters for the request path: Prometheus's exposition at a tenth of `prometheus_client`'s cost.

Its own take a lock, and its histogram walks its bounds for each observation. Requests are observed on one event loop,
scrapes run on the same, so neither a lock nor a copy is needed here.
"""

from bisect import bisect_left
from collections.abc import Iterable

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector


class Series:
    """One label set: counts by bucket, the last of them without bound, and the sum."""

    __slots__ = ("_bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self._bounds, value)] += 1
        self.total += value

    def buckets(self) -> list[tuple[str, float]]:
        """Upper bounds with cumulative counts, `+Inf` last."""
        found: list[tuple[str, float]] = []
        so_far = 0
        for bound, count in zip((*map(str, self._bounds), "+Inf"), self.counts, strict=True):
            so_far += count
            found.append((bound, so_far))
        return found


class Histogram(Collector):
    """A histogram with labels; series are made when first asked for and kept."""

    def __init__(
        self, name: str, text: str, labels: list[str], bounds: tuple[float, ...], registry: CollectorRegistry
    ) -> None:
        self._name, self._text, self._labels = name, text, labels
        self.bounds = tuple(sorted(bounds))
        self._series: dict[tuple[str, ...], Series] = {}
        if not labels:
            self.labels()
        registry.register(self)

    def labels(self, *values: str) -> Series:
        """The series of these label values, in the labels' order."""
        series = self._series.get(values)
        if series is None:
            if len(values) != len(self._labels):
                raise ValueError(f"{self._name} has the labels {self._labels}, not {len(values)} of them")
            series = self._series[values] = Series(self.bounds)
        return series

    def observe(self, value: float) -> None:
        """Observe where there are no labels."""
        self._series[()].observe(value)

    def counts(self) -> dict[tuple[str, ...], list[int]]:
        """Label values -> how many fell into each bucket, the last one without bound."""
        return {values: series.counts for values, series in self._series.items()}

    def collect(self) -> Iterable[HistogramMetricFamily]:
        family = HistogramMetricFamily(self._name, self._text, labels=self._labels)
        for values, series in self._series.items():
            family.add_metric(values, series.buckets(), series.total)
        yield family


class Count:
    """One label set of a counter."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def inc(self, amount: float = 1.0) -> None:
        self.value += amount


class Counter(Collector):
    """A counter with labels; `name` is without `_total`. Series are made when first asked for and kept."""

    def __init__(self, name: str, text: str, labels: list[str], registry: CollectorRegistry) -> None:
        self._name, self._text, self._labels = name, text, labels
        self._series: dict[tuple[str, ...], Count] = {}
        if not labels:
            self.labels()
        registry.register(self)

    def labels(self, *values: str) -> Count:
        """The series of these label values, in the labels' order."""
        series = self._series.get(values)
        if series is None:
            if len(values) != len(self._labels):
                raise ValueError(f"{self._name} has the labels {self._labels}, not {len(values)} of them")
            series = self._series[values] = Count()
        return series

    def inc(self, amount: float = 1.0) -> None:
        """Count where there are no labels."""
        self._series[()].inc(amount)

    def collect(self) -> Iterable[CounterMetricFamily]:
        family = CounterMetricFamily(self._name, self._text, labels=self._labels)
        for values, series in self._series.items():
            family.add_metric(values, series.value)
        yield family
