"""The items' aggregates of one partition of origin: partials, which readers add up over all partitions."""

import struct
from functools import lru_cache
from typing import Any

from definitions.errors import CorruptRow, LayoutMismatch
from definitions.kernel import decayed_add
from definitions.layout import Layout
from definitions.packed import pack_tiles, signed
from definitions.plan import FORMAT_VERSION, Side
from definitions.tiles import NEVER

_HEADER = struct.Struct("<BIq")  # format, layout hash, newest event time


class ItemState:
    """Aggregates of one item, from one partition or merged. Items have no block: their ties are not taken out."""

    __slots__ = ("decay_times", "decay_values", "newest_us", "recencies", "tiles", "totals")

    def __init__(self, side: Side) -> None:
        self.newest_us = NEVER
        self.totals = [0] * len(side.measures)
        self.tiles: list[dict[int, int]] = [{} for _ in side.tile_columns]
        self.decay_values = [0.0] * len(side.decays)
        self.decay_times = [NEVER] * len(side.decays)
        self.recencies = [NEVER] * len(side.recencies)

    def merge(self, side: Side, other: "ItemState") -> None:
        """Add another partition's: totals and tiles add, times take the maximum, decayed values meet at the later."""
        self.newest_us = max(self.newest_us, other.newest_us)
        self.totals = [signed(mine + theirs) for mine, theirs in zip(self.totals, other.totals, strict=True)]
        for mine, theirs in zip(self.tiles, other.tiles, strict=True):
            for index, total in theirs.items():
                mine[index] = signed(mine.get(index, 0) + total)
        for index, decay in enumerate(side.decays):
            if other.decay_times[index] != NEVER:
                self.decay_values[index], self.decay_times[index] = decayed_add(
                    self.decay_values[index],
                    self.decay_times[index],
                    other.decay_times[index],
                    other.decay_values[index],
                    decay.half_life_us,
                )
        self.recencies = list(map(max, self.recencies, other.recencies))


@lru_cache(maxsize=64)
def _fixed(side: Side) -> struct.Struct:
    decays = len(side.decays)
    return struct.Struct(f"<{len(side.measures)}q{decays}d{decays}q{len(side.recencies)}q{len(side.tile_columns)}H")


@lru_cache(maxsize=4096)
def _tile_struct(n: int) -> struct.Struct:
    return struct.Struct(f"<{n}q{n}q")


def pack_item(layout: Layout, state: ItemState) -> bytes:
    """The bytes of a state whose tiles are swept: canonical, as a user row's are."""
    fixed = _fixed(layout.item).pack(
        *map(signed, state.totals),
        *state.decay_values,
        *state.decay_times,
        *state.recencies,
        *map(len, state.tiles),
    )
    header = _HEADER.pack(FORMAT_VERSION, layout.layout_hash, state.newest_us)
    return b"".join([header, fixed, *map(pack_tiles, state.tiles)])


def unpack_item(layout: Layout, content: bytes) -> ItemState:
    """A partial as it was packed. Raises: LayoutMismatch (skip and count it), CorruptRow."""
    side, fixed = layout.item, _fixed(layout.item)
    if len(content) < _HEADER.size:
        raise CorruptRow(f"{len(content)} bytes are no item partial; rebuild the topic")
    version, layout_hash, newest_us = _HEADER.unpack_from(content)
    if (version, layout_hash) != (FORMAT_VERSION, layout.layout_hash):
        raise LayoutMismatch(
            f"item partial of format {version}, layout {layout_hash:08x}; this reader has {FORMAT_VERSION}, "
            f"{layout.layout_hash:08x}"
        )
    if len(content) < _HEADER.size + fixed.size:
        raise CorruptRow(f"item partial of {len(content)} bytes ends within its fixed columns; rebuild the topic")
    values: tuple[Any, ...] = fixed.unpack_from(content, _HEADER.size)
    measures, decays, recencies = len(side.measures), len(side.decays), len(side.recencies)
    state = ItemState(side)
    state.newest_us = newest_us
    state.totals = list(values[:measures])
    state.decay_values = list(values[measures : measures + decays])
    state.decay_times = list(values[measures + decays : measures + 2 * decays])
    lengths_at = measures + 2 * decays + recencies
    state.recencies = list(values[measures + 2 * decays : lengths_at])
    at, lengths = _HEADER.size + fixed.size, values[lengths_at:]
    if at + 16 * sum(lengths) != len(content):
        raise CorruptRow(f"item partial of {len(content)} bytes, its lengths say {at + 16 * sum(lengths)}")
    for column, n in enumerate(lengths):
        cells = _tile_struct(n).unpack_from(content, at)
        state.tiles[column] = dict(zip(cells[:n], cells[n:], strict=True))
        at += 16 * n
    return state
