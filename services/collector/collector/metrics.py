"""The collector's own metrics, beside those that servicekit counts of every call."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from collector.collecting import Outcome


class Metrics:
    """Counters of records and gauges of the log."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._records = Counter(
            "collector_records", "Records by fate.", ["usecase", "kind", "outcome"], registry=registry
        )
        self._ack = Histogram(
            "collector_append_seconds",
            "From handing a batch to the producer until all of it is acknowledged.",
            registry=registry,
            buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 10.0),
        )
        self._log_failures = Counter("collector_log_failures", "Batches that the log did not take.", registry=registry)
        self._in_flight = Gauge("collector_in_flight_records", "Records that wait for the log.", registry=registry)
        self._items = Gauge(
            "collector_catalogue_items", "Items whose category is known.", ["usecase"], registry=registry
        )

    def count(self, usecase: str, kind: str, outcome: Outcome) -> None:
        """One answered batch. A rejection counts under its reason, such as `missing_id`."""
        self._records.labels(usecase, kind, "accepted").inc(len(outcome.accepted))
        for _, reason in outcome.rejected:
            self._records.labels(usecase, kind, reason.partition(":")[0]).inc()

    def appended(self, seconds: float) -> None:
        """A batch was acknowledged."""
        self._ack.observe(seconds)

    def log_failed(self) -> None:
        """A batch was given up."""
        self._log_failures.inc()

    def in_flight(self, read: Callable[[], float]) -> None:
        """Where the gauge reads from."""
        self._in_flight.set_function(read)

    def items(self, usecase: str, read: Callable[[], float]) -> None:
        """Where the gauge reads from."""
        self._items.labels(usecase).set_function(read)
