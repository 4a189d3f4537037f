"""Reads record batches as columns instead of one object a record: for the consumers of busy topics.

kafka-python makes Python objects of each record: 0.13 M records/s a core. Here numba walks the batches of a fetch, and
keys and values stay where they lie. It hangs on kafka-python's private `Fetcher.PartitionRecords`, so only known
versions are read this way, and tests hold it to the stock path.
"""

import enum
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import structlog
from crc32c import crc32c
from kafka import KafkaConsumer, TopicPartition
from kafka.consumer.fetcher import Fetcher
from kafka.errors import CorruptRecordError
from kafka.protocol.consumer import IsolationLevel
from kafka.record.memory_records import MemoryRecords

from servicekit.kafka import batches as layout
from servicekit.kafka.boundary import translated
from servicekit.kafka.codecs import CODECS, BadPayload, decompress
from servicekit.kafka.columns import CorruptBatch, RecordColumns, columns_of
from servicekit.kafka.transport import KNOWN_VERSIONS, VERSION

UNKNOWN_VERSION: Final = "unknown_version"
OLD_FORMAT: Final = "old_format"

Item = RecordColumns | CorruptBatch


class ColumnReader:
    """Makes a consumer of `make_consumer` read columns; nobody else may poll it.

    Where kafka-python is of another version, or a batch of the format before Kafka 0.11, the stock path reads and its
    records are made into the same columns; `on_fallback` is told why: `unknown_version` or `old_format`.
    """

    def __init__(self, consumer: KafkaConsumer, *, on_fallback: Callable[[str], None] = lambda _: None) -> None:
        self._consumer = consumer
        if VERSION in KNOWN_VERSIONS:
            consumer._fetcher.PartitionRecords = type(
                "ColumnRecords", (ColumnRecords,), {"on_fallback": staticmethod(on_fallback)}
            )
        else:
            log: structlog.stdlib.BoundLogger = structlog.get_logger("servicekit.kafka")
            log.warning("reading record by record", kafka_python=VERSION, known=KNOWN_VERSIONS)
            on_fallback(UNKNOWN_VERSION)

    def poll(self, timeout_s: float) -> dict[TopicPartition, list[Item]]:
        """What has arrived, in offset order, waiting up to `timeout_s` for the first of it.

        The consumer's `max_poll_records` counts items here, not records.

        Raises:
            LogError: kafka-python's error, translated; OffsetGone where retention has removed the position.
        """
        with translated("reading the log"):
            polled = self._consumer.poll(timeout_ms=int(timeout_s * 1000))
        return {
            name: found if isinstance(found[0], Item) else [columns_of(found)]
            for name, found in polled.items()
            if found
        }


class _Way(enum.Enum):
    """How a batch is read that is not simply there."""

    COMPRESSED = enum.auto()
    OLD = enum.auto()  # the formats before Kafka 0.11
    SKIP = enum.auto()  # a control batch, or one of an aborted transaction
    MARKER = enum.auto()  # a control batch that may end an aborted transaction


class _Problem(NamedTuple):
    """Why a batch cannot be read; its header says the truth only if the checksum was right."""

    name: str
    detail: str
    is_header_right: bool = False


class ColumnRecords(Fetcher.PartitionRecords):  # type: ignore[misc]  # untyped
    """One fetched partition as `RecordColumns` and `CorruptBatch` values: set it as a fetcher's `PartitionRecords`.

    Differs from the stock class in what it yields, and in that it refuses a broken batch as a whole, as a value.
    """

    on_fallback: Callable[[str], None] = staticmethod(lambda _: None)
    next_fetch_offset: int

    def _maybe_skip_record(self, record: Item) -> bool:  # noqa: ARG002  records are skipped where they are read
        return False

    def _unpack_records(self, tp: TopicPartition, records: MemoryRecords, *_: Any) -> Iterator[Item]:  # noqa: ARG002
        """Values in offset order; `next_fetch_offset` moves before each is yielded."""
        fetched = memoryview(records._buffer).toreadonly()
        data = np.frombuffer(fetched, np.uint8)
        table = layout.find_batches(data, layout.count_batches(data))
        rows = table.tolist()
        plain_from = 0
        for index, row in enumerate(rows):
            verdict = self._verdict(fetched, row)
            if verdict is None:
                continue
            yield from self._plain(fetched, data, table[plain_from:index])
            plain_from = index + 1
            base_after = rows[plain_from][layout.BASE] if plain_from < len(rows) else _base_at(fetched, row[layout.END])
            yield from self._special(verdict, fetched, table[index : index + 1], base_after)
        yield from self._plain(fetched, data, table[plain_from:])
        end = rows[-1][layout.END] if rows else 0
        if end + layout.LEAST_BYTES <= len(fetched) and layout.batch_bytes(data, end) < layout.LEAST_BYTES:
            length = layout.batch_bytes(data, end)  # else the batch goes on behind the fetch
            row = [0] * layout.COLUMNS
            row[layout.BASE] = self.next_fetch_offset
            yield from self._lost(_too_short(length), row, fetched[end:])
        self.drain()

    def _verdict(self, fetched: memoryview, row: Sequence[int]) -> _Way | _Problem | None:
        """How to read a batch; None is the usual way."""
        start, end, base, magic, _, crc, attributes, last_delta, _, _, producer, count = row
        if magic in (0, 1):
            return _Way.OLD
        if magic != 2:
            return _Problem("format", f"magic byte {magic}")
        if end - start < layout.HEADER_BYTES:
            return _too_short(end - start)
        if self.check_crcs and crc32c(fetched[start + layout.CRC_FROM : end]) != crc:
            return _Problem("checksum", "the checksum is not that of the batch's bytes")
        if base < 0 or last_delta < 0 or count < 0:
            return _Problem("structure", f"{count} records, offsets {base} to {base + last_delta}")
        if self.isolation_level == IsolationLevel.READ_COMMITTED and producer >= 0:
            self._consume_aborted_transactions_up_to(base + last_delta)
            if attributes & layout.CONTROL:
                return _Way.MARKER
            if attributes & layout.TRANSACTIONAL and producer in self.aborted_producer_ids:
                return _Way.SKIP
        if attributes & layout.CONTROL:
            return _Way.SKIP
        codec = attributes & layout.CODEC
        if codec and codec not in CODECS:
            return _Problem("codec", f"codec {codec} is unknown", is_header_right=True)
        return _Way.COMPRESSED if codec else None

    def _special(
        self, verdict: _Way | _Problem, fetched: memoryview, table: layout.Longs, base_after: int | None
    ) -> Iterator[Item]:
        """What one batch holds that is not simply there; `base_after` is the next batch's offset where it is known."""
        row = table[0].tolist()
        raw = fetched[row[layout.START] : row[layout.END]]
        if verdict is _Way.COMPRESSED:
            yield from self._compressed(raw, table)
        elif verdict is _Way.OLD:
            yield from self._old(raw, row[layout.BASE], base_after)
        elif isinstance(verdict, _Problem):
            yield from self._lost(verdict, row, raw, base_after)
        else:
            if verdict is _Way.MARKER and _is_abort(raw):
                self.aborted_producer_ids.discard(row[layout.PRODUCER])
            self._pass(row, 0)

    def _plain(self, fetched: memoryview, data: layout.Bytes, table: layout.Longs) -> Iterator[Item]:
        """The records of consecutive batches that lie uncompressed in `data`."""
        while len(table):
            batches = table.copy()
            batches[:, layout.START] += layout.HEADER_BYTES
            columns, walked = self._walk(data, batches)
            if walked:
                self._pass(table[walked - 1].tolist(), int((table[:walked, 1] - table[:walked, 0]).sum()))
                if len(columns):
                    yield columns
            if walked < len(table):
                row = table[walked].tolist()
                yield from self._lost(_MALFORMED, row, fetched[row[layout.START] : row[layout.END]])
                walked += 1
            table = table[walked:]

    def _compressed(self, raw: memoryview, table: layout.Longs) -> Iterator[Item]:
        row = table[0].tolist()
        try:
            payload = decompress(row[layout.ATTRIBUTES] & layout.CODEC, bytes(raw[layout.HEADER_BYTES :]))
        except BadPayload as exc:
            yield from self._lost(_Problem("payload", str(exc), is_header_right=True), row, raw)
            return
        batches = table.copy()
        batches[0, layout.START], batches[0, layout.END] = 0, len(payload)
        columns, walked = self._walk(np.frombuffer(payload, np.uint8), batches)
        if not walked:
            yield from self._lost(_MALFORMED, row, raw)
            return
        self._pass(row, len(raw))
        if len(columns):
            yield columns

    def _walk(self, data: layout.Bytes, table: layout.Longs) -> tuple[RecordColumns, int]:
        """Columns of the first batches of `table`, and how many of them are well formed. START: of the first record."""
        sizes = table[:, layout.END] - table[:, layout.START]
        most = int(np.minimum(table[:, layout.COUNT], sizes // layout.LEAST_RECORD).sum())
        offset, timestamp_us = np.empty(most, np.int64), np.empty(most, np.int64)
        spans = [np.empty(most, np.int32) for _ in range(4)]
        count, walked = layout.walk_records(data, table, self.next_fetch_offset, offset, timestamp_us, *spans)
        self.records_read += count
        key_start, key_size, value_start, value_size = (span[:count] for span in spans)
        columns = RecordColumns(
            buffer=data,
            offset=offset[:count],
            timestamp_us=timestamp_us[:count],
            key_start=key_start,
            key_size=key_size,
            value_start=value_start,
            value_size=value_size,
            next_offset=_next_offset(table[walked - 1].tolist()) if walked else self.next_fetch_offset,
            batches=walked,
        )
        return columns, walked

    def _old(self, raw: memoryview, base: int, base_after: int | None) -> Iterator[Item]:
        """A batch of the formats before Kafka 0.11, as the stock path reads it."""
        self.on_fallback(OLD_FORMAT)
        try:
            batch = MemoryRecords(raw).next_batch()
            if self.check_crcs and not batch.validate_crc():
                raise CorruptRecordError("the checksum is not that of the batch's bytes")
            found = list(batch)
        except Exception as exc:  # noqa: BLE001  bytes from outside, read by five libraries
            row = [0] * layout.COLUMNS
            row[layout.BASE], row[layout.LAST_DELTA] = base, -1  # it does not say where it ends
            yield from self._lost(_Problem("old_format", str(exc)), row, raw, base_after)
            return
        wanted = [each for each in found if each.offset >= self.next_fetch_offset]
        self.bytes_read += len(raw)
        self.records_read += len(wanted)
        if wanted:
            self.next_fetch_offset = wanted[-1].offset + 1
            yield columns_of(wanted)

    def _pass(self, row: Sequence[int], size: int) -> None:
        """Go on behind a batch; never back, whatever its header says."""
        self.leader_epoch = row[layout.EPOCH]
        self.bytes_read += size
        self.next_fetch_offset = max(self.next_fetch_offset, _next_offset(row))

    def _lost(
        self, problem: _Problem, row: Sequence[int], raw: memoryview, base_after: int | None = None
    ) -> Iterator[CorruptBatch]:
        """The batch told as lost, and passed; nothing where all of it lies below what is wanted."""
        first, last = _lost_offsets(self.next_fetch_offset, row, problem, base_after)
        self.bytes_read += len(raw)
        if first <= last:
            self.next_fetch_offset = last + 1
            yield CorruptBatch(first, last, problem.name, problem.detail, bytes(raw))


_MALFORMED: Final = _Problem("structure", "its records are not well formed", is_header_right=True)


def _lost_offsets(wanted: int, row: Sequence[int], problem: _Problem, base_after: int | None) -> tuple[int, int]:
    """First and last offset that a broken batch costs; first > last where that is none.

    Where its header may be broken too, the next batch's offset bounds what it says, or else its count of records. At
    least one offset is passed: else the same batch would be fetched for ever.
    """
    first = max(row[layout.BASE], wanted)
    last = row[layout.BASE] + row[layout.LAST_DELTA]
    if problem.is_header_right:
        return first, last
    if base_after is None or base_after < wanted:
        return first, max(first, min(last, first + row[layout.COUNT] - 1))
    if first >= base_after:
        first = wanted
    return first, last if first <= last < base_after else base_after - 1


def _too_short(size: int) -> _Problem:
    return _Problem("structure", f"{size} bytes; a batch's header alone has {layout.HEADER_BYTES}")


def _next_offset(row: Sequence[int]) -> int:
    return row[layout.BASE] + row[layout.LAST_DELTA] + 1


def _base_at(fetched: memoryview, at: int) -> int | None:
    """Offset of the batch that begins at a byte, also of one that the fetch has cut; None where even that is cut."""
    return int.from_bytes(fetched[at : at + 8], "big", signed=True) if at + 8 <= len(fetched) else None


def _is_abort(raw: memoryview) -> bool:
    """Whether a control batch says that its producer's transaction was aborted."""
    try:
        return bool(next(iter(MemoryRecords(raw).next_batch())).abort)
    except (CorruptRecordError, StopIteration, TypeError, struct.error):  # no key, or one of another kind
        return False
