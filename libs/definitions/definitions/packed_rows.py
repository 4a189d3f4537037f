"""Packed rows by the thousand, in columns; and the checkpoint section that holds them."""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from definitions.errors import CorruptRow, LayoutMismatch

_TABLE: Final = struct.Struct("<4sIQQ")  # magic, layout hash, rows, their bytes; then ids, bounds, bytes


@dataclass(frozen=True, eq=False)
class PackedRows:
    """`ids` uint64 (n,) ascending; row i is `data[bounds[i]:bounds[i + 1]]`, `bounds` int64 (n + 1,), `data` uint8."""

    ids: npt.NDArray[np.uint64]
    bounds: npt.NDArray[np.int64]
    data: npt.NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.ids)

    def items(self) -> Iterator[tuple[int, bytes]]:
        """Id and row, one at a time."""
        data, bounds = self.data.tobytes(), self.bounds.tolist()
        for number, key in enumerate(self.ids.tolist()):
            yield key, data[bounds[number] : bounds[number + 1]]

    @classmethod
    def joined(cls, parts: Sequence["PackedRows"]) -> "PackedRows":
        """Parts one after another; their ids ascend within each part only."""
        if len(parts) == 1:
            return parts[0]
        starts = np.cumsum([0, *(len(part.data) for part in parts)])
        bounds = [part.bounds[:-1] + start for part, start in zip(parts, starts[:-1].tolist(), strict=True)]
        return cls(
            np.concatenate([part.ids for part in parts]),
            np.concatenate([*bounds, starts[-1:]]),
            np.concatenate([part.data for part in parts]),
        )

    def take(self, which: npt.NDArray[np.int64]) -> "PackedRows":
        """The rows of these numbers, in their order."""
        sizes = np.diff(self.bounds)[which]
        bounds = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes, dtype=np.int64)])
        source = np.repeat(self.bounds[which] - bounds[:-1], sizes) + np.arange(bounds[-1])
        return PackedRows(self.ids[which], bounds, self.data[source])


NO_ROWS: Final = PackedRows(np.empty(0, np.uint64), np.zeros(1, np.int64), np.empty(0, np.uint8))


def save_rows(magic: bytes, layout_hash: int, rows: PackedRows) -> bytes:
    """One checkpoint section."""
    head = _TABLE.pack(magic, layout_hash, len(rows), len(rows.data))
    return b"".join([head, rows.ids.data, rows.bounds.data, rows.data.data])


def load_rows(magic: bytes, layout_hash: int, section: bytes | memoryview) -> PackedRows:
    """What `save_rows` wrote, as views of it; LayoutMismatch or CorruptRow if it is not one of ours."""
    if len(section) < _TABLE.size:
        raise CorruptRow(f"{len(section)} bytes are no saved table; rebuild from the log")
    found, theirs, count, size = _TABLE.unpack_from(section)
    if found != magic:
        raise CorruptRow(f"saved table begins with {found!r}, not {magic!r}; rebuild from the log")
    if theirs != layout_hash:
        raise LayoutMismatch(f"saved under layout {theirs:08x}, not {layout_hash:08x}; rebuild from the log")
    if len(section) != _TABLE.size + 16 * count + 8 + size:
        raise CorruptRow(f"saved table of {len(section)} bytes does not hold {count} rows; rebuild from the log")
    ids = np.frombuffer(section, np.uint64, count, _TABLE.size)
    bounds = np.frombuffer(section, np.int64, count + 1, _TABLE.size + 8 * count)
    data = np.frombuffer(section, np.uint8, size, _TABLE.size + 16 * count + 8)
    if bounds[0] != 0 or bounds[-1] != size or (np.diff(bounds) < 0).any():
        raise CorruptRow("saved table's rows do not lie one after another; rebuild from the log")
    return PackedRows(ids, bounds, data)
