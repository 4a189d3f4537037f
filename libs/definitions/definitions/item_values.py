"""Items' values at time t, vectorised over items: the gateway's snapshot and backfill evaluate by this one function."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from definitions.compiled import brief, inlined
from definitions.plan import Side, WindowColumn
from definitions.reads import (
    NONE,
    SECOND_US,
    Features,
    Floats,
    Ints,
    columns_of,
    decayed_at,
    or_none,
    ratio_at,
    rows_of,
    scales_of,
)
from definitions.tiles import NEVER, ratio


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
    times = np.array([time_us]) if isinstance(time_us, int) else time_us
    kept = Moving(items.newest_us, items.decay_values, items.decay_times, items.recencies)
    put_moving(*item_moves(side), *kept, np.arange(len(features)), times, features)


class Moving(NamedTuple):
    """Of each item what `put_moving` reads, as in `Gathered`."""

    newest_us: Ints
    decay_values: Floats
    decay_times: Ints
    recencies: Ints


class ItemMoves(NamedTuple):
    """Rows of numbers, one for each column that moves; places are among the item's columns."""

    expiring: Ints  # place, ttl_us
    nothing: Floats  # what an expired one has
    decayed: Ints  # place, numerator's decay, denominator's, ttl_us
    scales: Floats  # of each decayed one: scale, prior mean, prior weight
    half_lives: Floats  # of each decay, in us
    recencies: Ints  # place, recency, cap_us, ttl_us


@lru_cache(maxsize=64)
def item_moves(side: Side) -> ItemMoves:
    """The arrays of an item side."""
    place = side.places
    expiring = [window for window in side.window_columns if window.ttl_us is not None]
    decayed = columns_of(side.decayed_columns)
    decayed[:, 0] = [place[column.position] for column in side.decayed_columns]
    return ItemMoves(
        expiring=rows_of(2, ((place[window.position], or_none(window.ttl_us)) for window in expiring)),
        nothing=np.array(
            [
                0.0 if window.den is None else ratio(0.0, 0.0, window.scale, window.prior.mean, window.prior.weight)
                for window in expiring
            ],
            np.float64,
        ),
        decayed=decayed,
        scales=scales_of(side.decayed_columns),
        half_lives=np.array([decay.half_life_us for decay in side.decays], np.float64),
        recencies=rows_of(
            4, ((place[r.position], r.recency, r.cap_us, or_none(r.ttl_us)) for r in side.recency_columns)
        ),
    )


@brief
def put_moving(
    expiring: Ints, nothing: Floats, decayed: Ints, scales: Floats, half_lives: Floats, recency_columns: Ints,
    newest_us: Ints, decay_values: Floats, decay_times: Ints, recencies: Ints, slots: Ints, times: Ints,
    features: Features,
) -> None:  # fmt: skip
    """`move_features` of the items whose values stand at `slots`, by an `ItemMoves` and a `Moving`; `times` int64, one
    for all or one for each row.

    Items have no block, so an event at or after t counts as if it were now.
    """
    moves = ItemMoves(expiring, nothing, decayed, scales, half_lives, recency_columns)
    kept = Moving(newest_us, decay_values, decay_times, recencies)
    for row in range(len(slots)):
        slot, time_us = slots[row], times[row if len(times) > 1 else 0]
        for i in range(len(moves.expiring)):
            if not _is_fresh(moves.expiring[i, 1], time_us, kept.newest_us[slot]):
                features[row, moves.expiring[i, 0]] = moves.nothing[i]
        for i in range(len(moves.decayed)):
            place, num, den, ttl_us = moves.decayed[i]
            scale, mean, prior = moves.scales[i]
            fresh = 1.0 if _is_fresh(ttl_us, time_us, kept.newest_us[slot]) else 0.0
            above = fresh * _decayed(moves, kept, slot, num, time_us)
            if den == NONE:
                features[row, place] = above / scale
            else:
                below = fresh * _decayed(moves, kept, slot, den, time_us)
                features[row, place] = ratio_at(above, below, scale, mean, prior)
        for i in range(len(moves.recencies)):
            place, recency, cap_us, ttl_us = moves.recencies[i]
            age_us = max(time_us - max(kept.recencies[slot, recency], time_us - cap_us), 0)
            if not _is_fresh(ttl_us, time_us, kept.newest_us[slot]):
                age_us = cap_us
            features[row, place] = age_us / SECOND_US


@inlined
def _decayed(moves: ItemMoves, kept: Moving, slot: int, decay: int, time_us: int) -> float:
    """A time that has not been has a value of 0, whose age does not matter."""
    at_us = max(kept.decay_times[slot, decay], NEVER // 2)
    return decayed_at(kept.decay_values[slot, decay], time_us - at_us, moves.half_lives[decay])


@inlined
def _is_fresh(ttl_us: int, time_us: int, newest_us: int) -> bool:
    return ttl_us == NONE or newest_us >= time_us - ttl_us


def _sum(side: Side, items: Gathered, index: int) -> npt.NDArray[np.int64]:
    spec = side.sums[index]
    if spec.window_us is None:
        return items.totals[:, spec.measure]
    return items.tiles[spec.hop_us, spec.window_us][:, side.place_in_class(spec)]
