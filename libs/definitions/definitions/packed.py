"""The bytes of a user row: header, fixed columns, then what varies in length. Little-endian, canonical.

Equal states give equal bytes, whatever batches or restarts led to them; only the epoch tells two writers apart.
"""

import struct
from collections.abc import Sequence
from functools import cached_property, lru_cache
from itertools import accumulate, chain
from typing import Any

import numpy as np
import numpy.typing as npt

from definitions.errors import CorruptRow, LayoutMismatch
from definitions.kernel import Moment, UserState
from definitions.layout import Layout
from definitions.plan import FORMAT_VERSION, Side
from definitions.row_header import HEADER, read_header
from definitions.seen import seen_hash
from definitions.user_pack import ENTRY_BYTES, MOMENT_BYTES, is_whole
from definitions.user_reads import user_reads

_SHORT = struct.Struct("<H")
_WORD = 2**64 - 1  # sums wrap like numpy's: a hostile overflow must not stop a consumer for ever
_TILE_BYTES = 8 + 8


@lru_cache(maxsize=4096)
def _struct(form: str) -> struct.Struct:
    return struct.Struct(form)  # the standard library forgets its formats after 100


@lru_cache(maxsize=1024)
def _moments_struct(n: int) -> struct.Struct:
    return struct.Struct(f"<{n}q{n}Q{n}I{n}q{n}I")


@lru_cache(maxsize=64)
def _fixed(side: Side) -> struct.Struct:
    """Totals, decayed sums and times, recencies, numbers, codes, tables' totals and times, erased, then lengths."""
    decays, tables = len(side.decays), len(side.tables)
    return struct.Struct(
        f"<{len(side.measures)}q{decays}d{decays}q{len(side.recencies)}q{len(side.numbers)}d{side.code_width}I"
        f"{tables}d{tables}qBB{len(side.histories)}H{tables}H{len(side.tile_columns)}HH"
    )


@lru_cache(maxsize=64)
def _cuts(side: Side) -> tuple[slice, ...]:
    """Where the parts of a row's fixed columns lie among their values, in the order of `_fixed`."""
    decays, tables = len(side.decays), len(side.tables)
    lengths = (
        *(len(side.measures), decays, decays, len(side.recencies), len(side.numbers), side.code_width, tables, tables),
        *(1, 1, len(side.histories), tables, len(side.tile_columns), 1),
    )
    ends = [*accumulate(lengths)]
    return tuple(map(slice, [0, *ends], ends))


def signed(total: int) -> int:
    """A sum as int64, wrapped."""
    return ((total + 2**63) & _WORD) - 2**63


def pack_tiles(tiles: dict[int, int]) -> bytes:
    """Indexes ascending, then sums."""
    n, indexes = len(tiles), sorted(tiles)
    form = _struct(f"<{n}q{n}q")
    try:
        return form.pack(*indexes, *map(tiles.__getitem__, indexes))
    except struct.error:  # a sum has left int64, which happens to none but a hostile one
        return form.pack(*indexes, *(signed(tiles[index]) for index in indexes))


def _pack_moments(moments: Sequence[Moment]) -> bytes:
    return _moments_struct(len(moments)).pack(*chain.from_iterable(zip(*moments, strict=True)))


def pack_user(layout: Layout, state: UserState, epoch: int) -> bytes:
    """The bytes of a state whose tiles are swept (`UserFolder.sweep`)."""
    side = layout.user
    header = HEADER.pack(
        FORMAT_VERSION,
        layout.layout_hash,
        state.newest_us,
        epoch,
        state.interactions_offset,
        state.users_offset,
    )
    fixed = _fixed(side).pack(
        *map(signed, state.totals),
        *state.decay_values,
        *state.decay_times,
        *state.recencies,
        *state.numbers,
        *state.codes,
        *(table.total for table in state.tables),
        *(table.time_us for table in state.tables),
        state.erased,
        len(state.block),
        *map(len, state.histories),
        *(len(table.entries) for table in state.tables),
        *map(len, state.tiles),
        len(state.seen),
    )
    parts = [header, fixed, _pack_moments(state.block), *map(_pack_moments, state.histories)]
    for table in state.tables:
        n = len(table.entries)
        categories = sorted(table.entries)
        weights = [table.entries[category] for category in categories]
        parts.append(_struct(f"<{n}I{n}d{n}d{n}q").pack(*categories, *chain.from_iterable(zip(*weights, strict=True))))
    parts += map(pack_tiles, state.tiles)
    parts.append(_struct(f"<{len(state.seen)}I").pack(*state.seen))
    return b"".join(parts)


class UserRow:
    """A packed row that fits the layout: `header`, and all its bytes as `data`. `UserAt` reads it at a time."""

    def __init__(self, layout: Layout, row: bytes) -> None:
        self.header = read_header(row)
        if (self.header.version, self.header.layout_hash) != (FORMAT_VERSION, layout.layout_hash):
            raise LayoutMismatch(
                f"row of format {self.header.version}, layout {self.header.layout_hash:08x}; this reader has "
                f"{FORMAT_VERSION}, {layout.layout_hash:08x}: rebuild the rows or deploy the other layout"
            )
        self.data = np.frombuffer(row, np.uint8)
        if not is_whole(user_reads(layout).plan, self.data):
            raise CorruptRow(f"row of {len(row)} bytes: its lengths do not add up, or exceed the layout's; rebuild it")
        self._side = layout.user
        self._bytes = row

    @cached_property
    def _seen(self) -> npt.NDArray[np.uint32]:
        """Hashes in the order they came; they end the row."""
        (n,) = _SHORT.unpack_from(self._bytes, HEADER.size + _fixed(self._side).size - _SHORT.size)
        return np.frombuffer(self._bytes, "<u4", n, len(self._bytes) - 4 * n)

    @cached_property
    def _sorted_seen(self) -> npt.NDArray[np.uint32]:
        return np.sort(self._seen)

    def seen_mask(self, item_ids: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
        """Which items the user has consumed, (n,) bool: by 32-bit hash, among the last that the row keeps."""
        if not len(self._seen):
            return np.zeros(len(item_ids), bool)
        hashes, seen = seen_hash(np.asarray(item_ids, np.uint64)), self._sorted_seen
        return np.asarray(seen.take(seen.searchsorted(hashes), mode="clip") == hashes)

    def state(self) -> UserState:
        """The whole row as the state that was packed."""
        side, row, state = self._side, self._bytes, UserState(self._side)
        values: tuple[Any, ...] = _fixed(side).unpack_from(row, HEADER.size)
        parts = [values[cut] for cut in _cuts(side)]
        table_totals, table_times, erased, block_len, history_lens, table_lens, tile_lens, _ = parts[6:]
        state.newest_us, state.erased = self.header.last_event_time_us, bool(erased[0])
        state.interactions_offset, state.users_offset = self.header.interactions_offset, self.header.users_offset
        state.totals, state.decay_values, state.decay_times = map(list, parts[:3])
        state.recencies, state.numbers, state.codes = map(list, parts[3:6])
        at = HEADER.size + _fixed(side).size
        moments = []
        for n in (*block_len, *history_lens):
            moments.append(_moments(row, at, n))
            at += MOMENT_BYTES * n
        state.block, *state.histories = moments
        for table, total, time_us, n in zip(state.tables, table_totals, table_times, table_lens, strict=True):
            entries = _struct(f"<{n}I{n}d{n}d{n}q").unpack_from(row, at)
            at += ENTRY_BYTES * n
            weights = zip(entries[n : 2 * n], entries[2 * n : 3 * n], entries[3 * n :], strict=True)
            table.total, table.time_us, table.entries = total, time_us, dict(zip(entries[:n], weights, strict=True))
        state.tiles = []
        for n in tile_lens:
            tiles = _struct(f"<{2 * n}q").unpack_from(row, at)
            at += _TILE_BYTES * n
            state.tiles.append(dict(zip(tiles[:n], tiles[n:], strict=True)))
        state.seen = dict.fromkeys(self._seen.tolist())
        return state


def _moments(row: bytes, at: int, n: int) -> list[Moment]:
    values = _moments_struct(n).unpack_from(row, at)
    return [Moment(*each) for each in zip(*(values[i : i + n] for i in range(0, 5 * n, n)), strict=True)] if n else []


def unpack_user_row(layout: Layout, row: bytes) -> UserRow:
    """A row for reading.

    Raises:
        LayoutMismatch: another layout or format wrote it; treat it as missing and count it.
        CorruptRow: its lengths do not add up.
    """
    return UserRow(layout, row)
