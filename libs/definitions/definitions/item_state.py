"""The items' aggregates of one partition of origin: partials, which readers add up over all partitions."""

import struct
from functools import lru_cache
from itertools import chain
from typing import Any

from definitions.errors import CorruptRow, LayoutMismatch
from definitions.events import EventColumns, micros
from definitions.kernel import Moment, TileAdds, decayed_add, matches
from definitions.layout import Layout
from definitions.packed import pack_tiles, signed
from definitions.plan import FORMAT_VERSION, Side
from definitions.saved import load_table, save_table
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


class ItemTable:
    """Streaming state of one partition of origin. Single-threaded."""

    _MAGIC = b"MIT1"

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._adds = TileAdds(layout.item, len(layout.usecase.actions))
        self._states: dict[int, ItemState] = {}
        self._packed: dict[int, bytes] = {}  # loaded and not touched since
        self._dirty: set[int] = set()

    def __len__(self) -> int:
        return len(self._states) + len(self._packed)

    def fold(self, events: EventColumns) -> None:
        """Fold good, deduplicated events of this partition, in offset order."""
        moments = map(
            Moment,
            events.event_time_us.tolist(),
            events.item_id.tolist(),
            events.action.tolist(),
            micros(events.value).tolist(),
            events.category.tolist(),
        )
        for moment in moments:
            state = self._states.get(moment.item_id) or self._touch(moment.item_id)
            self._fold(state, moment)
            self._dirty.add(moment.item_id)

    def take_dirty(self) -> list[int]:
        """Ids whose partials changed since the last call, ascending."""
        dirty = sorted(self._dirty)
        self._dirty.clear()
        return dirty

    def all_items(self) -> list[int]:
        """Every id with a partial, ascending."""
        return sorted(chain(self._states, self._packed))

    def partial(self, item_id: int) -> bytes:
        """The packed aggregates; of an unknown item: empty ones."""
        packed = self._packed.get(item_id)
        if packed is not None:
            return packed
        state = self._states.get(item_id)
        if state is None:
            return pack_item(self._layout, ItemState(self._layout.item))
        self._adds.sweep(state.tiles, state.newest_us)
        return pack_item(self._layout, state)

    def save(self) -> bytes:
        """The whole state, the same bytes for the same log; what is dirty is not in it (emit first)."""
        entries = [(item_id, self.partial(item_id)) for item_id in self.all_items()]
        return save_table(self._MAGIC, self._layout.layout_hash, entries)

    def load(self, blob: bytes) -> None:
        """Replace the state by a saved one. Raises: LayoutMismatch, CorruptRow."""
        self._packed = dict(load_table(self._MAGIC, self._layout.layout_hash, blob))
        self._states.clear()
        self._dirty.clear()

    def _touch(self, item_id: int) -> ItemState:
        state = self._states.get(item_id)
        if state is None:
            packed = self._packed.pop(item_id, None)
            state = ItemState(self._layout.item) if packed is None else unpack_item(self._layout, packed)
            self._states[item_id] = state
        return state

    def _fold(self, state: ItemState, moment: Moment) -> None:
        side, time_us = self._layout.item, moment.time_us
        state.newest_us = max(state.newest_us, time_us)
        self._adds.add(state.totals, state.tiles, moment, state.newest_us)
        for index, decay in enumerate(side.decays):
            if matches(decay.selector, moment):
                state.decay_values[index], state.decay_times[index] = decayed_add(
                    state.decay_values[index],
                    state.decay_times[index],
                    time_us,
                    float(moment.value) if decay.is_sum else 1.0,
                    decay.half_life_us,
                )
        for index, selector in enumerate(side.recencies):
            if time_us > state.recencies[index] and matches(selector, moment):
                state.recencies[index] = time_us
