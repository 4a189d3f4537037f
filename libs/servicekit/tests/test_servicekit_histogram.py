"""The loop's histogram tells what Prometheus' own does."""

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from servicekit.histogram import LoopHistogram


def told(kind: type[Histogram]) -> list[str]:
    registry = CollectorRegistry()
    seconds = kind("seconds", "How long.", ["stage"], registry=registry, buckets=(0.1, 0.5, 1.0))
    for value in (-1.0, 0.0, 0.1, 0.11, 0.5, 1.0, 1.5, float("inf")):
        seconds.labels("row").observe(value)
    return [line for line in generate_latest(registry).decode().splitlines() if "_created" not in line]


def test_it_tells_what_prometheus_own_does() -> None:
    """Values at an edge, beside it, and past the last."""
    assert told(Histogram) == told(LoopHistogram)
    assert 'seconds_bucket{le="0.1",stage="row"} 3.0' in told(LoopHistogram)
