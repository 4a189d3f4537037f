"""What the features service counts and times."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from features.log import Batch
from features.partition import Folded

_SECONDS: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
_RECORDS: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)


class FeatureMetrics:
    """The service's series, on one registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"features_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"features_{name}", text, labels, registry=registry)

        def seconds(name: str, text: str, *labels: str) -> Histogram:
            return Histogram(f"features_{name}", text, labels, buckets=_SECONDS, registry=registry)

        self._events = counter("events_total", "Records that changed the state.", "usecase", "topic")
        self._bad = counter("bad_total", "Records that no reading can use.", "usecase", "topic", "reason")
        self._duplicates = counter("duplicates_total", "Resent events, counted once.", "usecase")
        self._records = Histogram(
            "features_records_per_batch",
            "Records a record batch of what one fetch brought of a partition.",
            ("usecase", "topic"),
            buckets=_RECORDS,
            registry=registry,
        )
        self._loop = counter("loop_seconds_total", "What the loop's time went to; waiting for the log is poll.", "part")
        self._changed = gauge("changed_rows", "Rows that wait to be written.", "usecase")
        self._emit_seconds = seconds("emit_seconds", "One emission of what had changed.", "usecase", "what")
        self._emitted = counter("emitted_total", "Rows and partials written.", "usecase", "what")
        self._visible_seconds = seconds(
            "visible_seconds", "From the log's timestamp of an emission's oldest event to its end.", "usecase"
        )
        self._checkpoint_seconds = seconds("checkpoint_seconds", "Writing a partition's checkpoint.", "usecase")
        self._checkpoint_bytes = gauge("checkpoint_bytes", "Size of the last checkpoint.", "usecase", "partition")
        self._state_keys = gauge("state_keys", "Users and items in memory.", "usecase", "partition", "what")
        self._state_bytes = gauge("state_bytes", "Memory that they take.", "usecase", "partition", "what")
        self.evicted = counter("evicted_users_total", "Users whose state went from memory to the disk.", "usecase")
        self.lag = gauge("lag", "Records on the log that are not read yet.", "usecase", "topic", "partition")
        self.stalls = counter("stalls_total", "Partitions assigned again because reading had stopped.")
        self.refills = counter("refills_total", "Partitions written again to an emptied online store.", "usecase")
        self.store_errors = counter("store_errors_total", "Emissions that the online store did not take.", "usecase")
        self.overwritten = counter(
            "overwritten_total", "Partials sent again: a worker without a lease wrote over them."
        )
        self.fallbacks = counter(
            "fallbacks_total", "Readings of the slow path: kafka-python or the batch is of another version.", "reason"
        )
        self.publish_errors = counter("publish_errors_total", "Emissions that item-features did not take.")

    def folded(self, batch: Batch, folded: Folded) -> None:
        """Count what one batch came to."""
        usecase, topic, _ = batch.place
        if len(batch.records):
            self._records.labels(usecase, topic).observe(len(batch.records) / batch.batches)
        self._events.labels(usecase, topic).inc(folded.events)
        if folded.duplicates:
            self._duplicates.labels(usecase).inc(folded.duplicates)
        for record in [*folded.bad, *batch.lost]:
            self._bad.labels(usecase, topic, record.reason_name).inc()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Add the time inside to a part of the loop."""
        began = time.monotonic()
        try:
            yield
        finally:
            self._loop.labels(name).inc(time.monotonic() - began)

    def changed(self, usecase: str, rows: int) -> None:
        """Say how many rows wait."""
        self._changed.labels(usecase).set(rows)

    def emission(self, usecase: str, what: str, count: int, took_s: float) -> None:
        """Count one emission of one partition."""
        self._emit_seconds.labels(usecase, what).observe(took_s)
        self._emitted.labels(usecase, what).inc(count)

    def visible(self, usecase: str, oldest_us: int) -> None:
        """Observe how long the oldest event of an emission took; clocks may differ, so never below 0."""
        self._visible_seconds.labels(usecase).observe(max(0.0, time.time() - oldest_us / 1e6))

    def state(self, usecase: str, partition: int, what: str, keys: int, used_bytes: int) -> None:
        """Say how much of `users` or `items` is in memory."""
        self._state_keys.labels(usecase, str(partition), what).set(keys)
        self._state_bytes.labels(usecase, str(partition), what).set(used_bytes)

    def checkpoint(self, usecase: str, partition: int, size: int, took_s: float) -> None:
        """Count one checkpoint."""
        self._checkpoint_seconds.labels(usecase).observe(took_s)
        self._checkpoint_bytes.labels(usecase, str(partition)).set(size)
