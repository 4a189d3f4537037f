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
        ids = set(user.history(seen.history)[0])
        features[:, seen.position] = [item_id in ids for item_id in items.item_ids.tolist()]
    for index, residual in enumerate(layout.residuals):
        _put_residuals(features, residual, user, items, index)
    return Assembled(features, user_ints(layout, user, context), items.ints, user.tied)


def user_ints(layout: Layout, user: UserAt, context: RequestContext) -> npt.NDArray[np.int64]:
    """int64 (Ku,) as `Layout.user_int_names`: last-k ids (the uint64 bits) and values, user and context codes."""
    ints = np.zeros(len(layout.user_int_names), np.int64)
    for spec in layout.history_ints:
        ids, values, _ = user.history(spec.history)
        if ids:
            ints[spec.start : spec.start + len(ids)] = np.array(ids, np.uint64).view(np.int64)
            ints[spec.start + spec.k : spec.start + spec.k + len(values)] = values
    codes = user.codes()
    for code in layout.user_code_ints:
        slots = code.codes
        ints[code.start : code.start + slots.width] = codes[slots.start : slots.start + slots.width]
    for place in layout.context_ints:
        ints[place.start] = getattr(context, place.source)
    return ints


def past_items(layout: Layout, row: UserView | None) -> npt.NDArray[np.uint64] | None:
    """Ids whose means `assemble` may need, for `ItemSnapshot.view`; None where the layout compares with no mean."""
    if row is None or not layout.residuals:
        return None
    ids = {moment.item_id for moment in row.block}
    for history in {residual.history for residual in layout.residuals}:
        ids.update(row.history(history)[1])
    return np.array(sorted(ids), np.uint64)


def _put_residuals(
    features: npt.NDArray[np.float32], residual: Residual, user: UserAt, items: ItemColumns, index: int
) -> None:
    """Sums run from the newest event to the oldest, as backfill's do: the same bits."""
    ids, values, categories = user.history(residual.history)
    means = items.past_means(np.array(ids, np.uint64), index)
    gaps = np.array(values, np.int64) / UNITS_PER_VALUE - means
    sums = np.concatenate([[0.0], np.cumsum(gaps)])
    for last, position in residual.newest:
        n = min(last, len(ids))
        features[:, position] = sums[n] / n if n else 0.0
    if residual.of_category is not None:
        by_category: dict[int, tuple[float, int]] = {}
        for category, gap in zip(categories, gaps.tolist(), strict=True):
            total, n = by_category.get(category, (0.0, 0))
            by_category[category] = total + gap, n + 1
        by_category.pop(0, None)  # events without a category are not alike
        found = [by_category.get(category, (0.0, 0)) for category in items.category.tolist()]
        features[:, residual.of_category] = [total / n if n else 0.0 for total, n in found]
        features[:, residual.of_category + 1] = [n for _, n in found]


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
