"""The archiver's metrics."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


class Metrics:
    """Registered in the process's registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.rows = Counter("archiver_rows_total", "Rows written to the lake.", ["table"], registry=registry)
        self.dead_letters = Counter(
            "archiver_dead_letters_total", "Records that no reading can use.", ["reason"], registry=registry
        )
        self.failures = Counter(
            "archiver_failures_total", "Writes that have to be tried again.", ["error"], registry=registry
        )
        self.fallbacks = Counter(
            "archiver_fallbacks_total",
            "Readings of the slow path: kafka-python or the batch is of another version.",
            ["reason"],
            registry=registry,
        )
        self.stalls = Counter(
            "archiver_stalls_total", "Partitions assigned again because reading had stopped.", registry=registry
        )
        self.lag = Gauge("archiver_lag_records", "Records on the log, not read yet.", ["topic"], registry=registry)
        self.buffered = Gauge("archiver_buffered_bytes", "Rows read, not in the lake yet.", registry=registry)
        self.commit_seconds = Histogram(
            "archiver_commit_seconds",
            "Duration of one commit.",
            ["table"],
            buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
            registry=registry,
        )
