"""The Kafka side of impressions: a producer made on first use, so that the gateway starts without Kafka's leave."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import numpy as np
from kafka import TopicPartition
from kafka.partitioner.default import murmur2
from servicekit.errors import LogError, ProducerBroken
from servicekit.kafka import make_producer, translate, translated
from servicekit.kafka.column_writer import send_columns
from servicekit.topics import id_key, topic

LINGER_MS: Final = 200  # impressions are in no hurry: a few requests a second to the broker, each with many
BATCH_BYTES: Final = 512 * 1024
COLUMN_BYTES: Final = 384 * 1024  # of values in one ready-made batch; the writer takes 512 KiB with what is around them
CONNECT_S: Final = 5.0


class ImpressionLog:
    """Topic `<usecase>.impressions`. Used by one thread."""

    def __init__(self, bootstrap: str, usecase: str) -> None:
        self._bootstrap = bootstrap
        self._topic = topic(usecase, "impressions")
        self._producer: Any = None
        self._broken = False

    def send(self, records: Sequence[tuple[int, bytes]], on_lost: Callable[[BaseException], None]) -> None:
        """Hand records to the producer as ready-made batches; `on_lost` is told of each that Kafka never takes.

        Raises:
            LogError: no broker.
        """
        if self._broken:
            self._producer.close(timeout=0)
            self._producer, self._broken = None, False
        if self._producer is None:
            self._producer = make_producer(
                self._bootstrap, linger_ms=LINGER_MS, batch_bytes=BATCH_BYTES, connect_s=CONNECT_S
            )
        with translated(f"writing {self._topic}"):
            partitions = sorted(self._producer.partitions_for(self._topic))
            groups: dict[int, list[tuple[bytes, bytes]]] = {}
            for user_id, value in records:  # where kafka-python's own partitioner puts the key
                key = id_key(user_id)
                groups.setdefault(partitions[(murmur2(key) & 0x7FFFFFFF) % len(partitions)], []).append((key, value))
            for partition, group in groups.items():
                for batch in _batches(group):
                    self._send(partition, batch, on_lost)

    def _send(
        self, partition: int, batch: Sequence[tuple[bytes, bytes]], on_lost: Callable[[BaseException], None]
    ) -> None:
        def failed(exc: BaseException) -> None:
            error = exc if isinstance(exc, LogError) else translate(exc, f"writing {self._topic}")
            self._broken = self._broken or isinstance(error, ProducerBroken)
            for _ in batch:
                on_lost(error)

        if len(batch) == 1:
            [(key, value)] = batch
            self._producer.send(self._topic, value=value, key=key, partition=partition).add_errback(failed)
            return
        keys = np.frombuffer(b"".join(key for key, _ in batch), np.uint8).reshape(len(batch), -1)
        bounds = np.cumsum([0, *(len(value) for _, value in batch)], dtype=np.int64)
        data = np.frombuffer(b"".join(value for _, value in batch), np.uint8)
        send_columns(self._producer, TopicPartition(self._topic, partition), keys, b"", data, bounds, failed)

    def close(self, timeout_s: float) -> None:
        """Send what is buffered, for at most `timeout_s`, and close. Raises LogError if that was not enough."""
        if self._producer is None:
            return
        try:
            with translated(f"flushing {self._topic}"):
                self._producer.flush(timeout=timeout_s)
        finally:
            self._producer.close(timeout=0)
            self._producer = None


def _batches(group: Sequence[tuple[bytes, bytes]]) -> Iterator[Sequence[tuple[bytes, bytes]]]:
    """Runs of records that are one batch of the producer each."""
    first, size = 0, 0
    for at, (_, value) in enumerate(group):
        if size and size + len(value) > COLUMN_BYTES:
            yield group[first:at]
            first, size = at, 0
        size += len(value)
    yield group[first:]
