"""A thread that reads a topic to its end, then tails it."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol

import structlog
from kafka import KafkaConsumer, TopicPartition

from servicekit import errors
from servicekit.kafka.boundary import translated
from servicekit.kafka.clients import assign, offsets_on, opened_consumer, partitions

log: structlog.stdlib.BoundLogger = structlog.get_logger("servicekit.kafka")

# Kafka answers as soon as a record comes; the embedded broker after half of this. A process has several readers, which
# are idle most of the time: at 100 ms three of them took 5 % of the gateway's time.
_FETCH_WAIT_MS: Final = 500

Handler = Callable[[int, int, bytes | None, bytes | None], None]
BatchHandler = Callable[[int, "Sequence[Record]"], None]


class Record(Protocol):
    """What a batch handler may read of a record; value None is a tombstone."""

    offset: int
    key: bytes | None
    value: bytes | None


class BatchReader:
    """Reads a topic from its beginning, then tails it: `handler(partition, records)` for each batch of a partition.

    The handler runs in the reader's own thread, in offset order within a partition. A
    broker that goes away is waited for. Anything that a retry cannot mend (the handler raised, the offset is gone)
    ends the thread: `failed` holds the error and `on_failure` is called with it.
    """

    def __init__(
        self,
        bootstrap: str,
        topic: str,
        handler: BatchHandler,
        *,
        partitions: Sequence[int] | None = None,
        on_failure: Callable[[Exception], None] | None = None,
        poll_s: float = 0.2,
        connect_s: float = 5.0,
    ) -> None:
        self._thread = threading.Thread(target=self._run, name=f"read {topic}", daemon=True)
        self._bootstrap = bootstrap
        self._topic = topic
        self._handler = handler
        self._partitions = partitions
        self._on_failure = on_failure
        self._poll_ms = int(poll_s * 1000)
        self._connect_s = connect_s
        self._stopping = threading.Event()
        self.caught_up = threading.Event()
        self.positions: dict[int, int] = {}  # next offset of each partition
        self.failed: Exception | None = None

    def start(self) -> None:
        """Begin to read, from the beginning of the topic."""
        self._thread.start()

    def _run(self) -> None:
        backoff_s = 0.1
        while not self._stopping.is_set():
            try:
                self._read()
            except errors.LogUnavailable as exc:
                log.warning("topic unavailable", topic=self._topic, retry_in_s=backoff_s, error=str(exc))
                self._stopping.wait(backoff_s)
                backoff_s = min(2 * backoff_s, 2.0)
            except Exception as exc:  # the thread's owner must learn of it, whatever it is
                log.exception("topic reader failed", topic=self._topic)
                self.failed = exc
                if self._on_failure is not None:
                    self._on_failure(exc)
                return

    def stop(self, timeout_s: float = 5.0) -> None:
        """End the thread, waiting up to `timeout_s` for it. Idempotent."""
        self._stopping.set()
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join(timeout_s)

    def wait_caught_up(self, timeout_s: float) -> None:
        """Wait until all records that were there at the start are handled.

        Raises:
            HandlerFailed: the reader stopped on an error.
            LogUnavailable: `timeout_s` passed.
        """
        ends = time.monotonic() + timeout_s
        while not self.caught_up.wait(0.05):
            if self.failed is not None:
                raise errors.HandlerFailed(f"{self._topic}: {self.failed}") from self.failed
            if time.monotonic() > ends:
                raise errors.LogUnavailable(f"{self._topic}: not read to its end within {timeout_s} s")

    def _read(self) -> None:
        with opened_consumer(self._bootstrap, connect_s=self._connect_s, fetch_max_wait_ms=_FETCH_WAIT_MS) as consumer:
            owned = partitions(consumer, self._topic, self._connect_s)
            if self._partitions is not None:
                owned = sorted(self._partitions)
            first, ends = offsets_on(consumer, self._topic, owned)
            self.positions = first | self.positions
            assign(consumer, self._topic, self.positions)
            while not self._stopping.is_set():
                self._note_progress(consumer, ends)
                with translated(f"reading {self._topic}"):
                    polled = consumer.poll(timeout_ms=self._poll_ms)
                for partition, records in polled.items():
                    self._handler(partition.partition, records)
                    self.positions[partition.partition] = records[-1].offset + 1

    def _note_progress(self, consumer: KafkaConsumer, ends: Mapping[int, int]) -> None:
        if self.caught_up.is_set():
            return
        with translated(f"reading {self._topic}"):
            for partition, end in ends.items():
                # The consumer's own position: compaction may have removed the offsets just below the end.
                position = consumer.position(TopicPartition(self._topic, partition), timeout_ms=1_000)
                if max(position or 0, self.positions[partition]) < end:
                    return
        self.caught_up.set()


class TopicReader(BatchReader):
    """The same, record by record: `handler(partition, offset, key, value)`; value None is a tombstone."""

    def __init__(self, bootstrap: str, topic: str, handler: Handler, **options: Any) -> None:
        def each(partition: int, records: Sequence[Record]) -> None:
            for record in records:
                handler(partition, record.offset, record.key, record.value)
                self.positions[partition] = record.offset + 1

        super().__init__(bootstrap, topic, each, **options)
