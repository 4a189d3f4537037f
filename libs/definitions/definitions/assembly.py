"""From a user, candidates and a context to the model's inputs: pure, and the same wherever features are needed."""

from dataclasses import dataclass
from functools import lru_cache
from itertools import repeat

import numpy as np
import numpy.typing as npt

from definitions.events import UNITS_PER_VALUE
from definitions.item_snapshot import ItemColumns
from definitions.layout import Layout
from definitions.plan import Residual, Side, TableColumn
from definitions.tiles import ratio_of
from definitions.user_values import UserAt, UserView


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

    features: npt.NDArray[np.float32]
    user_ints: npt.NDArray[np.int64]
    item_ints: npt.NDArray[np.int64]
    tied: bool = False


def assemble(
    layout: Layout, row: UserView | None, items: ItemColumns, context: RequestContext, time_us: int
) -> Assembled:
    """The model's inputs at `time_us` (strict: only events before it exist). Row None: a user without history."""
    user = UserAt(layout, row, time_us)
    request = [0.0] * len(layout.feature_names)
    user.write_floats(request)
    features = np.empty((len(items), len(request)), np.float32)
    features[:] = np.array(request, np.float32)
    for mine, theirs in _runs(layout.item):
        features[:, mine] = items.features[:, theirs]
    if layout.table_columns:
        categories = items.category.tolist()
        for column in layout.table_columns:
            by_category, absent = _by_category(user, column)
            values = map(by_category.get, categories, repeat(absent))
            features[:, column.position] = np.fromiter(values, np.float32, len(categories))
    for seen in layout.seen_columns:
        past = user.history(seen.history).item_ids
        features[:, seen.position] = (items.item_ids[:, None] == past).any(axis=1)
    for index, residual in enumerate(layout.residuals):
        _put_residuals(features, residual, user, items, index)
    return Assembled(features, user_ints(layout, user, context), items.ints, user.tied)


def user_ints(layout: Layout, user: UserAt, context: RequestContext) -> npt.NDArray[np.int64]:
    """int64 (Ku,) as `Layout.user_int_names`: last-k ids (the uint64 bits) and values, user and context codes."""
    ints = np.zeros(len(layout.user_int_names), np.int64)
    for spec in layout.history_ints:
        past = user.history(spec.history)
        n = len(past.item_ids)
        ints[spec.start : spec.start + n] = past.item_ids.view(np.int64)
        ints[spec.start + spec.k : spec.start + spec.k + n] = past.values
    codes = user.codes()
    for code in layout.user_code_ints:
        slots = code.codes
        ints[code.start : code.start + slots.width] = codes[slots.start : slots.start + slots.width]
    for place in layout.context_ints:
        ints[place.start] = getattr(context, place.source)
    return ints


def past_items(layout: Layout, row: UserView | None) -> npt.NDArray[np.uint64] | None:
    """Ids whose means `assemble` may need, for `ItemSnapshot.view`, ascending, some of them twice; None where the
    layout compares with no mean.
    """
    if row is None or not layout.residuals:
        return None
    parts = [np.array([moment.item_id for moment in row.block], np.uint64)]
    parts += [np.asarray(row.history(index)[1], np.uint64) for index in {r.history for r in layout.residuals}]
    ids = np.concatenate(parts)
    ids.sort()
    return ids


def _put_residuals(
    features: npt.NDArray[np.float32], residual: Residual, user: UserAt, items: ItemColumns, index: int
) -> None:
    """Sums run from the newest event to the oldest, as backfill's do: the same bits."""
    past = user.history(residual.history)
    gaps = past.values / UNITS_PER_VALUE - items.past_means(past.item_ids, index)
    sums = [0.0, *gaps.cumsum().tolist()]
    for last, position in residual.newest:
        n = min(last, len(gaps))
        features[:, position] = sums[n] / n if n else 0.0
    if residual.of_category is not None:
        totals, counts = dict[int, float](), dict[int, int]()
        for category, gap in zip(past.categories.tolist(), gaps.tolist(), strict=True):
            if category:  # events without a category are not alike
                totals[category] = totals.get(category, 0.0) + gap
                counts[category] = counts.get(category, 0) + 1
        means = {category: total / counts[category] for category, total in totals.items()}
        wanted, n = items.category.tolist(), len(items)
        features[:, residual.of_category] = np.fromiter(map(means.get, wanted, repeat(0.0)), np.float32, n)
        features[:, residual.of_category + 1] = np.fromiter(map(counts.get, wanted, repeat(0)), np.float32, n)


def _by_category(user: UserAt, column: TableColumn) -> tuple[dict[int, float], float]:
    """Category -> share or rate, and that of a category which is not in the table, as 0 (none) never is."""
    table = user.table(column.table, column.ttl_us)
    prior = column.prior
    if prior is None:
        total = table.total
        shares = {code: weight / total for code, (weight, _) in table.entries.items()} if total > 0 else {}
        return shares, 0.0
    mean, weight = prior.mean, prior.weight
    rates = {code: ratio_of(positive, all_, 1.0, mean, weight) for code, (all_, positive) in table.entries.items()}
    return rates, ratio_of(0.0, 0.0, 1.0, mean, weight)


@lru_cache(maxsize=64)
def _runs(side: Side) -> tuple[tuple[slice, slice], ...]:
    """Runs of neighbouring positions among the layout's columns, and their places among the side's: slices are copied
    at a fifth of the cost of a list of positions.
    """
    runs: list[tuple[slice, slice]] = []
    for place, position in enumerate(side.positions):
        if runs and runs[-1][0].stop == position:
            mine, theirs = runs.pop()
            runs.append((slice(mine.start, position + 1), slice(theirs.start, place + 1)))
        else:
            runs.append((slice(position, position + 1), slice(place, place + 1)))
    return tuple(runs)
