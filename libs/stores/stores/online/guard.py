"""Which of two rows wins. The place of the version in the header is part of the row's format (`definitions.packed`)."""

import struct
from typing import Final

import numpy as np
import numpy.typing as npt

from stores.errors import InvalidRow

# Header: format version u8, layout hash u32, last event time i64, epoch u32, two offsets u64; little-endian, 33 bytes.
HEADER_BYTES: Final = 33
VERSION_AT: Final = 13
VERSION: Final = struct.Struct("<IQQ")

Version = tuple[int, int, int]


def version_of(row: bytes | memoryview) -> Version:
    """(epoch, interactions offset, users offset) of a packed row. InvalidRow if it is shorter than a header."""
    check_rows(np.array([0, len(row)]))
    return VERSION.unpack_from(row, VERSION_AT)


def check_rows(bounds: npt.NDArray[np.int64]) -> None:
    """InvalidRow if one of the rows between `bounds` is shorter than a header."""
    sizes = np.diff(bounds)
    if len(sizes) and int(sizes.min()) < HEADER_BYTES:
        raise InvalidRow(f"row: {int(sizes.min())} bytes; a packed row begins with a header of {HEADER_BYTES} bytes")


def wins(new: Version, old: Version) -> bool:
    """True if `new` may replace `old`: its epoch is newer, or equal with neither offset older."""
    return new[0] > old[0] or (new[0] == old[0] and new[1] >= old[1] and new[2] >= old[2])
