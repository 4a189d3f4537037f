"""Point-in-time features for many queries at once: what streaming and assembly would have given, vectorised.

For a query at t exactly the events with event time < t exist. Totals and tiles are two strict as-of reads of a
cumulative column; last-k and recency read the newest matches; decayed sums and affinity tables run the kernel.
Whole numbers equal the streaming ones exactly, decayed ones to rounding.
"""

from bisect import insort
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from millrace.events.v1 import events_pb2 as pb

from definitions.attributes import main_category, read_attributes
from definitions.events import UNITS_PER_VALUE, EventColumns, micros
from definitions.item_values import Gathered, item_features, window_value
from definitions.kernel import Moment, TableState, UserFolder, UserState, decayed_add
from definitions.layout import Layout
from definitions.plan import CodeInts, Decay, History, Residual, Selector, Side, Table, WindowColumn
from definitions.tiles import NEVER, ratio
from definitions.timeline import Column, Ids, Ints, KeyReads, Matches, Timeline
from definitions.user_values import table_at

Codes = npt.NDArray[np.uint32]
T = TypeVar("T", bound=np.generic)


@dataclass(frozen=True, eq=False)
class Queries:
    """What is asked, all (n,): ids uint64, `time_us` int64, codes of the request uint32."""

    user_id: Ids
    item_id: Ids
    time_us: Ints
    device: Codes
    surface: Codes
    country: Codes

    def __len__(self) -> int:
        return len(self.user_id)

    @classmethod
    def of(cls, user_id: npt.ArrayLike, item_id: npt.ArrayLike, time_us: npt.ArrayLike) -> "Queries":
        """Queries without a context."""
        users = np.asarray(user_id, np.uint64)
        none = np.zeros(len(users), np.uint32)
        return cls(users, np.asarray(item_id, np.uint64), np.asarray(time_us, np.int64), none, none, none)


@dataclass(frozen=True, eq=False)
class Backfilled:
    """`features` float32 (n, F); `user_ints` int64 (n, Ku); `item_ints` int64 (n, Ki): columns as the layout names."""

    features: npt.NDArray[np.float32]
    user_ints: Ints
    item_ints: Ints


def backfill(
    layout: Layout,
    events: EventColumns,
    users: Mapping[int, pb.User],
    items: Mapping[int, pb.Item],
    queries: Queries,
    *,
    item_events: EventColumns | None = None,
) -> Backfilled:
    """The model's inputs of every query (strict: only events before its time exist).

    Args:
        layout: names the columns.
        events: in log order, good ones only, duplicates removed (`dedupe.first_occurrences`).
        users: attributes by id; an erased user (`deleted`) has neither attributes nor history, as online.
        items: attributes by id; those of a `deleted` one are left out.
        queries: any order.
        item_events: what the items' aggregates know, where that is not `events`: online the two end at offsets of
            their own.
    """
    erased = np.array([user_id for user_id, user in users.items() if user.deleted], np.uint64)
    theirs = events.take(~np.isin(events.user_id, erased)) if len(erased) else events
    user_side = _SideReads(layout.user, theirs, theirs.user_id, queries.user_id, queries.time_us)
    known = events if item_events is None else item_events
    item_side = _SideReads(layout.item, known, known.item_id, queries.item_id, queries.time_us)
    user_numbers, user_codes = _attributes(layout.user, users, queries.user_id)
    item_numbers, item_codes = _attributes(layout.item, items, queries.item_id)
    features = np.zeros((len(queries), len(layout.feature_names)), np.float32)
    for side, reads, numbers in ((layout.user, user_side, user_numbers), (layout.item, item_side, item_numbers)):
        if side.positions:
            features[:, side.positions] = item_features(side, reads.gathered(numbers), queries.time_us)
    histories = [user_side.history(history) for history in layout.user.histories]
    for seen in layout.seen_columns:
        past = histories[seen.history]
        features[:, seen.position] = ((past.ids == queries.item_id[:, None]) & past.there).any(axis=1)
    if layout.table_columns or layout.residuals:
        categories = _categories(layout, items, queries.item_id)
        for residual in layout.residuals:
            means = item_side.past_means(histories[residual.history], layout.item.window_columns[residual.mean])
            _put_residuals(features, residual, histories[residual.history], means, categories)
        for position, column in _table_columns(layout, user_side, queries, categories):
            features[:, position] = column
    user_ints = np.zeros((len(queries), len(layout.user_int_names)), np.int64)
    for spec in layout.history_ints:
        past = histories[spec.history]
        user_ints[:, spec.start : spec.start + spec.k] = past.ids.view(np.int64)
        user_ints[:, spec.start + spec.k : spec.start + 2 * spec.k] = past.values
    item_ints = np.zeros((len(queries), len(layout.item_int_names)), np.int64)
    _put_codes(user_ints, user_codes, layout.user_code_ints)
    _put_codes(item_ints, item_codes, layout.item_code_ints)
    if layout.item_id_int is not None:
        item_ints[:, layout.item_id_int] = queries.item_id.view(np.int64)
    for place in layout.context_ints:
        user_ints[:, place.start] = getattr(queries, place.source)
    return Backfilled(features, user_ints, item_ints)


@dataclass(frozen=True, eq=False)
class Past:
    """A history at each query, newest first, all (n, k): ids uint64, values int64 in 1e-6 units, categories int64;
    0 where it is shorter, and there `there` is false.
    """

    ids: Ids
    values: Ints
    categories: Ints
    there: npt.NDArray[np.bool_]


class _SideReads:
    """One side's events by key and time, read for every query."""

    def __init__(self, side: Side, events: EventColumns, keys: Ids, wanted: Ids, times: Ints) -> None:
        self.side = side
        self.timeline = Timeline(keys, events.event_time_us)
        order = self.timeline.order
        self.action, self.value = events.action[order], micros(events.value)[order]
        self.item_id, self.category = events.item_id[order], events.category[order]
        self._times = times
        self.reads: KeyReads = self.timeline.of(wanted)
        self.end = self.reads.before(times)

    @property
    def start(self) -> Ints:
        """Where each query's key begins."""
        return self.reads.starts

    def matching(self, selector: Selector) -> npt.NDArray[np.bool_]:
        """Which events count for a selector, (m,)."""
        found = np.zeros(len(self.action), np.bool_)
        for action, bound in selector:
            found |= (self.action == action) & (True if bound is None else self.value >= bound)
        return found

    def gathered(self, numbers: npt.NDArray[np.float64]) -> Gathered:
        """Everything that `item_features` reads, as a row of either side holds it at the query's time."""
        columns = []
        for measure in self.side.measures:
            amounts = self.value if measure.is_sum else np.ones_like(self.value)
            columns.append(Column(np.where(self.matching(measure.selector), amounts, 0)))
        decays = [self.decayed(decay, self.matching(decay.selector)) for decay in self.side.decays]
        return Gathered(
            newest_us=self.newest_us(),
            totals=_stack([column.between(self.start, self.end) for column in columns], self.end, np.int64),
            decay_values=_stack([values for values, _ in decays], self.end, np.float64),
            decay_times=_stack([times for _, times in decays], self.end, np.int64),
            recencies=_stack(
                [self._time_of_newest(Matches(self.matching(selector))) for selector in self.side.recencies],
                self.end,
                np.int64,
            ),
            numbers=numbers,
            tiles=self._tiles(columns),
        )

    def newest_us(self) -> Ints:
        """Time of each key's newest event before the query's, (n,)."""
        return self._time_of_newest(Matches(np.ones(len(self.action), np.bool_)))

    def _tiles(self, columns: Sequence[Column]) -> dict[tuple[int, int], Ints]:
        """(hop, window) -> sums (n, measures of the class)."""
        sums = {}
        for tiles in self.side.classes:
            for window_us in self.side.windows_of(tiles):
                tail = self.reads.before((self._times - window_us) // tiles.hop_us * tiles.hop_us)
                parts = [columns[measure].between(tail, self.end) for measure in tiles.measures]
                sums[tiles.hop_us, window_us] = _stack(parts, self.end, np.int64)
        return sums

    def _time_of_newest(self, matches: Matches) -> Ints:
        index, found = matches.newest(self.start, self.end)
        if not len(matches.places):
            return np.full(len(self.end), NEVER, np.int64)
        return np.where(found, self.timeline.times[matches.places[index]], NEVER)

    def decayed(self, decay: Decay, matching: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.float64], Ints]:
        """Decayed sums (n,) at the time of the newest match (n,), by the kernel's own step."""
        matches = Matches(matching)
        if not len(matches.places):
            return np.zeros(len(self.end)), np.full(len(self.end), NEVER, np.int64)
        times = self.timeline.times[matches.places]
        weights = self.value[matches.places].astype(np.float64) if decay.is_sum else np.ones(len(times))
        begins = np.diff(self.timeline.runs[matches.places], prepend=-1) != 0  # another key's first match
        sums: list[float] = []
        value, at_us = 0.0, NEVER
        for begin, time_us, weight in zip(begins.tolist(), times.tolist(), weights.tolist(), strict=True):
            if begin:
                value, at_us = 0.0, NEVER
            value, at_us = decayed_add(value, at_us, time_us, weight, decay.half_life_us)
            sums.append(value)
        index, found = matches.newest(self.start, self.end)
        return np.where(found, np.array(sums)[index], 0.0), np.where(found, times[index], NEVER)

    def past_means(self, past: Past, window: WindowColumn) -> npt.NDArray[np.float32]:
        """A window column of the items of a past, each at its query's time: float32 (n, k), 0 where there is none."""
        times = np.broadcast_to(self._times[:, None], past.ids.shape)[past.there]
        reads = self.timeline.of(past.ids[past.there])
        end = reads.before(times)

        def window_sum(index: int) -> Ints:
            spec = self.side.sums[index]
            measure = self.side.measures[spec.measure]
            amounts = self.value if measure.is_sum else np.ones_like(self.value)
            column = Column(np.where(self.matching(measure.selector), amounts, 0))
            if spec.window_us is None:
                return column.between(reads.starts, end)
            return column.between(reads.before((times - spec.window_us) // spec.hop_us * spec.hop_us), end)

        num, den = window_sum(window.num), None if window.den is None else window_sum(window.den)
        if window.ttl_us is not None:
            fresh = (end > reads.starts) & (self.timeline.times[np.maximum(end - 1, 0)] >= times - window.ttl_us)
            num, den = num * fresh, None if den is None else den * fresh
        means = np.zeros(past.ids.shape, np.float32)
        means[past.there] = window_value(window, num, den)
        return means

    def history(self, history: History) -> Past:
        """The newest k matching events of each query's key."""
        matches = Matches(self.matching(history.selector))
        ids = np.zeros((len(self.end), history.k), np.uint64)
        values = np.zeros((len(self.end), history.k), np.int64)
        categories = np.zeros((len(self.end), history.k), np.int64)
        there = np.zeros((len(self.end), history.k), np.bool_)
        if len(matches.places):
            matched_ids, matched_values = self.item_id[matches.places], self.value[matches.places]
            matched_categories = self.category[matches.places]
            for back in range(history.k):
                index, found = matches.newest(self.start, self.end, back)
                there[:, back] = found
                ids[:, back] = np.where(found, matched_ids[index], 0)
                values[:, back] = np.where(found, matched_values[index], 0)
                categories[:, back] = np.where(found, matched_categories[index], 0)
        return Past(ids, values, categories, there)


def _put_residuals(
    features: npt.NDArray[np.float32],
    residual: Residual,
    past: Past,
    means: npt.NDArray[np.float32],
    categories: Ints,
) -> None:
    """Sums run from the newest event to the oldest, as assembly's do: the same bits."""
    gaps = np.where(past.there, past.values / UNITS_PER_VALUE - means, 0.0)
    sums, held = np.cumsum(gaps, axis=1), past.there.sum(axis=1)
    for last, position in residual.newest:
        n = np.minimum(held, last)
        features[:, position] = np.divide(sums[:, last - 1], n, out=np.zeros(len(n)), where=n > 0)
    if residual.of_category is not None:
        alike = past.there & (past.categories == categories[:, None]) & (categories[:, None] != 0)
        total, n = np.cumsum(np.where(alike, gaps, 0.0), axis=1)[:, -1], alike.sum(axis=1)
        features[:, residual.of_category] = np.divide(total, n, out=np.zeros(len(n)), where=n > 0)
        features[:, residual.of_category + 1] = n


def _stack(columns: Sequence[npt.NDArray[Any]], like: Ints, dtype: type[T]) -> npt.NDArray[T]:
    """Columns (n,) side by side, (n, columns); also where there are none."""
    return np.stack(columns, axis=1) if columns else np.zeros((len(like), 0), dtype)


def _attributes(
    side: Side, entities: Mapping[int, pb.User] | Mapping[int, pb.Item], wanted: Ids
) -> tuple[npt.NDArray[np.float64], Ints]:
    """Numbers float64 (n, numbers), NaN = absent, and codes int64 (n, code columns), 0 = absent."""
    ids, place = np.unique(wanted, return_inverse=True)
    numbers = np.full((len(ids), len(side.numbers)), np.nan)
    codes = np.zeros((len(ids), side.code_width), np.int64)
    for row, entity_id in enumerate(ids.tolist()):
        entity = entities.get(entity_id)
        if entity is not None and not entity.deleted:
            numbers[row], codes[row] = read_attributes(side, entity.attributes)
    return numbers[place], codes[place]


def _put_codes(ints: Ints, codes: Ints, specs: Sequence[CodeInts]) -> None:
    for spec in specs:
        slots = spec.codes
        ints[:, spec.start : spec.start + slots.width] = codes[:, slots.start : slots.start + slots.width]


def _categories(layout: Layout, items: Mapping[int, pb.Item], wanted: Ids) -> Ints:
    """Main category code of each candidate, 0 where it has none."""
    ids, place = np.unique(wanted, return_inverse=True)
    found = [items.get(item_id) for item_id in ids.tolist()]
    codes = [0 if item is None or item.deleted else main_category(layout.usecase, item) for item in found]
    return np.array(codes, np.int64)[place]


def _table_columns(
    layout: Layout, user: _SideReads, queries: Queries, categories: Ints
) -> Iterator[tuple[int, npt.NDArray[np.float64]]]:
    """(position, values (n,)) of every column that reads an affinity table for the candidate's category."""
    weights, positives = _replay_tables(layout, user, queries, categories)
    newest_us = user.newest_us()
    for column in layout.table_columns:
        weight, positive = weights[column.table], positives[column.table]
        expired = None if column.ttl_us is None else newest_us < queries.time_us - column.ttl_us
        if expired is not None:
            weight, positive = np.where(expired, 0.0, weight), np.where(expired, 0.0, positive)
        if column.prior is not None:
            yield column.position, ratio(positive, weight, 1.0, column.prior.mean, column.prior.weight)
            continue
        total = _table_total(layout.user.tables[column.table], user, queries.time_us)
        yield column.position, np.divide(weight, total, out=np.zeros(len(total)), where=total > 0)


def _table_total(table: Table, user: _SideReads, times: Ints) -> npt.NDArray[np.float64]:
    """A table's total weight at each query's time: a decayed count of the matching events that have a category."""
    decay = Decay(table.selector, is_sum=False, half_life_us=table.half_life_us)
    values, at_us = user.decayed(decay, user.matching(table.selector) & (user.category != 0))
    age_us = np.where(at_us == NEVER, 0, times - np.maximum(at_us, NEVER // 2))
    return np.asarray(values * np.exp2(-age_us / table.half_life_us))


def _replay_tables(
    layout: Layout, user: _SideReads, queries: Queries, categories: Ints
) -> tuple[list[npt.NDArray[np.float64]], list[npt.NDArray[np.float64]]]:
    """For each table, weight and positive weight (n,) of the candidate's category.

    The kernel itself folds each user's events; queries are taken by time, so that each event is folded about once.
    """
    replay = _TableReplay(layout, user)
    weights = [np.zeros(len(queries)) for _ in layout.user.tables]
    positives = [np.zeros(len(queries)) for _ in layout.user.tables]
    asked = np.flatnonzero((categories != 0) & (user.end > user.start))
    order = asked[np.lexsort((user.end[asked], user.start[asked]))]
    columns = (order, user.start[order], user.end[order], queries.time_us[order], categories[order])
    for query, start, end, time_us, category in zip(*(column.tolist() for column in columns), strict=True):
        state = replay.up_to(start, end)
        for index, (table, older) in enumerate(zip(layout.user.tables, state.tables, strict=True)):
            weight, positive = _entry(table, older, state.block, category, time_us)
            weights[index][query], positives[index][query] = weight, positive
    return weights, positives


class _TableReplay:
    """Folds one user after the other with the streaming kernel, tables only.

    Which categories a full table still holds depends on the order of its events, so users whose tables can overflow
    are folded in log order: a base of all events up to the first that a query must not see, and on a copy of it the
    few that came late. All others are folded by time, which differs in rounding only.
    """

    def __init__(self, layout: Layout, user: _SideReads) -> None:
        nothing: dict[str, Any] = dict.fromkeys(
            ("measures", "classes", "decays", "recencies", "histories", "sums", "window_columns"), ()
        )
        self._side = replace(layout.user, **nothing)
        self._folder = UserFolder(self._side, len(layout.usecase.actions))
        columns = (user.timeline.times, user.item_id, user.action, user.value, user.category)
        self._moments = list(map(Moment, *(column.tolist() for column in columns)))
        self._ranks: list[int] = _ranks(layout.user, user).tolist()
        self._start = self._seen = -1
        self._next = 0  # rank of the event that the base lacks
        self._late: list[tuple[int, int]] = []  # rank and place of events that are seen, but not in the base
        self._base = UserState(self._side)

    def up_to(self, start: int, end: int) -> UserState:
        """The state after the events at places start <= p < end; `end` must not fall while `start` stays."""
        if start != self._start:
            self._begin(start)
        base, fold = self._base, self._folder.fold
        for place in range(self._seen, end):
            insort(self._late, (self._ranks[place], place))
        self._seen = end
        while self._late and self._late[0][0] == self._next:
            fold(base, self._moments[self._late.pop(0)[1]])
            self._next += 1
        if not self._late:
            return base
        state = self._copy(base)
        for _, place in self._late:
            fold(state, self._moments[place])
        return state

    def _begin(self, start: int) -> None:
        self._start = self._seen = start
        self._next = 0
        self._late.clear()
        self._base = UserState(self._side)

    def _copy(self, base: UserState) -> UserState:
        state = UserState(self._side)
        state.newest_us, state.block = base.newest_us, base.block.copy()
        for mine, theirs in zip(state.tables, base.tables, strict=True):
            mine.total, mine.time_us, mine.entries = theirs.total, theirs.time_us, theirs.entries.copy()
        return state


def _ranks(side: Side, user: _SideReads) -> Ints:
    """In which order a user's events are folded, from 0, (m,): by log where a table can overflow, else by time."""
    runs, places = user.timeline.runs, np.arange(len(user.timeline.runs))
    overflows = np.zeros(int(runs[-1]) + 1 if len(runs) else 0, np.bool_)
    for table in side.tables:
        counted = user.matching(table.selector) & (user.category != 0)
        pairs = np.unique(np.stack([runs[counted], user.category[counted].astype(np.int64)]), axis=1)
        overflows |= np.bincount(pairs[0], minlength=len(overflows)) > table.k
    by_log = np.lexsort((user.timeline.order, runs))
    starts = np.searchsorted(runs, runs)
    ranks = places - starts
    in_log = np.empty_like(ranks)
    in_log[by_log] = ranks  # runs are contiguous, so place i of the sorted log has rank i - start
    return np.where(overflows[runs], in_log, ranks)


def _entry(
    table: Table, older: TableState, block: Sequence[Moment], category: int, time_us: int
) -> tuple[float, float]:
    """One category's weight and positive weight at t: what the table holds of it, and the newest events."""
    newer = [moment for moment in block if moment.category == category]
    held = older.entries.get(category)
    if held is None and not newer:
        return 0.0, 0.0
    alone = TableState()
    if held is not None:
        alone.entries[category] = held
    return table_at(table, alone, newer, time_us).entries.get(category, (0.0, 0.0))
