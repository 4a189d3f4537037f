"""All items in memory, column by column: aggregates merged over partitions, attributes, and their values at time t."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from threading import Lock

import numpy as np
import numpy.typing as npt
from millrace.events.v1 import events_pb2 as pb

from definitions.attributes import main_category, read_attributes
from definitions.id_index import IdIndex
from definitions.item_state import ItemState, unpack_item
from definitions.item_values import Gathered, move_features, moves, steady_features
from definitions.layout import Layout
from definitions.plan import Side
from definitions.tiles import NEVER, end_tile, first_tile, ring_length

_FIRST_CAPACITY = 1024
_NO_IDS = np.zeros(0, np.uint64)
_NO_MEANS = np.zeros((0, 0), np.float32)
_STALE = 0  # no tile time's number


@dataclass(frozen=True, eq=False)
class ItemColumns:
    """Items at one time. `known`: in the catalogue. `features` float32 (n, item columns in layout order), `ints` int64
    (n, `Layout.item_int_names`), `category` uint32 (n,) main category codes, `codes` uint32 (n, code columns) of every
    category attribute (`Layout.item.codes`), `markers` partition -> offset below which its partials are in.

    `past_ids` uint64 (m,), ascending: items of a user's past; `past` float32 (m, residuals): for each of
    `Layout.residuals` their mean column at the same time, of the same cut.
    """

    item_ids: npt.NDArray[np.uint64]
    known: npt.NDArray[np.bool_]
    features: npt.NDArray[np.float32]
    ints: npt.NDArray[np.int64]
    category: npt.NDArray[np.uint32]
    codes: npt.NDArray[np.uint32]
    markers: dict[int, int]
    past_ids: npt.NDArray[np.uint64] = field(default_factory=lambda: _NO_IDS)
    past: npt.NDArray[np.float32] = field(default_factory=lambda: _NO_MEANS)

    def __len__(self) -> int:
        return len(self.item_ids)

    def past_means(self, item_ids: npt.NDArray[np.uint64], residual: int) -> npt.NDArray[np.float32]:
        """Means (n,) of items of the past. KeyError if the view was not asked for one of them."""
        if not len(item_ids):
            return np.zeros(0, np.float32)
        places = np.searchsorted(self.past_ids, item_ids)
        if not len(self.past_ids) or (self.past_ids.take(places, mode="clip") != item_ids).any():
            raise KeyError("the view lacks items of the user's past; give it `past_items(layout, row)`")
        return np.asarray(self.past[places, residual])


class _Arrays:
    """The columns, one row a slot.

    Tiles lie as running sums, so that a window is the difference of two cells: cell j of a measure is the sum of the j
    oldest tiles that can be kept, the last of them the tile of the item's newest event.
    """

    def __init__(self, side: Side, capacity: int) -> None:
        self.ids = np.zeros(capacity, np.uint64)
        self.known = np.zeros(capacity, bool)
        self.newest_us = np.full(capacity, NEVER, np.int64)
        self.totals = np.zeros((capacity, len(side.measures)), np.int64)
        self.decay_values = np.zeros((capacity, len(side.decays)), np.float64)
        self.decay_times = np.full((capacity, len(side.decays)), NEVER, np.int64)
        self.recencies = np.full((capacity, len(side.recencies)), NEVER, np.int64)
        self.numbers = np.full((capacity, len(side.numbers)), np.nan, np.float64)
        self.codes = np.zeros((capacity, side.code_width), np.uint32)
        self.category = np.zeros(capacity, np.uint32)
        # The columns that change with events and tiles alone, as they were at the tile time of this number.
        self.steady = np.zeros((capacity, len(side.positions)), np.float32)
        self.steady_at = np.full(capacity, _STALE, np.int64)
        self.tiles = [
            np.zeros((capacity, len(tiles.measures), ring_length(tiles.keep_us, tiles.hop_us) + 1), np.int64)
            for tiles in side.classes
        ]

    def take_over(self, older: "_Arrays") -> None:
        """Copy the rows of smaller arrays."""
        n = len(older.ids)
        for name, column in vars(older).items():
            if name != "tiles":
                getattr(self, name)[:n] = column
        for mine, theirs in zip(self.tiles, older.tiles, strict=True):
            mine[:n] = theirs


class ItemSnapshot:
    """What a gateway knows of items. Thread-safe: one thread may put, apply and mark while others view."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._side = layout.item
        self._kept = [ring_length(tiles.keep_us, tiles.hop_us) for tiles in self._side.classes]
        self._writing = Lock()  # one writer at a time; readers do not wait while it decodes
        self._lock = Lock()  # around every touch of what follows
        self._arrays = _Arrays(self._side, _FIRST_CAPACITY)
        self._index = IdIndex()  # slot 0: items that nobody knows, with no events and no attributes
        self._shortest_hop_us = min((tiles.hop_us for tiles in self._side.classes), default=None)
        self._tile_time = 0, 0
        self._tile_number = _STALE + 1
        self._moves = moves(self._side)
        self._markers: dict[int, int] = {}
        self._version = 0
        self._popular: tuple[int, int, npt.NDArray[np.uint64], npt.NDArray[np.float32]] | None = None
        self._partials: dict[int, dict[int, bytes]] = {}  # item -> partition -> the newest applied
        self._pending: dict[int, dict[int, bytes | None]] = {}  # partition -> item -> not yet marked
        self._int_codes = [slot for ints in layout.item_code_ints for slot in _span(ints.codes.start, ints.codes.width)]
        self._all_codes = self._int_codes == list(range(self._side.code_width))

    def __len__(self) -> int:
        """Number of items in the catalogue."""
        with self._lock:
            return int(np.count_nonzero(self._arrays.known))

    def put_item(self, item: pb.Item) -> None:
        """Take an item of the catalogue over; `deleted` removes it, its aggregates stay."""
        if item.deleted:
            numbers, codes, category = [np.nan] * len(self._side.numbers), [0] * self._side.code_width, 0
        else:
            numbers, codes = read_attributes(self._side, item.attributes)
            category = main_category(self._layout.usecase, item)
        with self._writing, self._lock:
            slot = self._slot(np.array([item.id], np.uint64))[0]
            arrays = self._arrays
            arrays.known[slot] = not item.deleted
            arrays.numbers[slot], arrays.codes[slot], arrays.category[slot] = numbers, codes, category
            arrays.steady_at[slot] = _STALE
            self._version += 1

    def apply(self, partition: int, item_id: int, content: bytes | None) -> None:
        """Hold a partial back until its partition's next marker; None (a tombstone) takes the partition's part away.

        Raises:
            LayoutMismatch, CorruptRow: nothing was taken over; skip the record and count it.
        """
        if content is not None:
            unpack_item(self._layout, content)
        with self._writing:
            self._pending.setdefault(partition, {})[item_id] = content

    def mark(self, partition: int, offset: int) -> None:
        """A marker: all of the partition below `offset` becomes visible, at once."""
        with self._writing:
            pending = self._pending.pop(partition, {})
            for item_id, content in pending.items():
                parts = self._partials.setdefault(item_id, {})
                if content is None:
                    parts.pop(partition, None)
                else:
                    parts[partition] = content
            merged = [self._merge(item_id) for item_id in pending]
            with self._lock:
                self._write(list(pending), merged)
                self._markers = {**self._markers, partition: offset}  # views keep the former
                self._version += 1

    def markers(self) -> dict[int, int]:
        """Partition -> offset of its newest marker."""
        with self._lock:
            return self._markers

    def known(self, item_ids: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
        """Which items are in the catalogue, (n,)."""
        with self._lock:
            return np.asarray(self._arrays.known.take(self._index.find(item_ids)))

    def view(
        self, item_ids: npt.NDArray[np.uint64], time_us: int, past_ids: npt.NDArray[np.uint64] | None = None
    ) -> ItemColumns:
        """The items at t, in the order asked; unknown ones are empty, not an error.

        `past_ids` (`assembly.past_items`): their means come with the view, of the same cut.
        """
        with self._lock:
            arrays, rows = self._arrays, self._index.find(item_ids)
            features = self._steady(rows, time_us)
            gathered = self._gather(rows, None) if self._moves else None
            past = _NO_MEANS if past_ids is None else self._past(past_ids, time_us)
            known, category = arrays.known.take(rows), arrays.category.take(rows)
            codes = arrays.codes.take(rows, axis=0)
            markers = self._markers
        if gathered is not None:
            move_features(self._side, gathered, time_us, features)
        return ItemColumns(
            item_ids=item_ids,
            known=known,
            features=features,
            ints=self._ints(item_ids, codes),
            category=category,
            codes=codes,
            markers=markers,
            past_ids=_NO_IDS if past_ids is None else past_ids,
            past=past,
        )

    def _ints(self, item_ids: npt.NDArray[np.uint64], codes: npt.NDArray[np.uint32]) -> npt.NDArray[np.int64]:
        ints = (codes if self._all_codes else codes.take(self._int_codes, axis=1)).astype(np.int64)
        place = self._layout.item_id_int
        return ints if place is None else np.insert(ints, place, item_ids.view(np.int64), axis=1)

    def _past(self, past_ids: npt.NDArray[np.uint64], time_us: int) -> npt.NDArray[np.float32]:
        """The means (m, residuals) that the layout's residuals compare with."""
        rows = self._index.find(past_ids)
        features = self._steady(rows, time_us)
        if self._moves:
            move_features(self._side, self._gather(rows, None), time_us, features)
        means = [self._side.window_columns[residual.mean].position for residual in self._layout.residuals]
        return features[:, [self._side.places[position] for position in means]]

    def popular(self, limit: int) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.float32]]:
        """The catalogue's items with the largest label-weighted totals, best first, ties by id: ids, scores."""
        with self._lock:
            cached = self._popular
            if cached is not None and cached[0] == self._version and cached[1] >= limit:
                return cached[2][:limit], cached[3][:limit]
            version = self._version
            rows = np.flatnonzero(self._arrays.known)
            ids, totals = self._arrays.ids[rows], self._arrays.totals[rows]
        scores = np.zeros(len(ids))
        for measure, weight in self._layout.popularity:
            scores += weight * totals[:, measure]
        if limit < len(ids):  # a whole sort of a million items would take a second
            bound = np.partition(scores, len(ids) - limit)[len(ids) - limit] if limit else np.inf
            better = np.flatnonzero(scores >= bound)
            ids, scores = ids[better], scores[better]
        order = np.lexsort((ids, -scores))[:limit]
        best = version, limit, ids[order], scores[order].astype(np.float32)
        with self._lock:
            self._popular = best
        return best[2], best[3]

    def _steady(self, rows: npt.NDArray[np.int64], time_us: int) -> npt.NDArray[np.float32]:
        """The steady columns (n, item columns): evaluated once for an item and a tile time, then only copied."""
        arrays, hop_us = self._arrays, self._shortest_hop_us
        if hop_us is not None:
            tile_time = time_us // hop_us, (time_us - 1) // hop_us  # longer hops are multiples of it
            if tile_time != self._tile_time:
                self._tile_time = tile_time
                self._tile_number += 1
        number = self._tile_number
        fresh = arrays.steady_at.take(rows) == number
        if not fresh.all():
            stale = rows[~fresh]
            arrays.steady[stale] = steady_features(self._side, self._gather(stale, time_us))
            arrays.steady_at[stale] = number
        return arrays.steady.take(rows, axis=0)

    def _gather(self, rows: npt.NDArray[np.int64], tiles_at_us: int | None) -> Gathered:
        arrays = self._arrays
        return Gathered(
            newest_us=arrays.newest_us[rows],
            totals=arrays.totals[rows],
            decay_values=arrays.decay_values[rows],
            decay_times=arrays.decay_times[rows],
            recencies=arrays.recencies[rows],
            numbers=arrays.numbers[rows],
            tiles={} if tiles_at_us is None else self._tiles(rows, tiles_at_us),
        )

    def _slot(self, item_ids: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
        """The items' slots, new ones where they have none; capacity doubles when it is used up."""
        slots = self._index.add(item_ids)
        capacity = len(self._arrays.ids)
        while capacity <= len(self._index):
            capacity *= 2
        if capacity > len(self._arrays.ids):
            larger = _Arrays(self._side, capacity)
            larger.take_over(self._arrays)
            self._arrays = larger
        self._arrays.ids[slots] = item_ids
        return slots

    def _merge(self, item_id: int) -> ItemState:
        """The item over all partitions, in their order: decayed sums are floats, and must not depend on arrival."""
        state = ItemState(self._side)
        for _, content in sorted(self._partials[item_id].items()):
            state.merge(self._side, unpack_item(self._layout, content))
        return state

    def _write(self, item_ids: Iterable[int], states: list[ItemState]) -> None:
        slots = self._slot(np.fromiter(item_ids, np.uint64))
        if not len(slots):
            return
        arrays = self._arrays
        arrays.steady_at[slots] = _STALE
        arrays.newest_us[slots] = [state.newest_us for state in states]
        for name in ("totals", "decay_values", "decay_times", "recencies"):
            column = getattr(arrays, name)
            if column.shape[1]:
                column[slots] = [getattr(state, name) for state in states]
        first = 0
        for tiles, kept, sums in zip(self._side.classes, self._kept, arrays.tiles, strict=True):
            cells = np.zeros((len(slots), len(tiles.measures), kept + 1), np.int64)
            rows: list[int] = []
            places: list[int] = []
            totals: list[int] = []
            for row, state in enumerate(states):
                oldest = state.newest_us // tiles.hop_us - kept + 1  # a partition that fell behind keeps older ones
                for offset in range(len(tiles.measures)):
                    for index, total in state.tiles[first + offset].items():
                        if index >= oldest:
                            rows.append(row * len(tiles.measures) + offset)
                            places.append(index - oldest + 1)
                            totals.append(total)
            cells.reshape(-1, kept + 1)[rows, places] = totals
            sums[slots] = cells.cumsum(axis=2)
            first += len(tiles.measures)

    def _tiles(self, rows: npt.NDArray[np.int64], time_us: int) -> dict[tuple[int, int], npt.NDArray[np.int64]]:
        """(hop, window) -> sums (n, measures of the class), for each window that a feature reads."""
        found: dict[tuple[int, int], npt.NDArray[np.int64]] = {}
        newest_us = self._arrays.newest_us[rows]
        for tiles, kept, sums in zip(self._side.classes, self._kept, self._arrays.tiles, strict=True):
            oldest = newest_us // tiles.hop_us - kept + 1
            measures = np.arange(len(tiles.measures))

            def below(
                tile: int,
                sums: npt.NDArray[np.int64] = sums,
                oldest: npt.NDArray[np.int64] = oldest,
                measures: npt.NDArray[np.int64] = measures,
            ) -> npt.NDArray[np.int64]:
                places = np.clip(tile - oldest, 0, sums.shape[2] - 1)
                return sums[rows[:, None], measures, places[:, None]]

            end = below(end_tile(time_us, tiles.hop_us))
            for window_us in self._side.windows_of(tiles):
                found[tiles.hop_us, window_us] = end - below(first_tile(time_us, window_us, tiles.hop_us))
        return found


def _span(start: int, width: int) -> range:
    return range(start, start + width)
