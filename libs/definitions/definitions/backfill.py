"""Point-in-time features for many queries at once: what streaming and assembly would have given, vectorised.

For a query at t exactly the events with event time < t exist. Totals and tiles are two strict as-of reads of a
cumulative column; last-k and recency read the newest matches; affinity tables are folded as the stream folds them.
Whole numbers equal the streaming ones exactly, decayed ones to rounding.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
from millrace.events.v1 import events_pb2 as pb

from definitions.as_of import Past, SideReads, residuals
from definitions.attributes import main_category, read_attributes
from definitions.events import EventColumns
from definitions.item_values import item_features
from definitions.layout import Layout
from definitions.plan import CodeInts, Decay, Residual, Side, Table
from definitions.table_replay import TableEvents, TableQueries, replay_table
from definitions.tiles import NEVER, ratio
from definitions.timeline import Ids, Ints

Codes = npt.NDArray[np.uint32]
_MIX = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio: consecutive ids fall into all buckets alike


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

    def take(self, rows: Ints) -> "Queries":
        """The queries at some places, in their order."""
        return Queries(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

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
    user_side = SideReads(layout.user, theirs, theirs.user_id, queries.user_id, queries.time_us)
    known = events if item_events is None else item_events
    item_side = SideReads(layout.item, known, known.item_id, queries.item_id, queries.time_us)
    user_numbers, user_codes = _attributes(layout.user, users, queries.user_id)
    item_numbers, item_codes = _attributes(layout.item, items, queries.item_id)
    features = np.zeros((len(queries), len(layout.feature_names)), np.float32)
    for side, reads, numbers in ((layout.user, user_side, user_numbers), (layout.item, item_side, item_numbers)):
        if side.positions:
            features[:, side.positions] = item_features(side, reads.gathered(numbers), queries.time_us)
    user_ints = np.zeros((len(queries), len(layout.user_int_names)), np.int64)
    histories = []
    for spec in layout.history_ints:  # written where they belong: they are most of what a query gives
        ids, values = user_ints[:, spec.start : spec.start + spec.k], user_ints[:, spec.start + spec.k :][:, : spec.k]
        histories.append(user_side.history(layout.user.histories[spec.history], ids.view(np.uint64), values))
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
    item_ints = np.zeros((len(queries), len(layout.item_int_names)), np.int64)
    _put_codes(user_ints, user_codes, layout.user_code_ints)
    _put_codes(item_ints, item_codes, layout.item_code_ints)
    if layout.item_id_int is not None:
        item_ints[:, layout.item_id_int] = queries.item_id.view(np.int64)
    for place in layout.context_ints:
        user_ints[:, place.start] = getattr(queries, place.source)
    return Backfilled(features, user_ints, item_ints)


def backfill_bucket(
    layout: Layout,
    events: EventColumns,
    users: Mapping[int, pb.User],
    items: Mapping[int, pb.Item],
    queries: Queries,
    bucket: int,
    buckets: int,
) -> tuple[Ints, Backfilled]:
    """The same for the queries of one bucket of users, and their places among all: `backfill` in parts.

    Users of a bucket need their own events only; items are counted by everybody, so a part reads all events for them.
    """
    rows = np.flatnonzero(bucket_of(queries.user_id, buckets) == bucket)
    theirs = events.take(bucket_of(events.user_id, buckets) == bucket)
    return rows, backfill(layout, theirs, users, items, queries.take(rows), item_events=events)


def bucket_of(user_id: Ids, buckets: int) -> Ints:
    """Bucket of each user, (n,): from 0 to `buckets` - 1, alike in size whatever the ids are."""
    return ((user_id * _MIX >> np.uint64(32)) % np.uint64(buckets)).astype(np.int64)


def _put_residuals(
    features: npt.NDArray[np.float32],
    residual: Residual,
    past: Past,
    means: npt.NDArray[np.float32],
    categories: Ints,
) -> None:
    lasts = np.array([last for last, _ in residual.newest], np.int64)
    found = residuals(past, means, categories, lasts)
    for column, (_, position) in enumerate(residual.newest):
        features[:, position] = found[:, column]
    if residual.of_category is not None:
        features[:, residual.of_category] = found[:, -2]
        features[:, residual.of_category + 1] = found[:, -1]


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
    layout: Layout, user: SideReads, queries: Queries, categories: Ints
) -> Iterator[tuple[int, npt.NDArray[np.float64]]]:
    """(position, values (n,)) of every column that reads an affinity table for the candidate's category."""
    asked = TableQueries(user.start, user.end, queries.time_us, categories)
    weights = [_replayed(table, user, asked) for table in layout.user.tables]
    newest_us = user.newest_us()
    for column in layout.table_columns:
        weight, positive = weights[column.table]
        expired = None if column.ttl_us is None else newest_us < queries.time_us - column.ttl_us
        if expired is not None:
            weight, positive = np.where(expired, 0.0, weight), np.where(expired, 0.0, positive)
        if column.prior is not None:
            yield column.position, ratio(positive, weight, 1.0, column.prior.mean, column.prior.weight)
            continue
        total = _table_total(layout.user.tables[column.table], user, queries.time_us)
        yield column.position, np.divide(weight, total, out=np.zeros(len(total)), where=total > 0)


def _replayed(table: Table, user: SideReads, asked: TableQueries) -> tuple[npt.NDArray[np.float64], ...]:
    counted, positive = user.matching(table.selector), user.matching(table.positive)
    events = TableEvents(user.timeline, user.category.astype(np.int64), counted, positive)
    return replay_table(events, asked, table.k, table.half_life_us)


def _table_total(table: Table, user: SideReads, times: Ints) -> npt.NDArray[np.float64]:
    """A table's total weight at each query's time: a decayed count of the matching events that have a category."""
    decay = Decay(table.selector, is_sum=False, half_life_us=table.half_life_us)
    values, at_us = user.decayed(decay, user.matching(table.selector) & (user.category != 0))
    age_us = np.where(at_us == NEVER, 0, times - np.maximum(at_us, NEVER // 2))
    return np.asarray(values * np.exp2(-age_us / table.half_life_us))
