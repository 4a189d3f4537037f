"""The bytes of a user row: header, fixed columns, then what varies in length. Little-endian, canonical.

Equal states give equal bytes, whatever batches or restarts led to them; only the epoch tells two writers apart.
"""

import struct
from bisect import bisect_left
from collections.abc import Sequence
from functools import cached_property, lru_cache
from itertools import accumulate, chain, repeat
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from definitions.errors import CorruptRow, LayoutMismatch
from definitions.kernel import Moment, TableState, UserState
from definitions.layout import Layout
from definitions.plan import FORMAT_VERSION, Side
from definitions.seen import seen_hash

_HEADER = struct.Struct("<BIqIQQ")
_INT64, _UINT64, _UINT32 = np.dtype("<i8"), np.dtype("<u8"), np.dtype("<u4")
_EPOCH_AT = 13  # the epoch's place in the header
_WORD = 2**64 - 1  # sums wrap like numpy's: a hostile overflow must not stop a consumer for ever
_MOMENT_BYTES = 8 + 8 + 8 + 4 + 4
_ENTRY_BYTES = 4 + 8 + 8 + 8
_TILE_BYTES = 8 + 8


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
    if len(row) < _HEADER.size:
        raise CorruptRow(f"{len(row)} bytes are no row: its header alone has {_HEADER.size}")
    return RowHeader(*_HEADER.unpack_from(row))


def with_epoch(row: bytes, epoch: int) -> bytes:
    """The same row as a writer of another epoch writes it."""
    return row[:_EPOCH_AT] + struct.pack("<I", epoch) + row[_EPOCH_AT + 4 :]


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
    header = _HEADER.pack(
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
    """A packed row, read as far as it is asked. Not thread-safe; values are those of `UserState`."""

    def __init__(self, layout: Layout, row: bytes) -> None:
        self.header = read_header(row)
        if (self.header.version, self.header.layout_hash) != (FORMAT_VERSION, layout.layout_hash):
            raise LayoutMismatch(
                f"row of format {self.header.version}, layout {self.header.layout_hash:08x}; this reader has "
                f"{FORMAT_VERSION}, {layout.layout_hash:08x}: rebuild the rows or deploy the other layout"
            )
        self._bytes = row
        side = layout.user
        fixed = _fixed(side)
        try:
            values: tuple[Any, ...] = fixed.unpack_from(row, _HEADER.size)
        except struct.error as exc:
            raise CorruptRow(f"row of {len(row)} bytes ends within its fixed columns; rebuild it") from exc
        parts = [values[cut] for cut in _cuts(side)]
        self.newest_us = self.header.last_event_time_us
        self.totals: list[int]
        self.decay_values: list[float]
        self.decay_times: list[int]
        self.recencies: list[int]
        self.numbers: list[float]
        self.codes: list[int]
        self._table_totals: Sequence[float]
        self._table_times: Sequence[int]
        self._history_lens: Sequence[int]
        self._table_lens: Sequence[int]
        self._tile_lens: Sequence[int]
        self.totals, self.decay_values, self.decay_times, self.recencies, self.numbers, self.codes = map(
            list, parts[:6]
        )
        self._table_totals, self._table_times, erased, block_len = parts[6:10]
        self._history_lens, self._table_lens, self._tile_lens, seen_len = parts[10:]
        self.erased = bool(erased[0])
        self._block_len: int = block_len[0]
        self._seen_len: int = seen_len[0]
        self._block_at = _HEADER.size + fixed.size
        self._histories_at: int = self._block_at + _MOMENT_BYTES * self._block_len
        self._tables_at = self._histories_at + _MOMENT_BYTES * sum(self._history_lens)
        self._tiles_at: int = self._tables_at + _ENTRY_BYTES * sum(self._table_lens)
        self._seen_at = self._tiles_at + _TILE_BYTES * sum(self._tile_lens)
        if self._seen_at + 4 * self._seen_len != len(row):
            raise CorruptRow(
                f"row of {len(row)} bytes, its lengths add up to {self._seen_at + 4 * self._seen_len}; rebuild it"
            )

    @cached_property
    def block(self) -> list[Moment]:
        """The newest 16 events, ascending."""
        return self._moments(self._block_at, self._block_len)

    def _moments(self, at: int, n: int) -> list[Moment]:
        values = _moments_struct(n).unpack_from(self._bytes, at)
        rows = zip(*(values[i : i + n] for i in range(0, 5 * n, n)), strict=True) if n else ()
        return list(map(tuple.__new__, repeat(Moment), rows))  # a third of what Moment's own constructor takes

    def _history_at(self, index: int) -> int:
        before = sum(self._history_lens[:index])
        return self._histories_at + _MOMENT_BYTES * before

    def history(
        self, index: int
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint64], npt.NDArray[np.int64], npt.NDArray[np.uint32]]:
        """Times, item ids, values and categories of a history's events outside the block, ascending."""
        n, at, row = self._history_lens[index], self._history_at(index), self._bytes
        return (
            np.frombuffer(row, _INT64, n, at),
            np.frombuffer(row, _UINT64, n, at + 8 * n),
            np.frombuffer(row, _INT64, n, at + 20 * n),
            np.frombuffer(row, _UINT32, n, at + 28 * n),
        )

    def table(self, index: int) -> TableState:
        """A table without the block's events."""
        state = TableState()
        state.total, state.time_us = self._table_totals[index], self._table_times[index]
        n, at = self._table_lens[index], self._tables_at + _ENTRY_BYTES * sum(self._table_lens[:index])
        values = _struct(f"<{n}I{n}d{n}d{n}q").unpack_from(self._bytes, at)
        weights = zip(values[n : 2 * n], values[2 * n : 3 * n], values[3 * n :], strict=True)
        state.entries = dict(zip(values[:n], weights, strict=True))
        return state

    @cached_property
    def _tiles(self) -> list[tuple[Sequence[int], Sequence[int]]]:
        columns: list[tuple[Sequence[int], Sequence[int]]] = []
        at = self._tiles_at
        for n in self._tile_lens:
            values = _struct(f"<{2 * n}q").unpack_from(self._bytes, at) if n else ()
            columns.append((values[:n], values[n:]))
            at += _TILE_BYTES * n
        return columns

    def tile_sum(self, column: int, first: int, end: int) -> int:
        """Sum of the tiles first <= index < end."""
        indexes, sums = self._tiles[column]
        if not indexes or indexes[-1] < first:
            return 0
        return sum(sums[bisect_left(indexes, first) : bisect_left(indexes, end)])

    @cached_property
    def _seen(self) -> npt.NDArray[np.uint32]:
        hashes = np.frombuffer(self._bytes, "<u4", self._seen_len, self._seen_at).astype(np.uint32)
        hashes.sort()
        return hashes

    def seen_mask(self, item_ids: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
        """Which items the user has consumed, (n,) bool: by 32-bit hash, among the last that the row keeps."""
        if not self._seen_len:
            return np.zeros(len(item_ids), bool)
        hashes = seen_hash(np.asarray(item_ids, np.uint64))
        return np.asarray(self._seen.take(self._seen.searchsorted(hashes), mode="clip") == hashes)

    def state(self, side: Side) -> UserState:
        """The whole row as the state that was packed."""
        state = UserState(side)
        state.newest_us = self.newest_us
        state.interactions_offset, state.users_offset = self.header.interactions_offset, self.header.users_offset
        state.erased = self.erased
        state.numbers, state.codes, state.totals = list(self.numbers), list(self.codes), list(self.totals)
        state.decay_values, state.decay_times = list(self.decay_values), list(self.decay_times)
        state.recencies = list(self.recencies)
        state.block = list(self.block)
        state.histories = [self._moments(self._history_at(i), n) for i, n in enumerate(self._history_lens)]
        state.tables = [self.table(index) for index in range(len(self._table_lens))]
        state.tiles = [dict(zip(indexes, sums, strict=True)) for indexes, sums in self._tiles]
        state.seen = dict.fromkeys(
            np.frombuffer(self._bytes, "<u4", self._seen_len, self._seen_at).tolist()  # in order, unlike `_seen`
        )
        return state


def unpack_user_row(layout: Layout, row: bytes) -> UserRow:
    """A row for reading.

    Raises:
        LayoutMismatch: another layout or format wrote it; treat it as missing and count it.
        CorruptRow: its lengths do not add up.
    """
    return UserRow(layout, row)
