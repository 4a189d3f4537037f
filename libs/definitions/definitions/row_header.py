"""The first bytes of a packed row: who wrote it, and up to where. Whoever compares rows needs no more."""

import struct
from typing import Final, NamedTuple

from definitions.errors import CorruptRow

HEADER: Final = struct.Struct("<BIqIQQ")
_EPOCH_AT: Final = 13  # the epoch's place in the header


class RowHeader(NamedTuple):
    """Who wrote a row, and up to where. Offsets are 1 + the user's newest folded record of that topic, 0 if none.

    `last_event_time_us` is 0 for a user without events.
    """

    version: int
    layout_hash: int
    last_event_time_us: int
    epoch: int
    interactions_offset: int
    users_offset: int


def read_header(row: bytes) -> RowHeader:
    """The header of a row of any layout; CorruptRow if the bytes are too few."""
    if len(row) < HEADER.size:
        raise CorruptRow(f"{len(row)} bytes are no row: its header alone has {HEADER.size}")
    return RowHeader(*HEADER.unpack_from(row))


def with_epoch(row: bytes, epoch: int) -> bytes:
    """The same row as a writer of another epoch writes it."""
    return row[:_EPOCH_AT] + struct.pack("<I", epoch) + row[_EPOCH_AT + 4 :]
