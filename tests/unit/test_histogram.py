"""The histogram's text is what prometheus_client's own would be."""

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from prometheus_client import Histogram as Reference
from prometheus_client.exposition import generate_latest

from server.histogram import Histogram

BOUNDS = (0.001, 0.01, 0.1, 1.0)


def lines(registry: CollectorRegistry) -> list[str]:
    return [line for line in generate_latest(registry).decode().splitlines() if "_created" not in line]


@given(st.lists(st.tuples(st.sampled_from(["a", 'b"\n']), st.floats(0, 10) | st.sampled_from(BOUNDS))))
def test_same_text_as_the_reference(observations: list[tuple[str, float]]) -> None:
    ours, theirs = CollectorRegistry(auto_describe=True), CollectorRegistry(auto_describe=True)
    mine = Histogram("x_seconds", "Text.", ["label"], BOUNDS, ours)
    reference = Reference("x_seconds", "Text.", ["label"], buckets=BOUNDS, registry=theirs)
    for label, value in observations:
        mine.labels(label).observe(value)
        reference.labels(label).observe(value)
    assert lines(ours) == lines(theirs)


def test_without_labels_it_is_there_from_the_start() -> None:
    registry = CollectorRegistry(auto_describe=True)
    histogram = Histogram("y", "Text.", [], BOUNDS, registry)
    assert "y_count 0.0" in lines(registry)
    histogram.observe(0.5)
    assert 'y_bucket{le="1.0"} 1.0' in lines(registry)
