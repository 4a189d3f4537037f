"""The items' aggregates of one partition of origin: fold, say what changed, give partials."""

from collections.abc import Sequence
from typing import Final

import numpy as np

from definitions.errors import CorruptRow
from definitions.events import EventColumns, micros
from definitions.item_fold import fold_items, partial_bounds, put_partials, take_partials
from definitions.item_state import ItemState, pack_item
from definitions.keyed import KeyedState
from definitions.layout import Layout
from definitions.packed_rows import PackedRows, load_rows, save_rows
from definitions.program import plan_of
from definitions.slots import Ids

_MAGIC: Final = b"MIT2"


class ItemTable:
    """Streaming state of one partition of origin. Single-threaded."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._state = KeyedState(plan_of(layout, layout.item))

    def __len__(self) -> int:
        return len(self._state)

    @property
    def used_bytes(self) -> int:
        """Memory in use."""
        return self._state.used_bytes

    def fold(self, events: EventColumns) -> None:
        """Fold good, deduplicated events of this partition, in offset order."""
        state, done = self._state, 0
        values = micros(events.value)
        while True:
            done = fold_items(
                state.plan,
                state.memory.words,
                state.index,
                state.dirty,
                events.item_id,
                events.action,
                values,
                events.event_time_us,
                done,
            )
            if done == len(events):
                return
            state.grow()

    @property
    def dirty(self) -> int:
        """How many partials have changed since `take_dirty`."""
        return self._state.dirty_count

    def take_dirty(self) -> Ids:
        """Ids whose partials changed since the last call, uint64 (n,), ascending."""
        return self._state.take_dirty()

    def all_items(self) -> Ids:
        """Every id with a partial, uint64 (n,), ascending."""
        return self._state.ids()

    def partials(self, ids: Ids | Sequence[int]) -> PackedRows:
        """The packed aggregates of known items, in the order given."""
        state, item_ids = self._state, np.asarray(ids, np.uint64)
        heads = state.heads(item_ids)
        if not heads.all():
            raise KeyError(f"item {item_ids[int(np.argmin(heads))]} has no partial")
        bounds = partial_bounds(state.plan, state.memory.words, heads)
        data = np.empty(bounds[-1], np.uint8)
        put_partials(state.plan, state.memory.words, heads, bounds, data)
        return PackedRows(item_ids, bounds, data)

    def partial(self, item_id: int) -> bytes:
        """The packed aggregates; of an unknown item: empty ones."""
        if not self._state.heads(np.array([item_id], np.uint64))[0]:
            return pack_item(self._layout, ItemState(self._layout.item))
        return self.partials([item_id]).data.tobytes()

    def save(self, ids: Ids | None = None) -> bytes:
        """The whole state, or that of some known items, ascending; the same bytes for the same log."""
        return save_rows(_MAGIC, self._layout.layout_hash, self.partials(self.all_items() if ids is None else ids))

    def load(self, blob: bytes) -> None:
        """Replace the state by a saved one. Raises: LayoutMismatch, CorruptRow."""
        self._state.clear()
        self.update(blob)

    def update(self, blob: bytes) -> None:
        """Take over items as they were saved, in place of what is known of them. Raises: LayoutMismatch, CorruptRow."""
        state, done = self._state, 0
        rows = load_rows(_MAGIC, self._layout.layout_hash, blob)
        while True:
            done = take_partials(state.plan, state.memory.words, state.index, rows.ids, rows.bounds, rows.data, done)
            if done < 0:
                raise CorruptRow(f"saved partial of item {rows.ids[-1 - done]}: its lengths do not add up; rebuild it")
            if done == len(rows):
                return
            state.grow()
