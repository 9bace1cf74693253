"""Metrics of several workers as one: each writes what it has counted to a shared directory, a scrape adds it all up.

A worker writes twice a second, and whenever it is scraped, so that what a scrape has shown can never shrink in a later
one, whichever worker answers. What an ended worker has counted stays, merged into one file.
"""

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.registry import Collector

# Gauges that add up over workers; others are one fact that each worker sees, so the scraped one's view is shown.
ADDED_GAUGES = frozenset(
    {"zephyra_requests_in_flight", "zephyra_engine_requests_in_flight", "zephyra_engine_requests_waiting"}
)
WRITE_SECONDS = 0.5
ENDED = "ended.metrics"


class Sample(msgspec.Struct, array_like=True):
    name: str
    labels: tuple[tuple[str, str], ...]
    value: float


class Family(msgspec.Struct, array_like=True):
    name: str
    text: str
    kind: str
    samples: list[Sample]


_decoder = msgspec.json.Decoder(list[Family])


class Snapshots(Collector):
    """One worker's place in the shared directory; collects its own registry with the others' counts added."""

    def __init__(self, registry: CollectorRegistry, directory: Path, worker: int) -> None:
        self._registry = registry
        self._directory = directory
        self._file = directory / f"{worker}.metrics"

    def write(self) -> None:
        """Put this worker's counts where the others find them."""
        _replace(self._file, families(self._registry))

    def collect(self) -> Iterator[Metric]:
        """Every worker's metrics, as one process would have them."""
        self.write()
        others = [_read(path) for path in sorted(self._directory.glob("*.metrics")) if path != self._file]
        for family in merge(families(self._registry), others):
            metric = Metric(family.name, family.text, family.kind)
            for sample in family.samples:
                metric.add_sample(sample.name, dict(sample.labels), sample.value)
            yield metric


def families(registry: CollectorRegistry) -> list[Family]:
    """A registry's metrics as they stand."""
    return [
        Family(
            metric.name,
            metric.documentation,
            metric.type,
            [Sample(sample.name, tuple(sample.labels.items()), float(sample.value)) for sample in metric.samples],
        )
        for metric in registry.collect()
    ]


def merge(own: list[Family], others: Iterable[list[Family]]) -> list[Family]:
    """`own` with the others' counts added; series that only others have are taken over."""
    merged = {family.name: Family(family.name, family.text, family.kind, list(family.samples)) for family in own}
    for family in (family for other in others for family in other):
        mine = merged.setdefault(family.name, Family(family.name, family.text, family.kind, []))
        if family.kind == "gauge" and family.name not in ADDED_GAUGES:
            continue
        known = {(sample.name, sample.labels): index for index, sample in enumerate(mine.samples)}
        for sample in family.samples:
            index = known.get((sample.name, sample.labels))
            if index is None:
                mine.samples.append(sample)
            else:
                mine.samples[index] = Sample(sample.name, sample.labels, mine.samples[index].value + sample.value)
    return list(merged.values())


def retire(directory: Path, worker: int) -> None:
    """Keep what an ended worker counted, without its gauges: nothing of it runs any more."""
    file = directory / f"{worker}.metrics"
    counted = [family for family in _read(file) if family.kind != "gauge"]
    _replace(directory / ENDED, merge(_read(directory / ENDED), [counted]))
    file.unlink(missing_ok=True)


def _read(path: Path) -> list[Family]:
    """A file's metrics; none where it is gone or was never written."""
    with contextlib.suppress(OSError, msgspec.MsgspecError):
        return _decoder.decode(path.read_bytes())
    return []


def _replace(path: Path, content: list[Family]) -> None:
    temporary = path.with_suffix(f".{os.getpid()}")
    temporary.write_bytes(msgspec.json.encode(content))
    temporary.replace(path)
