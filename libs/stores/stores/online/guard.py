"""Which of two rows wins. The place of the version in the header is part of the row's format (`definitions.packed`)."""

import struct
from typing import Final

from stores.errors import InvalidRow

# Header: format version u8, layout hash u32, last event time i64, epoch u32, two offsets u64; little-endian, 33 bytes.
HEADER_BYTES: Final = 33
VERSION_AT: Final = 13
_VERSION = struct.Struct("<IQQ")

Version = tuple[int, int, int]


def version_of(row: bytes | memoryview) -> Version:
    """(epoch, interactions offset, users offset) of a packed row. InvalidRow if it is shorter than a header."""
    if len(row) < HEADER_BYTES:
        raise InvalidRow(f"row: {len(row)} bytes; a packed row begins with a header of {HEADER_BYTES} bytes")
    return _VERSION.unpack_from(row, VERSION_AT)


def wins(new: Version, old: Version) -> bool:
    """True if `new` may replace `old`: its epoch is newer, or equal with neither offset older."""
    return new[0] > old[0] or (new[0] == old[0] and new[1] >= old[1] and new[2] >= old[2])
