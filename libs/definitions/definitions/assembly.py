"""From a user, candidates and a context to the model's inputs: pure, and the same wherever features are needed."""

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from definitions.compiled import brief, inlined
from definitions.events import UNITS_PER_VALUE
from definitions.item_snapshot import ItemColumns, ItemSnapshot
from definitions.layout import Layout
from definitions.reads import NONE, Codes, Features, Floats, Ids, Ints, or_none, ratio_at, rows_of
from definitions.user_reads import user_reads
from definitions.user_values import Past, TablesAt, UserAt, is_over


@dataclass(frozen=True, slots=True)
class RequestContext:
    """Codes of the request, 0 = unknown."""

    device: int = 0
    surface: int = 0
    country: int = 0


@dataclass(frozen=True, eq=False, slots=True)
class Assembled:
    """Inputs of n candidates: `features` float32 (n, F), C-contiguous, its bytes are `Impression.features`;
    `user_ints` int64 (Ku,) once a request; `item_ints` int64 (n, Ki). No NaN.

    `tied`: the user's 16 newest events are all at or after t, so values may count some of them; count such requests.
    """

    features: Features
    user_ints: Ints
    item_ints: Ints
    tied: bool = False


def assemble(user: UserAt, items: ItemColumns, context: RequestContext) -> Assembled:
    """The model's inputs at the user's time (strict: only events before it exist).

    Raises:
        ValueError: the view of the items was not given `past_items(user)`.
    """
    if len(items.past) != sum(int(user.past.counts[history]) for history in _compared(user.layout)):
        raise ValueError("the view lacks items of the user's past; give it `past_items(user)`")
    features = np.empty((len(items), len(user.floats)), np.float32)
    _fill(
        *_reads(user.layout), user.floats, *user.past, *user.tables, user.time_us, user.last_us, user.tied,
        items.item_ids, items.category, items.features, items.past, features,
    )  # fmt: skip
    return Assembled(features, user_ints(user, context), items.ints, user.tied)


def compiled(layout: Layout) -> None:
    """Have the kernels compiled that a request of this layout needs, or loaded: not in the first request."""
    user = UserAt(layout, None, 1)
    assemble(user, ItemSnapshot(layout).view(np.ones(1, np.uint64), 1, past_items(user)), RequestContext())


def user_ints(user: UserAt, context: RequestContext) -> Ints:
    """int64 (Ku,) as `Layout.user_int_names`: the user's own, and the request's codes."""
    ints = user.ints
    for place in user.layout.context_ints:
        ints[place.start] = getattr(context, place.source)
    return ints


def past_items(user: UserAt) -> Ids | None:
    """Ids whose means `assemble` needs, for `ItemSnapshot.view`: histories that residuals read, one after the other;
    None where the layout compares with no mean.
    """
    histories = _compared(user.layout)
    if not histories:
        return None
    if len(histories) == 1:
        return user.history(histories[0])
    return np.concatenate([user.history(history) for history in histories])


class _Reads(NamedTuple):
    """Rows of numbers, one for each thing that is read; what each holds stands beside it."""

    item_positions: Ints  # of the view's columns
    tables: Ints  # position, table, ttl_us, whether it is a rate
    priors: Floats  # of each of these columns: mean, weight
    seen: Ints  # position, history
    compared: Ints  # histories, in the order of `past_items`
    residuals: Ints  # history, position by category (NONE: none), first of its rows of `newest`, one past the last
    newest: Ints  # how many of the newest, position
    past_at: Ints  # where each history begins


@lru_cache(maxsize=64)
def _reads(layout: Layout) -> _Reads:
    ends = np.cumsum([0, *(len(residual.newest) for residual in layout.residuals)]).tolist()
    priors = [(0.0, 0.0) if c.prior is None else (c.prior.mean, c.prior.weight) for c in layout.table_columns]
    return _Reads(
        item_positions=np.array(layout.item.positions, np.int64),
        tables=rows_of(
            4, ((c.position, c.table, or_none(c.ttl_us), int(c.prior is not None)) for c in layout.table_columns)
        ),
        priors=np.array(priors, np.float64).reshape(-1, 2),
        seen=rows_of(2, ((c.position, c.history) for c in layout.seen_columns)),
        compared=np.array(_compared(layout), np.int64),
        residuals=rows_of(
            4,
            (
                (r.history, or_none(r.of_category), first, end)
                for r, first, end in zip(layout.residuals, ends, ends[1:], strict=False)
            ),
        ),
        newest=rows_of(2, (each for residual in layout.residuals for each in residual.newest)),
        past_at=user_reads(layout).past_at,
    )


@lru_cache(maxsize=64)
def _compared(layout: Layout) -> tuple[int, ...]:
    return tuple(sorted({residual.history for residual in layout.residuals}))


@brief
def _fill(
    item_positions: Ints, table_columns: Ints, priors: Floats, seen: Ints, compared: Ints, residuals: Ints,
    newest: Ints, past_at: Ints, floats: Floats, past_ids: Ids, past_values: Ints, past_categories: Codes,
    past_counts: Ints, table_categories: Codes, table_weights: Floats, table_totals: Floats, table_counts: Ints,
    time_us: int, last_us: int, tied: bool, item_ids: Ids, categories: Codes, values: Features, means: Features,
    features: Features,
) -> None:  # fmt: skip
    """Every column of every candidate: by `_Reads`, of a user's `Past` and `TablesAt`, and the items' values."""
    reads = _Reads(item_positions, table_columns, priors, seen, compared, residuals, newest, past_at)
    past = Past(past_ids, past_values, past_categories, past_counts)
    tables = TablesAt(table_categories, table_weights, table_totals, table_counts)
    for row in range(len(features)):
        for column in range(len(floats)):
            features[row, column] = floats[column]
        for place in range(len(reads.item_positions)):
            features[row, reads.item_positions[place]] = values[row, place]
    _put_shares(reads, tables, (time_us, last_us, tied), categories, features)
    for i in range(len(reads.seen)):
        position, history = reads.seen[i]
        begin = reads.past_at[history]
        for row in range(len(features)):
            for place in range(begin, begin + past.counts[history]):
                if past.ids[place] == item_ids[row]:
                    features[row, position] = 1.0
                    break
    for i in range(len(reads.residuals)):
        _put_residuals(reads, i, past, means[:, i], categories, features)


@inlined
def _put_shares(
    reads: _Reads, tables: TablesAt, when: tuple[int, int, bool], categories: Codes,
    features: Features,
) -> None:  # fmt: skip
    """A candidate's category in the user's tables; that of one which is not there, as 0 (none) never is."""
    time_us, last_us, tied = when
    for i in range(len(reads.tables)):
        position, table, ttl_us, is_rate = reads.tables[i]
        mean, weight = reads.priors[i]
        n = 0 if is_over(ttl_us, time_us, last_us, tied) else tables.counts[table]
        total = tables.totals[table]
        for row in range(len(features)):
            entry = 0
            while entry < n and tables.categories[table, entry] != categories[row]:
                entry += 1
            all_ = tables.weights[table, entry, 0] if entry < n else 0.0
            if is_rate:
                positive = tables.weights[table, entry, 1] if entry < n else 0.0
                features[row, position] = ratio_at(positive, all_, 1.0, mean, weight)
            else:
                features[row, position] = all_ / total if entry < n and total > 0 else 0.0


@brief
def _put_residuals(
    reads: _Reads, index: int, past: Past, means: Features, categories: Codes,
    features: Features,
) -> None:  # fmt: skip
    """Sums run from the newest event to the oldest, as backfill's do: the same bits."""
    history, of_category, first, end = reads.residuals[index]
    begin, n, at = reads.past_at[history], past.counts[history], 0
    for place in range(len(reads.compared)):
        if reads.compared[place] < history:
            at += past.counts[reads.compared[place]]
    gaps, sums = np.empty(n), np.zeros(n + 1)
    for place in range(n):
        gaps[place] = past.values[begin + place] / UNITS_PER_VALUE - np.float64(means[at + place])
        sums[place + 1] = sums[place] + gaps[place]
    for i in range(first, end):
        last, position = reads.newest[i]
        taken = min(last, n)
        value = sums[taken] / taken if taken else 0.0
        for row in range(len(features)):
            features[row, position] = value
    if of_category == NONE:
        return
    for row in range(len(features)):
        total, alike = 0.0, 0
        if categories[row]:  # events without a category are not alike
            for place in range(n):
                if past.categories[begin + place] == categories[row]:
                    total += gaps[place]
                    alike += 1
        features[row, of_category] = total / alike if alike else 0.0
        features[row, of_category + 1] = alike
