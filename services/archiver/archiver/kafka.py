"""Kafka as the loop's source and as the place for dead letters: assigned by hand, every send acknowledged."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from definitions.records import BadRecord, LogRecord, corrupt_batch
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import KafkaError
from millrace.events.v1 import events_pb2 as pb
from servicekit.errors import LogError, LogUnavailable
from servicekit.kafka import bounds_of, make_consumer, make_producer, partitions_of, translate, translated
from servicekit.kafka.column_reader import ColumnReader
from servicekit.kafka.columns import CorruptBatch, RecordColumns
from servicekit.topics import DEAD_LETTERS

from archiver.errors import DeadLettersUnavailable
from archiver.log import Batch, Bounds, Place

_ASK_MS: Final = 10_000
_ACK_S: Final = 20.0
# Rows wait for their commit anyway, so a fetch waits until much is there: records cost less by the hundred.
_FETCH_WAIT_MS: Final = 500
_FETCH_MIN_BYTES: Final = 1 << 20
_LETTER_BYTES: Final = 2 << 20  # max.message.bytes of `dead-letters`
_RAW_BYTES: Final = _LETTER_BYTES - (64 << 10)  # leaves room for the key, the detail and the batch around them


class KafkaSource:
    """The partitions p with p mod `replicas` == `replica` of all topics, read by one consumer without a group."""

    def __init__(
        self,
        bootstrap: str,
        topics: Sequence[str],
        replica: int,
        replicas: int,
        *,
        on_fallback: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Waits for broker and topics; `on_fallback` as of `ColumnReader`. LogUnavailable, UnknownTopic."""
        self._places = [
            Place(topic, partition)
            for topic in topics
            for partition in range(partitions_of(bootstrap, topic))
            if partition % replicas == replica
        ]
        self._names = {place: TopicPartition(*place) for place in self._places}
        self._consumer: KafkaConsumer = make_consumer(
            bootstrap, fetch_max_wait_ms=_FETCH_WAIT_MS, fetch_min_bytes=_FETCH_MIN_BYTES
        )
        # A broken batch is told, not raised: the partition moves on.
        self._reader = ColumnReader(self._consumer, on_fallback=on_fallback)
        self._starts: Mapping[Place, int] = {}

    @property
    def places(self) -> Sequence[Place]:
        """In the order of the topics."""
        return self._places

    def bounds(self) -> Mapping[Place, Bounds]:
        """Asked of the broker."""
        found = bounds_of(self._consumer, list(self._names.values()))
        return {place: Bounds(*found[name]) for place, name in self._names.items()}

    def start(self, offsets: Mapping[Place, int]) -> None:
        """Assign and seek."""
        self._starts = dict(offsets)
        with translated("assigning partitions"):
            self._consumer.assign(list(self._names.values()))
            for place, offset in offsets.items():
                self._consumer.seek(self._names[place], offset)

    def poll(self, timeout_s: float) -> Sequence[Batch]:
        """One batch a place. An offset that retention has removed raises OffsetGone."""
        return [
            Batch(
                Place(name.topic, name.partition),
                [record for item in items if isinstance(item, RecordColumns) for record in _records(item)],
                items[-1].next_offset,
                [_lost(item) for item in items if isinstance(item, CorruptBatch)],
            )
            for name, items in self._reader.poll(timeout_s).items()
        ]

    def positions(self) -> Mapping[Place, int]:
        """The consumer's own: past offsets that compaction left without records."""
        with translated("asking for positions"):
            found = {place: self._consumer.position(name, timeout_ms=_ASK_MS) for place, name in self._names.items()}
        return {place: self._starts[place] if at is None else at for place, at in found.items()}

    def lags(self) -> Mapping[Place, int]:
        """From the newest fetch answers, without asking."""
        ends = {place: self._consumer.highwater(name) for place, name in self._names.items()}
        return {place: max(0, ends[place] - at) for place, at in self.positions().items() if ends[place] is not None}

    def close(self) -> None:
        """Give back the connections."""
        self._consumer.close(autocommit=False, timeout_ms=1_000)


class KafkaDeadLetters:
    """Writes `dead-letters`, keyed by the record's place."""

    def __init__(self, bootstrap: str) -> None:
        """Connects with the first letter."""
        self._bootstrap = bootstrap
        self._producer: KafkaProducer | None = None

    def publish(self, letters: Sequence[tuple[Place, BadRecord]]) -> None:
        """Send all, then wait for all. A producer that failed once is given up: its order is broken."""
        try:
            if self._producer is None:
                self._producer = make_producer(
                    self._bootstrap, max_request_size=_LETTER_BYTES, delivery_timeout_s=_ACK_S, connect_s=5.0
                )
            sent = [
                self._producer.send(DEAD_LETTERS, key=_key(place, bad), value=to_letter(place, bad).SerializeToString())
                for place, bad in letters
            ]
            self._producer.flush(timeout=_ACK_S)
            for each in sent:
                each.get(timeout=_ACK_S)
        except (KafkaError, LogError, OSError) as exc:
            self.close()
            error = exc if isinstance(exc, LogError) else translate(exc, "writing dead letters")
            if isinstance(error, LogUnavailable):
                raise DeadLettersUnavailable(str(error)) from exc
            raise error from exc

    def close(self) -> None:
        """Give back the connections. Nothing waits: `publish` waited."""
        if self._producer is not None:
            self._producer.close(timeout=0)
            self._producer = None


def to_letter(place: Place, bad: BadRecord) -> pb.DeadLetter:
    """The record as it was; a value that no letter can hold is cut, which the detail says: it stays on its topic."""
    raw, key, detail = bad.value or b"", bad.key or b"", bad.detail
    if len(raw) + len(key) > _RAW_BYTES:
        detail = f"{detail} (cut: the key has {len(key)} bytes, the value {len(raw)})"
        key = key[: _RAW_BYTES // 2]
        raw = raw[: _RAW_BYTES - len(key)]
    return pb.DeadLetter(
        topic=place.topic,
        partition=place.partition,
        offset=bad.offset,
        reason=bad.reason,
        detail=detail,
        raw=raw,
        raw_key=key,
    )


def _records(columns: RecordColumns) -> Iterator[LogRecord]:
    buffer = columns.buffer.data
    spans = (columns.key_start, columns.key_size, columns.value_start, columns.value_size)
    for offset, timestamp_us, key, key_size, value, value_size in zip(
        columns.offset.tolist(), columns.timestamp_us.tolist(), *(span.tolist() for span in spans), strict=True
    ):
        yield LogRecord(
            offset,
            timestamp_us,
            None if key_size < 0 else bytes(buffer[key : key + key_size]),
            None if value_size < 0 else bytes(buffer[value : value + value_size]),
        )


def _lost(batch: CorruptBatch) -> BadRecord:
    """One letter for all of the batch."""
    return corrupt_batch(batch.first_offset, batch.last_offset, batch.detail, batch.raw)


def _key(place: Place, bad: BadRecord) -> bytes:
    return f"{place.topic}/{place.partition}/{bad.offset}".encode()
