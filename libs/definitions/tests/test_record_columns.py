"""Interactions read as columns are what protobuf reads, whatever the bytes are."""

import random
import struct

import numpy as np
import pytest
from definitions.column_decode import decode_interactions_columns
from definitions.events import COLUMN_TYPES, EventColumns
from definitions.record_columns import RecordColumns
from definitions.records import LogRecord, decode_interactions
from definitions.scan_source import TARGET, scanner_source
from definitions.usecase import UseCase
from hypothesis import given, settings
from hypothesis import strategies as st
from millrace.events.v1 import events_pb2 as pb

NOW_US = 1_700_000_000_000_000

# What protobuf takes and writers seldom write: (bytes, what it is).
UNUSUAL = [
    (b"\x70\x01", "an unknown varint"),
    (b"\x71" + bytes(8), "an unknown fixed64"),
    (b"\x72\x03abc", "an unknown string"),
    (b"\x75" + bytes(4), "an unknown fixed32"),
    (b"\xc2\x3e\x02ab", "an unknown field with a two-byte tag"),
    (b"\x73\x70\x01\x74", "an unknown group"),
    (b"\x0a\x08" + bytes(8), "a known field of another wire type"),
    (b"\x20\x81\x80\x00", "a number in more bytes than it needs"),
    (b"\x20\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "a negative number as an unsigned one"),
    (b"\x89\x00" + bytes(range(8)), "a tag in more bytes than it needs"),
    (b"\x20\x01\x20\x00", "a field twice"),
    (b"\x2d\x00\x00\xc0\x7f", "a number that is none"),
    (b"\x72\x80\x80\x40" + bytes(1 << 20), "an unknown field of a mebibyte"),
    (b"", "nothing at all"),
]


def message(**changed: object) -> bytes:
    fields: dict[str, object] = {"event_id": 11, "user_id": 5, "item_id": 7, "event_time_us": NOW_US, "category": 300}
    return pb.Interaction(**(fields | changed)).SerializeToString()  # type: ignore[arg-type]


def assert_same(usecase: UseCase, records: list[LogRecord]) -> tuple[EventColumns, int]:
    """Both ways give the same columns, bit for bit, and the same bad records; the columns, and how many are bad."""
    expected, expected_bad = decode_interactions(usecase, 3, records)
    columns, bad = decode_interactions_columns(usecase, 3, RecordColumns.of(records))
    assert expected_bad == bad
    for name in COLUMN_TYPES:
        assert getattr(expected, name).tobytes() == getattr(columns, name).tobytes(), name
    return columns, len(bad)


def record(offset: int, value: bytes | None) -> LogRecord:
    return LogRecord(offset, NOW_US, (5).to_bytes(8, "big"), value)


def test_the_committed_scanner_is_what_the_proto_gives() -> None:
    """After a change of the proto: `python -m definitions.scan_source`."""
    assert scanner_source(pb.Interaction) == TARGET.read_text()


def test_messages_that_no_scanner_reads_are_refused_when_it_is_written() -> None:
    """Not when a record of them comes."""
    with pytest.raises(ValueError, match=r"Impression\.usecase"):
        scanner_source(pb.Impression)


@pytest.mark.parametrize(("extra", "what"), UNUSUAL, ids=[what for _, what in UNUSUAL])
def test_unusual_bytes_are_read_as_protobuf_reads_them(everything: UseCase, extra: bytes, what: str) -> None:
    """A newer producer's fields, and what other writers do."""
    whole = message()
    records = [record(1, whole + extra), record(2, extra + whole), record(3, extra), record(4, whole)]
    cuts = [record(5 + size, whole + extra[:size]) for size in range(min(len(extra), 20))]

    columns, bad = assert_same(everything, records + cuts)

    assert 4 + len(cuts) == len(columns) + bad
    assert 4 in columns.offset


@pytest.mark.parametrize("size", range(len(message())))
def test_a_cut_value_reads_nothing_of_its_neighbour(everything: UseCase, size: int) -> None:
    """The next record's bytes follow at once in the same buffer."""
    assert_same(everything, [record(1, message()[:size]), record(2, message(event_id=2**64 - 1))])


@pytest.mark.parametrize(
    "value",
    [
        b"\x20" + b"\xff" * 9 + b"\x02",
        b"\x20" + b"\xff" * 11,
        b"\x72\xff\xff\xff\xff\x0f",
        b"\x74",
        b"\x73\x70",
        b"\x00\x00",
        b"\x76",
    ],
)
def test_what_protobuf_refuses_is_malformed(everything: UseCase, value: bytes) -> None:
    """Numbers without an end, lengths beyond the value, groups that are not closed, field 0."""
    assert_same(everything, [record(1, message() + value), record(2, message())])


def test_changed_bytes_are_judged_as_by_protobuf(everything: UseCase) -> None:
    """Thousands of values with one to three bytes changed, cut or put in."""
    chance = random.Random(7)  # noqa: S311  seeded on purpose
    records = []
    for offset in range(4_000):
        raw = bytearray(message(action=chance.randrange(3), value=chance.random(), device=chance.randrange(2**32)))
        for _ in range(chance.randrange(4)):
            at = chance.randrange(len(raw))
            raw[at : at + chance.randrange(2)] = chance.randbytes(chance.randrange(3))
        records.append(record(offset, None if offset % 997 == 1 else bytes(raw)))

    columns, bad = assert_same(everything, records)

    assert len(columns) > 500
    assert bad > 500


@pytest.mark.property
@settings(max_examples=2_000, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=40),
            st.tuples(
                st.integers(0, 2**32 - 1), st.floats(width=32), st.integers(-(2**63), 2**63 - 1), st.binary(max_size=6)
            ).map(lambda drawn: message(action=drawn[0], value=drawn[1], event_time_us=drawn[2]) + drawn[3]),
        ),
        max_size=8,
    )
)
def test_any_bytes_are_judged_as_by_protobuf(everything: UseCase, values: list[bytes]) -> None:
    """Hypothesis looks for what the seeded changes miss."""
    assert_same(everything, [record(offset, value) for offset, value in enumerate(values)])


def test_columns_of_records_give_the_records_back() -> None:
    """Null and empty are different things."""
    records = [
        LogRecord(3, NOW_US, b"key", b"value"),
        LogRecord(5, -1, None, b""),
        LogRecord(9, 0, b"", None),
        LogRecord(10, 1, struct.pack(">q", 7), b"\0" * 300),
    ]
    columns = RecordColumns.of(records)

    assert records == columns.records() == [columns.record(index) for index in range(4)]
    assert [] == RecordColumns.of([]).records()


def test_record_columns_of_uneven_lengths_are_refused() -> None:
    """Kernels trust them."""
    columns = RecordColumns.of([LogRecord(3, NOW_US, b"key", b"value")])
    with pytest.raises(ValueError, match="value_size"):
        RecordColumns(**{**vars(columns), "value_size": np.zeros(2, np.int32)})
