"""Items' values at time t, vectorised over items: the gateway's snapshot and backfill evaluate by this one function."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from definitions.plan import Side, WindowColumn
from definitions.tiles import NEVER, ratio

_SECOND_US = 1e6


@dataclass(frozen=True, eq=False)
class Gathered:
    """Aggregates of n items. `tiles`: (hop, window) -> int64 (n, measures of that hop's class), summed over the window.

    Totals int64 (n, measures); decayed values float64 and their times int64 (n, decays); recencies int64
    (n, recencies); numbers float64 (n, numbers), NaN = absent; `newest_us` int64 (n,). A time that has not been is
    `NEVER`.
    """

    newest_us: npt.NDArray[np.int64]
    totals: npt.NDArray[np.int64]
    decay_values: npt.NDArray[np.float64]
    decay_times: npt.NDArray[np.int64]
    recencies: npt.NDArray[np.int64]
    numbers: npt.NDArray[np.float64]
    tiles: Mapping[tuple[int, int], npt.NDArray[np.int64]]


def item_features(side: Side, items: Gathered, time_us: int | npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """float32 (n, item columns in layout order), no NaN. `time_us`: one time, or int64 (n,) one for each row."""
    features = steady_features(side, items)
    move_features(side, items, time_us, features)
    return features


def window_value(
    window: WindowColumn, num: npt.NDArray[np.int64], den: npt.NDArray[np.int64] | None
) -> npt.NDArray[np.float64]:
    """count, sum, mean or rate (n,) of a window's sums (n,)."""
    if den is None:
        return num / window.scale
    return ratio(num, den, window.scale, window.prior.mean, window.prior.weight)


def moves(side: Side) -> bool:
    """Does any column change between one tile and the next, with no event."""
    expires = any(window.ttl_us is not None for window in side.window_columns)
    return expires or bool(side.decayed_columns or side.recency_columns)


def steady_features(side: Side, items: Gathered) -> npt.NDArray[np.float32]:
    """float32 (n, item columns) as far as they depend on sums and attributes alone; `move_features` does the rest."""
    place = side.places
    features = np.empty((len(items.newest_us), len(place)), np.float32)
    sums = [_sum(side, items, index) for index in range(len(side.sums))]
    for window in side.window_columns:
        num, den = sums[window.num], None if window.den is None else sums[window.den]
        features[:, place[window.position]] = window_value(window, num, den)
    for number in side.number_columns:
        values = items.numbers[:, number.number]
        features[:, place[number.position]] = np.where(np.isnan(values), number.default, values)
    return features


def move_features(
    side: Side, items: Gathered, time_us: int | npt.NDArray[np.int64], features: npt.NDArray[np.float32]
) -> None:
    """Write into `features` what time alone changes: decayed values, recencies, and windows that have expired.

    Reads of `items` neither totals nor tiles nor numbers.
    """
    place = side.places
    for window in side.window_columns:
        if window.ttl_us is not None:
            prior = window.prior
            nothing = 0.0 if window.den is None else ratio(0.0, 0.0, window.scale, prior.mean, prior.weight)
            features[~_fresh(items, time_us, window.ttl_us), place[window.position]] = nothing
    if side.decayed_columns:
        decays = _decays(side, items, time_us)
    for column in side.decayed_columns:
        weight, weights = decays[:, column.num], None if column.den is None else decays[:, column.den]
        if column.ttl_us is not None:
            fresh = _fresh(items, time_us, column.ttl_us)
            weight, weights = weight * fresh, None if weights is None else weights * fresh
        features[:, place[column.position]] = (
            weight / column.scale
            if weights is None
            else ratio(weight, weights, column.scale, column.prior.mean, column.prior.weight)
        )
    for recency in side.recency_columns:
        newest_us = items.recencies[:, recency.recency]
        age_us = np.maximum(time_us - np.maximum(newest_us, time_us - recency.cap_us), 0)
        if recency.ttl_us is not None:
            age_us = np.where(_fresh(items, time_us, recency.ttl_us), age_us, recency.cap_us)
        features[:, place[recency.position]] = age_us / _SECOND_US


def _sum(side: Side, items: Gathered, index: int) -> npt.NDArray[np.int64]:
    spec = side.sums[index]
    if spec.window_us is None:
        return items.totals[:, spec.measure]
    return items.tiles[spec.hop_us, spec.window_us][:, side.place_in_class(spec)]


def _decays(side: Side, items: Gathered, time_us: int | npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Values at t (n, decays); items have no block, so an event at or after t counts as if it were now.

    A time that has not been has a value of 0, whose age does not matter.
    """
    half_lives = np.array([decay.half_life_us for decay in side.decays], np.float64)
    at = time_us if isinstance(time_us, int) else time_us[:, None]
    ages_us = np.maximum(at - np.maximum(items.decay_times, NEVER // 2), 0)
    return np.asarray(items.decay_values * np.exp2(-ages_us / half_lives))


def _fresh(items: Gathered, time_us: int | npt.NDArray[np.int64], ttl_us: int) -> npt.NDArray[np.bool_]:
    return np.asarray(items.newest_us >= time_us - ttl_us)
