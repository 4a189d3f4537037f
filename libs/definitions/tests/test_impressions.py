"""Impressions with arrays as bytes say what protobuf reads, whatever the wire looks like."""

import numpy as np
import pytest
from definitions.impressions import ARRAYS, length, numbers, read_packed
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from millrace.events.v1 import events_pb2 as pb

_U32 = st.integers(0, 2**32 - 1)
IMPRESSIONS = st.builds(
    pb.Impression,
    request_id=st.integers(0, 2**64 - 1),
    usecase=st.text(max_size=3),
    item_ids=st.lists(st.integers(0, 2**64 - 1), max_size=4),
    scores=st.lists(st.floats(width=32, allow_nan=False), max_size=4),
    propensities=st.lists(st.floats(width=32, allow_nan=False), max_size=4),
    positions=st.lists(st.one_of(st.integers(0, 127), _U32), max_size=4),
    unknown=st.lists(st.booleans(), max_size=4),
    reasons=st.lists(st.text(max_size=3), max_size=4),
    row=st.builds(pb.RowVersion, epoch=_U32),
    stages=st.lists(st.builds(pb.StageTiming, stage=st.text(max_size=3), micros=_U32), max_size=2),
)
POSITIONS, ITEM_IDS, UNKNOWN = 8, 5, 25  # field numbers


def field(number: int, wire_type: int, data: bytes) -> bytes:
    """One field on the wire."""
    tag = number << 3 | wire_type
    head = bytes([tag]) if tag < 0x80 else bytes([tag & 0x7F | 0x80, tag >> 7])
    return head + (bytes([len(data)]) if wire_type == 2 else b"") + data


@given(st.lists(IMPRESSIONS, max_size=4))
def test_nothing_is_lost_in_packing(impressions: list[pb.Impression]) -> None:
    """Numbers by their arrays and lengths, everything else as it is in the message."""
    found = [read_packed(each.SerializeToString()) for each in impressions]

    for name in ARRAYS:
        assert [len(getattr(each, name)) for each in impressions] == [length(each, name) for each in found]
        assert [number for each in impressions for number in getattr(each, name)] == numbers(found, name).tolist()
    for expected, message in zip(impressions, found, strict=True):
        assert expected == pb.Impression.FromString(message.SerializeToString())
        assert (expected.row.epoch, list(expected.reasons)) == (message.row.epoch, list(message.reasons))


@pytest.mark.parametrize(
    ("name", "wire", "expected"),
    [
        ("positions", field(POSITIONS, 2, b"\x01\x02") + field(POSITIONS, 2, b"\x03"), [1, 2, 3]),  # in two pieces
        ("positions", field(POSITIONS, 0, b"\x05") + field(POSITIONS, 0, b"\x80\x01"), [5, 128]),  # one by one
        ("positions", field(POSITIONS, 2, b"\x81\x80\x00"), [1]),  # with more bytes than it takes
        ("positions", field(POSITIONS, 2, b"\xff" * 9 + b"\x01"), [2**32 - 1]),  # of 64 bits
        ("item_ids", field(ITEM_IDS, 1, bytes(range(8))), [0x0706050403020100]),
        ("unknown", field(UNKNOWN, 2, b"\x00\x02\x01"), [False, True, True]),
    ],
)
def test_arrays_that_others_write_otherwise_are_read_too(name: str, wire: bytes, expected: list[int]) -> None:
    """The wire allows more than one form of an array."""
    message = read_packed(wire)

    assert expected == list(getattr(pb.Impression.FromString(wire), name))
    assert (len(expected), expected) == (length(message, name), numbers([message], name).tolist())


@pytest.mark.parametrize(
    "wire",
    [
        field(ITEM_IDS, 2, bytes(7)),  # no whole number
        field(POSITIONS, 2, b"\x01\x80"),
        field(POSITIONS, 2, b"\xff" * 11 + b"\x01"),
        field(4, 2, b"\xff"),  # a text that is not UTF-8
        b"\xff",
    ],
)
def test_what_protobuf_refuses_is_refused(wire: bytes) -> None:
    """Bytes that are no Impression do not become one by being left unread."""
    with pytest.raises(DecodeError):
        pb.Impression.FromString(wire)
    with pytest.raises(DecodeError):
        read_packed(wire)


def test_no_impressions_have_no_numbers() -> None:
    """An empty batch is one too, and its columns have their types."""
    assert {name: np.dtype(kind) for name, kind in ARRAYS.items()} == {name: numbers([], name).dtype for name in ARRAYS}
