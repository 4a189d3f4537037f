"""Kafka as the loop's source and sink: kafka-python's consumer and producer, assigned by hand."""

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final

import structlog
from definitions.item_feed import item_features_key, item_features_keys, marker_value, partial_value
from definitions.packed_rows import PackedRows
from definitions.record_columns import RecordColumns
from definitions.records import corrupt_batch
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import KafkaError
from kafka.structs import OffsetAndMetadata
from servicekit.errors import LogError
from servicekit.kafka import bounds_of, make_consumer, make_producer, partitions_of, translate, translated
from servicekit.kafka.column_reader import ColumnReader, Item
from servicekit.kafka.column_writer import send_columns
from servicekit.kafka.columns import CorruptBatch
from servicekit.topics import item_features_topic, topic

from features.audit import Audit
from features.errors import PublishFailed, UnevenPartitions
from features.log import Batch, Bounds, Found, Lease, Origin, Place
from features.partition import INTERACTIONS, USERS

GROUP: Final = "features"  # under which dashboards find our offsets; nobody joins it
_ASK_MS: Final = 10_000
_FLUSH_S: Final = 30.0
_LOOK_S: Final = 0.05  # between two looks for offsets without records at the end of the log


def owned_partitions(bootstrap: str, usecase: str, replica: int, replicas: int) -> list[int]:
    """The partitions of a use case that belong to this replica: p mod `replicas`.

    Raises:
        UnevenPartitions: a user's events and attributes could lie in partitions of different owners.
        LogError: no broker, or no such topic.
    """
    counts = {kind: partitions_of(bootstrap, topic(usecase, kind)) for kind in (INTERACTIONS, USERS)}
    if len(set(counts.values())) > 1:
        raise UnevenPartitions(
            f"{usecase}: interactions has {counts[INTERACTIONS]} partitions, users {counts[USERS]}; "
            "give both the same number in infra/kafka/topics.yaml and make the topics anew"
        )
    return [partition for partition in range(counts[INTERACTIONS]) if partition % replicas == replica]


class KafkaSource:
    """The places of this worker, read by one consumer without a group."""

    def __init__(
        self,
        bootstrap: str,
        places: Collection[Place],
        fetch_wait_ms: int,
        *,
        on_fallback: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`fetch_wait_ms`: how long the broker holds a fetch that finds nothing; `on_fallback`: see `ColumnReader`."""
        self._names = {
            TopicPartition(
                topic(place.usecase, "users" if place.kind == USERS else "interactions"), place.partition
            ): place
            for place in places
        }
        self._topics = {place: name for name, place in self._names.items()}
        self._consumer: KafkaConsumer = make_consumer(bootstrap, fetch_max_wait_ms=fetch_wait_ms)
        self._reader = ColumnReader(self._consumer, on_fallback=on_fallback)
        self._starts: Mapping[Place, int] = {}
        self._given: dict[TopicPartition, int] = {}  # next offset after what was given
        self._looked = 0.0
        self._committer = _Committer(bootstrap)

    def bounds(self) -> Mapping[Place, Bounds]:
        """First and end offset of every place, asked of the broker."""
        found = bounds_of(self._consumer, list(self._names))
        return {place: Bounds(*found[name]) for name, place in self._names.items()}

    def start(self, offsets: Mapping[Place, int]) -> None:
        """Assign all places and seek."""
        self._starts = dict(offsets)
        with translated("assigning partitions"):
            self._consumer.assign(list(self._names))
            for place, offset in offsets.items():
                self._consumer.seek(self._topics[place], offset)
                self._given[self._topics[place]] = offset

    def poll(self, timeout_s: float) -> Sequence[Batch]:
        """In offset order; returns as soon as anything is there."""
        polled = self._reader.poll(timeout_s)
        for name, items in polled.items():
            self._given[name] = items[-1].next_offset
        return [_batch(self._names[name], item) for name, items in polled.items() for item in items]

    def positions(self) -> Mapping[Place, int]:
        """The consumer's own positions, so that offsets without records (compaction) count as read."""
        with translated("asking for positions"):
            found = {place: self._consumer.position(name, timeout_ms=_ASK_MS) for name, place in self._names.items()}
        return {place: self._starts[place] if at is None else at for place, at in found.items()}

    def lags(self) -> Mapping[Place, int]:
        """From the newest fetch answers."""
        ends = {place: self._consumer.highwater(name) for name, place in self._names.items()}
        return {place: max(0, ends[place] - at) for place, at in self.positions().items() if ends[place] is not None}

    def is_read(self) -> bool:
        """By what was given; the consumer's own positions are dear, and asked for now and then only."""
        if all(self._given[name] >= (self._consumer.highwater(name) or 0) for name in self._names):
            return True
        now = time.monotonic()
        if now - self._looked < _LOOK_S:
            return False
        self._looked = now
        return not any(self.lags().values())

    def commit(self, offsets: Mapping[Place, int]) -> None:
        """Hand the offsets to a thread of their own."""
        self._committer.put({self._topics[place]: offset for place, offset in offsets.items()})

    def close(self) -> None:
        """Give connections back."""
        self._committer.close()
        self._consumer.close(autocommit=False, timeout_ms=1_000)


def _batch(place: Place, item: Item) -> Batch:
    if isinstance(item, CorruptBatch):
        lost = corrupt_batch(item.first_offset, item.last_offset, item.detail, item.raw)
        return Batch(place, RecordColumns.of([]), item.next_offset, lost=[lost])
    records = RecordColumns(
        buffer=item.buffer,
        offset=item.offset,
        timestamp_us=item.timestamp_us,
        key_start=item.key_start,
        key_size=item.key_size,
        value_start=item.value_start,
        value_size=item.value_size,
    )
    return Batch(place, records, item.next_offset, item.batches)


class KafkaItems:
    """Writes `item-features`: all records of one origin to one partition, in order; a marker follows its partials."""

    def __init__(self, bootstrap: str, partitions: Mapping[str, int], revision: int = 1) -> None:
        """`partitions`: of each use case's `item-features` under `revision`."""
        self._bootstrap = bootstrap
        self._partitions = partitions
        self._revision = revision
        self._producer: KafkaProducer | None = make_producer(bootstrap)
        self._audit = Audit(bootstrap)
        self._failures: queue.SimpleQueue[BaseException] = queue.SimpleQueue()  # filled by the producer's thread

    def publish(self, usecase: str, origin: int, partials: PackedRows, epoch: int, offset: int) -> None:
        """Hand partials, then the marker, to the producer."""
        name = TopicPartition(item_features_topic(usecase, self._revision), origin % self._partitions[usecase])
        keys = item_features_keys(partials.ids, origin)
        try:
            if self._producer is None:
                self._producer = make_producer(self._bootstrap, connect_s=1.0)
            prefix = partial_value(epoch, b"")
            send_columns(self._producer, name, keys, prefix, partials.data, partials.bounds, self._failures.put)
            self._producer.send(
                name.topic, marker_value(epoch, offset), item_features_key(0, origin), partition=name.partition
            ).add_errback(self._failures.put)
        except (KafkaError, LogError) as exc:
            self._fail(exc)
        self._audit.sent(name, len(partials) + 1)

    def flush(self) -> None:
        """Wait until everything is acknowledged, up to 30 s."""
        if self._producer is not None:
            try:
                self._producer.flush(timeout=_FLUSH_S)
            except KafkaError as exc:
                self._fail(exc)
        if not self._failures.empty():
            self._fail(self._failures.get_nowait())

    def audit(self, leases: Mapping[Origin, Lease]) -> Mapping[Origin, Found]:
        """Asks for the ends of the partitions; reads only what this producer has not sent."""
        names = {
            origin: TopicPartition(
                item_features_topic(origin.usecase, self._revision),
                origin.partition % self._partitions[origin.usecase],
            )
            for origin in leases
        }
        try:
            return self._audit.look(names, leases)
        except (KafkaError, LogError) as exc:
            self._audit.close()
            raise PublishFailed(f"looking for what others wrote: {exc}") from exc

    def close(self) -> None:
        """Drop what is not flushed, and the connections."""
        self._audit.close()
        self._drop()

    def _drop(self) -> None:
        if self._producer is not None:
            self._producer.close(timeout=0)
            self._producer = None

    def _fail(self, exc: BaseException) -> None:
        """Begin anew with a fresh producer: one that lost a record may have lost its sequence too."""
        self._drop()
        while not self._failures.empty():
            self._failures.get_nowait()
        error = exc if isinstance(exc, LogError) else translate(exc, "writing item-features")
        raise PublishFailed(str(error)) from exc


class _Committer:
    """Commits offsets for dashboards, beside the loop: a slow or missing group coordinator costs nothing."""

    def __init__(self, bootstrap: str) -> None:
        self._bootstrap = bootstrap
        self._wanted: queue.Queue[Mapping[TopicPartition, int] | None] = queue.Queue(maxsize=1)
        self._log: structlog.stdlib.BoundLogger = structlog.get_logger("features.commits")
        self._thread = threading.Thread(target=self._run, name="commits", daemon=True)
        self._thread.start()

    def put(self, offsets: Mapping[TopicPartition, int] | None) -> None:
        """Replace what waits to be committed."""
        with contextlib.suppress(queue.Empty):
            self._wanted.get_nowait()
        self._wanted.put(offsets)

    def close(self) -> None:
        """Stop; what waits is left out."""
        self.put(None)
        self._thread.join(timeout=1.0)

    def _run(self) -> None:
        consumer: KafkaConsumer | None = None
        while (offsets := self._wanted.get()) is not None:
            try:
                if consumer is None:
                    consumer = make_consumer(self._bootstrap, group_id=GROUP)
                positions = {name: OffsetAndMetadata(offset, "", -1) for name, offset in offsets.items()}
                consumer.commit(positions, timeout_ms=_ASK_MS)
            except (KafkaError, LogError) as exc:
                self._log.debug("offsets not committed", error=str(exc))
        if consumer is not None:
            consumer.close(autocommit=False, timeout_ms=500)
