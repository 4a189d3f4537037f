"""Checkpoint blobs: packed entries by key, one after another."""

import struct
from collections.abc import Iterator, Sequence

from definitions.errors import CorruptRow, LayoutMismatch

_TABLE = struct.Struct("<4sIQ")  # magic, layout hash, keys
_ENTRY = struct.Struct("<QI")  # key, bytes that follow


def save_table(magic: bytes, layout_hash: int, entries: Sequence[tuple[int, bytes]]) -> bytes:
    """One checkpoint blob of packed entries, in their order."""
    parts = [_TABLE.pack(magic, layout_hash, len(entries))]
    for key, content in entries:
        parts += (_ENTRY.pack(key, len(content)), content)
    return b"".join(parts)


def load_table(magic: bytes, layout_hash: int, blob: bytes) -> Iterator[tuple[int, bytes]]:
    """The entries of `save_table`'s blob; LayoutMismatch or CorruptRow if it is not one of ours."""
    if len(blob) < _TABLE.size:
        raise CorruptRow(f"{len(blob)} bytes are no saved table; rebuild from the log")
    found, theirs, count = _TABLE.unpack_from(blob)
    if found != magic:
        raise CorruptRow(f"saved table begins with {found!r}, not {magic!r}; rebuild from the log")
    if theirs != layout_hash:
        raise LayoutMismatch(f"saved under layout {theirs:08x}, not {layout_hash:08x}; rebuild from the log")
    at = _TABLE.size
    for _ in range(count):
        if len(blob) < at + _ENTRY.size:
            raise CorruptRow(f"saved table ends early, at byte {len(blob)}; rebuild from the log")
        key, size = _ENTRY.unpack_from(blob, at)
        at += _ENTRY.size + size
        if len(blob) < at:
            raise CorruptRow(f"saved table ends early, at byte {len(blob)}; rebuild from the log")
        yield key, blob[at - size : at]
