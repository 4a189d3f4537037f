"""All items in memory, column by column: aggregates merged over partitions, attributes, and their values at time t."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from threading import Lock

import numpy as np
import numpy.typing as npt
from millrace.events.v1 import events_pb2 as pb

from definitions.attributes import main_category, read_attributes
from definitions.compiled import brief
from definitions.errors import DefinitionsError
from definitions.id_index import IdIndex, Ids
from definitions.item_partials import NONE, Ints, ItemPartials
from definitions.item_values import item_moves, moves, put_moving, steady_features
from definitions.layout import Layout
from definitions.plan import Side
from definitions.reads import NONE as NO_PLACE
from definitions.reads import Codes, Features, or_none

_FIRST_CAPACITY = 1024
_NO_IDS = np.zeros(0, np.uint64)
_NO_MEANS = np.zeros((0, 0), np.float32)
_STALE = 0  # no tile time's number


@dataclass(frozen=True, eq=False)
class ItemColumns:
    """Items at one time. `known`: in the catalogue. `features` float32 (n, item columns in layout order), `ints` int64
    (n, `Layout.item_int_names`), `category` uint32 (n,) main category codes, `codes` uint32 (n, code columns) of every
    category attribute (`Layout.item.codes`), `markers` partition -> offset below which its partials are in.

    `past` float32 (m, residuals): of the items of a user's past, for each of `Layout.residuals`, their mean column at
    the same time, of the same cut.
    """

    item_ids: npt.NDArray[np.uint64]
    known: npt.NDArray[np.bool_]
    features: npt.NDArray[np.float32]
    ints: npt.NDArray[np.int64]
    category: npt.NDArray[np.uint32]
    codes: npt.NDArray[np.uint32]
    markers: dict[int, int]
    past: npt.NDArray[np.float32] = field(default_factory=lambda: _NO_MEANS)

    def __len__(self) -> int:
        return len(self.item_ids)


@dataclass(frozen=True, eq=False, slots=True)
class Attributes:
    """What filters read of n items: `known` bool (n,), `numbers` float64 (n, `Side.numbers`), NaN = absent, `codes`
    uint32 (n, code columns), 0 = none.
    """

    known: npt.NDArray[np.bool_]
    numbers: npt.NDArray[np.float64]
    codes: npt.NDArray[np.uint32]


class _Columns:
    """What is kept of each item, one row a slot; slot 0 is for items that nobody knows. `rows`: its partials' rows, a
    column for each partition of origin.
    """

    def __init__(self, side: Side, capacity: int, partitions: int) -> None:
        self.known = np.zeros(capacity, np.bool_)
        self.deleted = np.zeros(capacity, np.bool_)
        self.numbers = np.full((capacity, len(side.numbers)), np.nan, np.float64)
        self.codes = np.zeros((capacity, side.code_width), np.uint32)
        self.category = np.zeros(capacity, np.uint32)
        self.scores = np.zeros(capacity, np.float64)
        self.rows = np.full((capacity, partitions), NONE, np.int32)
        # Values at the tile time of number `at`: what only tiles and events change, and what moving values are made of.
        self.at = np.full(capacity, _STALE, np.int32)
        self.steady = np.zeros((capacity, len(side.positions)), np.float32)
        kept = capacity if moves(side) else 0
        self.newest_us = np.zeros(kept, np.int64)
        self.decay_values = np.zeros((kept, len(side.decays)), np.float64)
        self.decay_times = np.zeros((kept, len(side.decays)), np.int64)
        self.recencies = np.zeros((kept, len(side.recencies)), np.int64)

    def take_over(self, older: "_Columns") -> None:
        """Copy the rows of smaller columns."""
        for name, column in vars(older).items():
            getattr(self, name)[: len(column)] = column

    @property
    def nbytes(self) -> int:
        """Of all columns."""
        return sum(column.nbytes for column in vars(self).values())


class ItemSnapshot:
    """What a gateway knows of items. Thread-safe: writers wait for one another, and hold up readers only to swap."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        side = self._side = layout.item
        self._writing = Lock()
        self._lock = Lock()  # around every read, and every change of what a reader may see
        self._columns = _Columns(side, _FIRST_CAPACITY, 1)
        self._index = IdIndex()
        self._partials = ItemPartials(layout)
        self._origins: list[int] = []  # partition of each column of `rows`, ascending
        self._pending: dict[
            int, list[tuple[Ids, Ints]]
        ] = {}  # partition -> items and rows that no marker has made valid
        self._markers: dict[int, int] = {}
        self._version = 0
        self._any_deleted = False
        self._popular: tuple[int, int, Ids, npt.NDArray[np.float32]] | None = None
        self._shortest_hop_us = min((tiles.hop_us for tiles in side.classes), default=None)
        self._tile_time = 0, 0
        self._tile_number = _STALE + 1
        self._moves = moves(side)
        means = [side.window_columns[residual.mean] for residual in layout.residuals]
        self._means = [side.places[window.position] for window in means]
        self._means_move = any(window.ttl_us is not None for window in means)
        spans = (range(ints.codes.start, ints.codes.start + ints.codes.width) for ints in layout.item_code_ints)
        self._int_codes = np.array([slot for span in spans for slot in span], np.int64)
        self._id_int = or_none(layout.item_id_int)

    def __len__(self) -> int:
        """Number of items in the catalogue."""
        with self._lock:
            return int(np.count_nonzero(self._columns.known))

    @property
    def nbytes(self) -> int:
        """Bytes of everything that is kept of items."""
        with self._lock:
            return self._columns.nbytes + self._index.nbytes + self._partials.nbytes

    def put_item(self, item: pb.Item) -> None:
        """Take an item of the catalogue over; `deleted` removes it, its aggregates stay."""
        self.put_items([item])

    def put_items(self, items: Sequence[pb.Item]) -> None:
        """Take items of the catalogue over, in order."""
        newest = {item.id: item for item in items}
        side, n = self._side, len(newest)
        numbers, codes = np.full((n, len(side.numbers)), np.nan), np.zeros((n, side.code_width), np.uint32)
        category, known = np.zeros(n, np.uint32), np.zeros(n, np.bool_)
        for place, item in enumerate(newest.values()):
            known[place] = not item.deleted
            if not item.deleted:
                numbers[place], codes[place] = read_attributes(side, item.attributes)
                category[place] = main_category(self.layout.usecase, item)
        with self._writing:
            slots = self._slots(np.fromiter(newest, np.uint64, n))
            with self._lock:
                columns = self._columns
                columns.known[slots], columns.category[slots] = known, category
                columns.deleted[slots] = ~known
                self._any_deleted |= not known.all()
                columns.numbers[slots], columns.codes[slots] = numbers, codes
                columns.at[slots] = _STALE
                self._version += 1

    def apply(self, partition: int, item_id: int, content: bytes | None) -> None:
        """`apply_many` of one. Raises: LayoutMismatch, CorruptRow."""
        for error in self.apply_many(partition, [item_id], [content]).values():
            raise error

    def apply_many(
        self, partition: int, item_ids: Sequence[int], contents: Sequence[bytes | None]
    ) -> dict[int, DefinitionsError]:
        """Hold partials back until their partition's next marker; None (a tombstone) takes the partition's part away.

        What cannot be had is left out: index -> LayoutMismatch or CorruptRow.
        """
        there = [index for index, content in enumerate(contents) if content is not None]
        with self._writing:
            rows = np.full(len(contents), NONE, np.int64)
            rows[there], failed = self._partials.write([contents[index] or b"" for index in there])
            errors = {there[index]: error for index, error in failed.items()}
            ids = np.array(item_ids, np.uint64)
            if errors:
                good = np.delete(np.arange(len(ids)), list(errors))
                ids, rows = ids[good], rows[good]
            self._pending.setdefault(partition, []).append((ids, rows))
        return errors

    def mark(self, partition: int, offset: int) -> None:
        """A marker: all of the partition below `offset` becomes visible, at once."""
        with self._writing:
            pending = self._pending.pop(partition, [])
            ids = np.concatenate([_NO_IDS, *(ids for ids, _ in pending)])
            rows = np.concatenate([np.empty(0, np.int64), *(rows for _, rows in pending)])
            slots, origin = self._slots(ids), self._origin(partition)
            columns = self._columns
            before = columns.rows[slots, origin]
            with self._lock:
                columns.rows[slots, origin] = rows  # of an item that comes twice, the last stays
                columns.at[slots] = _STALE
                self._markers = {**self._markers, partition: offset}  # views keep the former
                self._version += 1
            now = columns.rows[slots, origin]
            self._partials.free(np.concatenate([np.unique(before), rows[rows != now]]))
            columns.scores[slots] = self._partials.scores(columns.rows.take(slots, axis=0))

    def markers(self) -> dict[int, int]:
        """Partition -> offset of its newest marker."""
        with self._lock:
            return self._markers

    def known(self, item_ids: Ids) -> npt.NDArray[np.bool_]:
        """Which items are in the catalogue, (n,)."""
        with self._lock:
            return np.asarray(self._columns.known.take(self._index.find(item_ids)))

    def not_deleted(self, item_ids: Ids) -> Ids:
        """Those that the catalogue has not taken away, in their order: items that it never had stay."""
        if not self._any_deleted:  # as good as always, and then it costs nothing
            return item_ids
        with self._lock:
            deleted = self._columns.deleted.take(self._index.find(item_ids))
        return item_ids[~deleted] if deleted.any() else item_ids

    def newest_us(self, item_ids: Ids) -> Ints:
        """Time of each item's newest event, int64 (n,); 0 if it has none."""
        with self._lock:
            rows = self._columns.rows.take(self._index.find(item_ids), axis=0)
            return self._partials.newest_us(rows)

    def attributes(self, item_ids: Ids) -> Attributes:
        """What the catalogue says of the items, (n,)."""
        with self._lock:
            columns, slots = self._columns, self._index.find(item_ids)
            return Attributes(
                columns.known.take(slots), columns.numbers.take(slots, axis=0), columns.codes.take(slots, axis=0)
            )

    def view(self, item_ids: Ids, time_us: int, past_ids: Ids | None = None) -> ItemColumns:
        """The items at t, in the order asked; unknown ones are empty, not an error.

        `past_ids` (`assembly.past_items`): their means come with the view, of the same cut.
        """
        n, side = len(item_ids), self._side
        # One search, one look at what is stale. An array of our own: for one that is read-only, or has gaps, a kernel
        # would be compiled anew.
        wanted = np.concatenate([item_ids] if past_ids is None else [item_ids, past_ids])
        features = np.empty((len(wanted), len(side.positions)), np.float32)
        ints = np.empty((n, len(self.layout.item_int_names)), np.int64)
        known, category = np.empty(n, np.bool_), np.empty(n, np.uint32)
        codes = np.empty((n, side.code_width), np.uint32)
        with self._lock:
            columns, slots, number = self._columns, self._index.find(wanted), self._number(time_us)
            kept = (columns.at, columns.steady, columns.known, columns.category, columns.codes)
            if not _gather(slots, number, *kept, features, known, category, codes):
                self._renew(slots, number, time_us)
                _gather(slots, number, *kept, features, known, category, codes)
            if self._moves:
                moved = slots if self._means_move else slots[:n]
                put_moving(
                    *item_moves(side), columns.newest_us, columns.decay_values, columns.decay_times, columns.recencies,
                    moved, np.array([time_us]), features,
                )  # fmt: skip
            markers = self._markers
        _put_ints(wanted, codes, self._int_codes, self._id_int, ints)
        return ItemColumns(
            item_ids=wanted[:n],
            known=known,
            features=features[:n],
            ints=ints,
            category=category,
            codes=codes,
            markers=markers,
            past=_NO_MEANS if past_ids is None else features[n:].take(self._means, axis=1),
        )

    def popular(self, limit: int) -> tuple[Ids, npt.NDArray[np.float32]]:
        """The catalogue's items with the largest label-weighted totals, best first, ties by id: ids, scores."""
        with self._lock:
            cached = self._popular
            if cached is not None and cached[0] == self._version and cached[1] >= limit:
                return cached[2][:limit], cached[3][:limit]
            version = self._version
            ids, slots = self._index.all()
            known = self._columns.known.take(slots)
            ids, scores = ids[known], self._columns.scores.take(slots[known])
        if limit < len(ids):  # a whole sort of a million items would take a tenth of a second
            bound = np.partition(scores, len(ids) - limit)[len(ids) - limit] if limit else np.inf
            better = np.flatnonzero(scores >= bound)
            ids, scores = ids[better], scores[better]
        order = np.argsort(-scores, kind="stable")[:limit]  # ids ascend already
        best = version, limit, ids[order], scores[order].astype(np.float32)
        with self._lock:
            self._popular = best
        return best[2], best[3]

    def largest(self, number: str, limit: int) -> Ids:
        """The catalogue's items with the largest of a number attribute, largest first, ties by id; those without it
        are left out. KeyError if there is no such attribute.
        """
        if number not in self._side.numbers:
            raise KeyError(number)
        with self._lock:
            ids, slots = self._index.all()
            known = self._columns.known.take(slots)
            ids, values = ids[known], self._columns.numbers[slots[known], self._side.numbers.index(number)]
        ids, values = ids[~np.isnan(values)], values[~np.isnan(values)]
        if limit < len(ids):
            bound = np.partition(values, len(ids) - limit)[len(ids) - limit] if limit else np.inf
            ids, values = ids[values >= bound], values[values >= bound]
        found: Ids = ids[np.argsort(-values, kind="stable")[:limit]]  # ids ascend already
        return found

    @property
    def version(self) -> int:
        """Grows with each change that a reader can see."""
        with self._lock:
            return self._version

    def _number(self, time_us: int) -> int:
        """Of the tile time that t is in."""
        hop_us = self._shortest_hop_us
        if hop_us is not None:
            tile_time = time_us // hop_us, (time_us - 1) // hop_us  # longer hops are multiples of it
            if tile_time != self._tile_time:
                self._tile_time = tile_time
                self._tile_number += 1
        return self._tile_number

    def _renew(self, slots: Ints, number: int, time_us: int) -> None:
        """Evaluate the steady columns of stale items, once for a tile time."""
        columns = self._columns
        stale = slots[columns.at.take(slots) != number]
        rows, numbers = columns.rows.take(stale, axis=0), columns.numbers.take(stale, axis=0)
        gathered = self._partials.gather(rows, numbers, time_us)
        columns.steady[stale] = steady_features(self._side, gathered)
        if self._moves:
            columns.newest_us[stale], columns.recencies[stale] = gathered.newest_us, gathered.recencies
            columns.decay_values[stale], columns.decay_times[stale] = gathered.decay_values, gathered.decay_times
        columns.at[stale] = number

    def _slots(self, item_ids: Ids) -> Ints:
        """The items' slots, new ones where they have none; capacity grows by half when it is used up."""
        slots = self._index.find(item_ids)
        if slots.all():
            return slots
        with self._lock:
            slots = self._index.add(item_ids)
            self._grow(len(self._index) + 1, len(self._origins) or 1)
        return slots

    def _origin(self, partition: int) -> int:
        """The column of a partition, a new one at its place if it has none: readers add up in order of partitions."""
        place = bisect_left(self._origins, partition)
        if self._origins[place : place + 1] != [partition]:
            with self._lock:
                self._origins.insert(place, partition)
                rows = self._columns.rows
                if len(self._origins) > 1:
                    self._columns.rows = np.insert(rows, place, NONE, axis=1)
        return place

    def _grow(self, slots: int, partitions: int) -> None:
        capacity = len(self._columns.known)
        if slots > capacity:
            larger = _Columns(self._side, max(slots, capacity * 3 // 2), partitions)
            larger.take_over(self._columns)
            self._columns = larger


@brief
def _gather(
    slots: Ints, number: int, at: npt.NDArray[np.int32], steady: Features, known: npt.NDArray[np.bool_],
    category: Codes, codes: Codes, features: Features, found_known: npt.NDArray[np.bool_], found_category: Codes,
    found_codes: Codes,
) -> bool:  # fmt: skip
    """Copy what is kept at `slots` into `features` and the found ones, which may be shorter; False where an item's
    columns are not those of tile time `number`.
    """
    for row in range(len(slots)):
        slot = slots[row]
        if at[slot] != number:
            return False
        for column in range(steady.shape[1]):
            features[row, column] = steady[slot, column]
        if row < len(found_known):
            found_known[row], found_category[row] = known[slot], category[slot]
            for column in range(codes.shape[1]):
                found_codes[row, column] = codes[slot, column]
    return True


@brief
def _put_ints(item_ids: Ids, codes: Codes, chosen: Ints, id_at: int, ints: Ints) -> None:
    """Fill `ints` (n, `Layout.item_int_names`): the chosen codes in order, and the id at its place, if it has one."""
    for row in range(len(ints)):
        for column in range(len(chosen)):
            place = column if id_at == NO_PLACE or column < id_at else column + 1
            ints[row, place] = np.int64(codes[row, chosen[column]])
        if id_at != NO_PLACE:
            ints[row, id_at] = np.int64(item_ids[row])
