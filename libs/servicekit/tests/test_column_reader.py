"""Columns are what kafka-python's own reading gives, and a broken batch costs itself alone."""

import random
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import pytest
from crc32c import crc32c
from kafka import TopicPartition
from kafka.consumer.fetcher import Fetcher
from kafka.protocol.consumer import IsolationLevel
from kafka.record.memory_records import MemoryRecords, MemoryRecordsBuilder
from servicekit.kafka import codecs
from servicekit.kafka.column_reader import OLD_FORMAT, ColumnRecords
from servicekit.kafka.columns import CorruptBatch, RecordColumns, columns_of

NOW_MS = 1_700_000_000_000
TP = TopicPartition("movies.interactions", 2)
CODECS = {"none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}
CREATE_TIME, APPEND_TIME, TRANSACTIONAL, CONTROL = 0, 0x08, 0x10, 0x20

Record = tuple[int, int, bytes | None, bytes | None]  # offset, milliseconds, key, value


class Aborted(NamedTuple):
    """As a fetch answer lists an aborted transaction."""

    producer_id: int
    first_offset: int


def batch(
    base: int,
    records: Sequence[tuple[int, bytes | None, bytes | None]],
    *,
    codec: int = 0,
    flags: int = CREATE_TIME,
    producer: int = -1,
    last_delta: int | None = None,
    headers: Sequence[tuple[str, bytes | None]] = (),
) -> bytes:
    """One record batch of (offset above base, key, value), as a broker stores it."""
    builder = MemoryRecordsBuilder(2, codec, 1 << 20)
    for delta, key, value in records:
        builder.skip(delta - builder.next_offset())
        assert builder.append(NOW_MS + 7 * delta, key, value, list(headers)) is not None
    builder.close()
    raw = bytearray(builder.buffer())
    (attributes,) = struct.unpack_from(">h", raw, 21)
    struct.pack_into(">q", raw, 0, base)
    struct.pack_into(">h", raw, 21, attributes | flags)
    struct.pack_into(">q", raw, 43, producer)
    if last_delta is not None:
        struct.pack_into(">i", raw, 23, last_delta)
    if flags & APPEND_TIME:
        struct.pack_into(">q", raw, 35, NOW_MS + 999)
    return sealed(raw)


def sealed(raw: bytearray) -> bytes:
    """The batch with the checksum of its bytes."""
    struct.pack_into(">I", raw, 17, crc32c(bytes(raw[21:])))
    return bytes(raw)


def marker(base: int, producer: int, *, commits: bool) -> bytes:
    """The control batch that ends a transaction."""
    key = struct.pack(">hh", 0, int(commits))
    return batch(base, [(0, key, bytes(6))], flags=TRANSACTIONAL | CONTROL, producer=producer)


def some(count: int) -> list[tuple[int, bytes | None, bytes | None]]:
    """Records with gaps, null and empty keys and values, and long ones."""
    parts = [None, b"", b"k", b"x" * 300]
    return [(2 * n + n % 4 // 3, parts[n % 4], parts[(n // 2 + 1) % 4]) for n in range(count)]


def stock(fetched: bytes, offset: int, **settings: Any) -> tuple[list[Record], int]:
    """What kafka-python gives from an offset on, and where it would read on."""
    part = Fetcher.PartitionRecords(offset, TP, MemoryRecords(fetched), **settings)
    found: list[Record] = []
    while part:
        found += [(each.offset, each.timestamp, each.key, each.value) for each in part.take(7)]
    return found, part.next_fetch_offset


def items_of(fetched: bytes, offset: int, **settings: Any) -> tuple[list[RecordColumns | CorruptBatch], int]:
    """What the column reader gives, and where it would read on."""
    part = ColumnRecords(offset, TP, MemoryRecords(fetched), **settings)
    found: list[RecordColumns | CorruptBatch] = []
    while part:
        found += part.take(1)
    return found, part.next_fetch_offset


def rows(items: Sequence[RecordColumns | CorruptBatch]) -> Iterator[Record]:
    """The records of all columns, one by one."""
    for each in items:
        if isinstance(each, RecordColumns):
            for n in range(len(each)):
                yield (
                    int(each.offset[n]),
                    int(each.timestamp_us[n]) // 1000,
                    part_of(each, int(each.key_start[n]), int(each.key_size[n])),
                    part_of(each, int(each.value_start[n]), int(each.value_size[n])),
                )


def part_of(columns: RecordColumns, start: int, size: int) -> bytes | None:
    return None if size < 0 else columns.buffer[start : start + size].tobytes()


def broken(items: Sequence[RecordColumns | CorruptBatch]) -> list[tuple[str, int, int]]:
    return [(each.problem, each.first_offset, each.last_offset) for each in items if isinstance(each, CorruptBatch)]


@pytest.mark.parametrize("flags", [CREATE_TIME, APPEND_TIME])
@pytest.mark.parametrize("codec", CODECS)
def test_columns_are_the_records_from_any_offset(codec: str, flags: int) -> None:
    """Codecs, timestamp types, gaps in and between batches, nulls, headers, and a start within a batch."""
    headers = [("trace", b"1"), ("empty", None)]
    fetched = b"".join(
        [
            batch(100, some(9), codec=CODECS[codec], flags=flags),
            batch(120, [], codec=0, flags=flags, last_delta=3),  # compaction has left nothing
            batch(130, some(1), codec=CODECS[codec], flags=flags, headers=headers),
            batch(131, some(20), codec=CODECS[codec], flags=flags, last_delta=70),
        ]
    )
    for offset in range(98, 203):
        expected, stock_next = stock(fetched, offset)
        items, next_offset = items_of(fetched, offset)

        assert expected == list(rows(items)), offset
        assert stock_next == next_offset
        assert not broken(items)


def test_no_bytes_and_a_cut_batch_give_nothing() -> None:
    """A fetch ends where its size limit falls."""
    whole = batch(0, some(3))
    assert ([], 5) == items_of(b"", 5)
    items, next_offset = items_of(whole + batch(10, some(3))[:-1], 0)

    assert stock(whole, 0) == (list(rows(items)), next_offset)


def test_many_small_batches_are_one_value() -> None:
    """A producer that does not linger must not cost a call for each of its batches."""
    items, next_offset = items_of(b"".join(batch(n, [(0, b"k", b"v")]) for n in range(500)), 0)

    assert [(500, 500, 500)] == [(len(e), e.batches, e.next_offset) for e in items if isinstance(e, RecordColumns)]
    assert 500 == next_offset


@pytest.mark.parametrize("level", [IsolationLevel.READ_COMMITTED, IsolationLevel.READ_UNCOMMITTED])
def test_aborted_transactions_are_left_out_as_asked(level: IsolationLevel) -> None:
    """Two producers' transactions interleaved: one commits, one aborts and begins again."""
    fetched = b"".join(
        [
            batch(0, [(0, b"a", b"aborted"), (1, b"a", b"aborted")], flags=TRANSACTIONAL, producer=7),
            batch(2, [(0, b"b", b"committed")], flags=TRANSACTIONAL, producer=8),
            batch(3, [(0, b"p", b"plain")]),
            marker(4, 7, commits=False),
            batch(5, [(0, b"a", b"committed")], flags=TRANSACTIONAL, producer=7, codec=CODECS["lz4"]),
            marker(6, 8, commits=True),
            batch(7, [(0, b"i", b"idempotent")], producer=7),
            marker(8, 7, commits=True),
        ]
    )
    told: dict[str, Any] = {"isolation_level": level, "aborted_transactions": [Aborted(7, 0)]}
    for offset in range(9):
        expected, stock_next = stock(fetched, offset, **told)
        items, next_offset = items_of(fetched, offset, **told)

        assert expected == list(rows(items))
        assert stock_next == next_offset == 9


@pytest.mark.parametrize(
    ("problem", "spoil"),
    [
        ("checksum", lambda raw: bytes(raw[:-1]) + b"\x7e"),
        ("checksum", lambda raw: raw[:17] + bytes(4) + raw[21:]),
        ("codec", lambda raw: sealed(raw[:22] + b"\x06" + raw[23:])),
        ("payload", lambda raw: sealed(raw[:22] + b"\x04" + raw[23:])),
        ("structure", lambda raw: sealed(raw[:57] + struct.pack(">i", 2) + raw[61:])),
        ("structure", lambda raw: sealed(raw[:57] + struct.pack(">i", 2**31 - 1) + raw[61:])),
        ("format", lambda raw: raw[:16] + b"\x09" + raw[17:]),
        ("old_format", lambda raw: raw[:16] + b"\x01" + raw[17:]),
    ],
)
def test_a_broken_batch_is_told_with_its_offsets_and_its_neighbours_stay(problem: str, spoil: Any) -> None:
    """As a value, not an error: the partition moves on."""
    before, after = batch(10, some(3)), batch(20, some(3))
    spoiled = bytes(spoil(bytearray(batch(16, [(0, b"k", b"v"), (1, b"k", b"v"), (3, b"k", b"v")]))))
    fetched = before + spoiled + after

    items, next_offset = items_of(fetched, 0)

    assert [(problem, 16, 19)] == broken(items)
    assert [each.raw for each in items if isinstance(each, CorruptBatch)] == [spoiled]
    assert stock(before, 0)[0] + stock(after, 0)[0] == list(rows(items))
    assert stock(after, 0)[1] == next_offset
    assert [(problem, 18, 19)] == broken(items_of(fetched, 18)[0])


def test_a_lost_range_ends_where_the_next_batch_begins() -> None:
    """In a batch with a wrong checksum, the number that says how far it goes may be the wrong one."""
    for claimed in (0, 3, 2**31 - 1, -5):
        raw = bytearray(batch(5, [(0, b"k", b"v"), (1, b"k", b"v")]))
        struct.pack_into(">i", raw, 23, claimed)
        after = batch(9, some(2))

        assert [("checksum", 5, 5 + claimed if claimed in (0, 3) else 8)] == broken(items_of(bytes(raw) + after, 0)[0])
        assert [("checksum", 5, 5 + claimed if claimed in (0, 3) else 8)] == broken(
            items_of(bytes(raw) + after[:8], 0)[0]
        )
        assert [("checksum", 5, 6 if claimed > 0 else 5)] == broken(items_of(bytes(raw), 0)[0])


@pytest.mark.parametrize("deltas", [(0, 0), (1, 0), (0, 9)])
def test_offsets_that_do_not_ascend_within_their_batch_break_it(deltas: tuple[int, int]) -> None:
    """State keeps one offset a partition: it must never go back."""
    first, second = deltas
    raw = bytearray(batch(5, [(0, b"k", b"v"), (1, b"k", b"v")]))
    at = raw.index(b"\x02k\x02v")  # key and value of the first record, its offset delta before them
    raw[at - 1] = 2 * first
    raw[raw.index(b"\x02k\x02v", at + 1) - 1] = 2 * second

    assert [("structure", 5, 6)] == broken(items_of(sealed(raw), 0)[0])


@pytest.mark.parametrize("magic", [0, 1])
def test_the_old_format_is_read_by_the_stock_path(magic: int) -> None:
    """And counted, as it is slow."""
    builder = MemoryRecordsBuilder(magic, 1, 1 << 20)
    for n in range(5):
        builder.append(NOW_MS, b"k%d" % n, None if n == 2 else b"v")
    builder.close()
    fetched = bytes(builder.buffer()) + batch(5, some(2))
    told: list[str] = []
    kind = type("Told", (ColumnRecords,), {"on_fallback": staticmethod(told.append)})

    part = kind(1, TP, MemoryRecords(fetched))
    items = part.take(10)

    assert [(offset, key, value) for offset, _, key, value in stock(fetched, 1)[0]] == [
        (offset, key, value) for offset, _, key, value in rows(items)
    ]
    assert [OLD_FORMAT] == told


def test_changed_bytes_give_the_same_records_or_a_broken_batch() -> None:
    """A thousand fetches with bytes changed behind the checksum: no error, no record of a neighbour, and an end."""
    chance = random.Random(11)  # noqa: S311  seeded on purpose
    same = refused = 0
    for _ in range(1_000):
        raw = bytearray(batch(50, some(4), codec=chance.choice([0, 0, 0, 1, 2, 3, 4])))
        for _ in range(chance.randrange(3)):
            raw[chance.randrange(21, len(raw))] = chance.randrange(256)
        fetched = batch(40, some(2)) + sealed(raw) + batch(60, some(2))
        items, next_offset = items_of(fetched, 41)
        found = list(rows(items))
        assert sorted(each[0] for each in found) == [each[0] for each in found]
        assert next_offset >= 63
        if broken(items):
            refused += 1
            assert [each[0] for each in found if not 50 <= each[0] < 60] == [42, 60, 62] or next_offset > 63
        elif struct.unpack_from(">i", raw, 23)[0] < 10:  # else it claims its neighbour's offsets, and stock goes back
            same += 1
            assert [(at, told(ms), *rest) for at, ms, *rest in stock_or_none(fetched) or []] == found

    assert same > 150
    assert refused > 150


def told(ms: int) -> int:
    """Milliseconds of any size as columns tell them: of 64 bits, and none beyond what has microseconds."""
    most = 2**63 // 1000 - 1
    return min(max((ms + 2**63) % 2**64 - 2**63, -most), most)


def stock_or_none(fetched: bytes) -> list[Record] | None:
    try:
        return stock(fetched, 41)[0]
    except Exception:  # noqa: BLE001  many kinds, and which is not the point
        return None


@pytest.mark.parametrize("codec", [1, 2, 3, 4])
def test_a_batch_that_would_fill_the_memory_is_refused(codec: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A megabyte can hold gigabytes."""
    monkeypatch.setattr(codecs, "MOST_BYTES", 10_000)
    fetched = batch(0, [(0, None, bytes(20_000))], codec=codec) + batch(1, [(0, None, bytes(9_000))], codec=codec)

    items, _ = items_of(fetched, 0)

    assert [("payload", 0, 0)] == broken(items)
    assert [1] == [offset for offset, *_ in rows(items)]


@pytest.mark.parametrize("codec", [1, 2, 3, 4])
def test_a_cut_payload_is_refused(codec: int) -> None:
    """Not read as fewer records."""
    raw = bytearray(batch(0, some(40), codec=codec))
    del raw[(len(raw) + 61) // 2 :]
    struct.pack_into(">i", raw, 8, len(raw) - 12)

    items, _ = items_of(sealed(raw), 0)

    assert not list(rows(items))
    assert [(0, 79)] == [(first, last) for problem, first, last in broken(items) if problem in ("payload", "structure")]


def test_stock_records_become_the_same_columns() -> None:
    """What is read where kafka-python is of a version that is not known."""
    part = Fetcher.PartitionRecords(0, TP, MemoryRecords(batch(3, some(9))))
    records = part.take(100)
    columns = columns_of(records)

    assert [(e.offset, e.timestamp, e.key, e.value) for e in records] == list(rows([columns]))
    assert records[-1].offset + 1 == columns.next_offset


@pytest.mark.parametrize(("per_batch", "batches", "floor"), [(1, 400, 2), (10, 100, 4), (1_000, 3, 10)])
def test_columns_are_read_many_times_faster_than_records(per_batch: int, batches: int, floor: int) -> None:
    """Floors far below what an idle machine gives (9, 35 and 150 times), so that only a lost path falls below them."""
    fetched = b"".join(
        batch(n * per_batch, [(delta, b"12345678", bytes(60)) for delta in range(per_batch)]) for n in range(batches)
    )
    items_of(fetched, 0)  # compiled, or loaded

    columns_s = min(seconds(lambda: items_of(fetched, 0)) for _ in range(5))
    stock_s = min(seconds(lambda: stock(fetched, 0)) for _ in range(2))

    assert stock_s / columns_s > floor


def seconds(read: Callable[[], object]) -> float:
    began = time.process_time()
    read()
    return time.process_time() - began
