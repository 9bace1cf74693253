"""Several workers' metrics as one: counts add up and outlive their worker, gauges follow what runs."""

from pathlib import Path

from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.exposition import generate_latest

from server.histogram import Counter, Histogram
from server.snapshots import Snapshots, retire


class Metrics:
    def __init__(self, directory: Path, worker: int) -> None:
        registry = CollectorRegistry(auto_describe=True)
        self.requests = Counter("zephyra_requests", "Requests.", ["model"], registry)
        self.seconds = Histogram("zephyra_seconds", "Seconds.", [], (0.1, 1.0), registry)
        self.running = Gauge("zephyra_requests_in_flight", "Running.", [], registry=registry)
        self.up = Gauge("zephyra_engine_up", "Up.", ["engine"], registry=registry)
        self.shared = Snapshots(registry, directory, worker)

    def lines(self) -> set[str]:
        return set(generate_latest(self.shared).decode().splitlines())


def test_two_workers_and_the_end_of_one(tmp_path: Path) -> None:
    first, second = Metrics(tmp_path, 0), Metrics(tmp_path, 1)
    first.requests.labels("a").inc(2)
    second.requests.labels("a").inc(3)
    second.requests.labels("b").inc()
    first.seconds.observe(0.05)
    second.seconds.observe(0.5)
    for metrics in (first, second):
        metrics.running.set(4)
        metrics.up.labels("e").set(1)
    second.shared.write()
    together = {
        'zephyra_requests_total{model="a"} 5.0',
        'zephyra_requests_total{model="b"} 1.0',
        'zephyra_seconds_bucket{le="0.1"} 1.0',
        'zephyra_seconds_bucket{le="1.0"} 2.0',
        'zephyra_seconds_bucket{le="+Inf"} 2.0',
        "zephyra_seconds_count 2.0",
        "zephyra_seconds_sum 0.55",
        "zephyra_requests_in_flight 8.0",
        'zephyra_engine_up{engine="e"} 1.0',
    }
    assert together <= first.lines()
    # The first's scrape left its counts for the second's.
    assert together <= second.lines()
    retire(tmp_path, 1)
    alone = {line for line in together if "in_flight" not in line} | {"zephyra_requests_in_flight 4.0"}
    assert alone <= first.lines()
    again = Metrics(tmp_path, 1)
    again.requests.labels("b").inc()
    again.shared.write()
    retire(tmp_path, 1)
    assert 'zephyra_requests_total{model="b"} 2.0' in first.lines()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.metrics", "ended.metrics"]


def test_a_half_written_file_is_passed_over(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path, 0)
    (tmp_path / "1.metrics").write_text("[[")
    metrics.requests.labels("a").inc()
    assert 'zephyra_requests_total{model="a"} 1.0' in metrics.lines()
