"""Affinity tables as of many queries: each user's events folded as the stream folds them, compiled.

Which categories a full table still holds depends on the order of its events. So users whose table can overflow are
folded in log order: a base of all events up to the first that a query must not see, and on a copy of it the few that
came late. All others are folded by time, which differs in rounding only.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from definitions.compiled import inlined, kernel
from definitions.plan import BLOCK
from definitions.timeline import Ints, Timeline

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class TableEvents:
    """Users' events at the places of a timeline: category codes int64 (m,), and which of them (m,) a table counts, and
    counts as positive. An event without a category counts nowhere."""

    timeline: Timeline
    category: Ints
    counted: Mask
    positive: Mask


@dataclass(frozen=True, eq=False)
class TableQueries:
    """Per query (n,): its user's places `starts` <= p < `ends` before its time, the time, the category asked for."""

    starts: Ints
    ends: Ints
    time_us: Ints
    category: Ints


def replay_table(events: TableEvents, queries: TableQueries, k: int, half_life_us: int) -> tuple[Floats, Floats]:
    """Weight and positive weight of the asked category at each query's time, float64 (n,) both."""
    timeline = events.timeline
    by_log = _overflowing(events, k)
    asked = np.flatnonzero((queries.category != 0) & (queries.ends > queries.starts))
    order = asked[np.lexsort((queries.ends[asked], queries.starts[asked]))]
    weight, positive = np.zeros(len(queries.starts)), np.zeros(len(queries.starts))
    _replay(
        (timeline.starts, timeline.order, timeline.times, timeline.runs, by_log),
        (events.category, events.counted & (events.category != 0), events.positive),
        (order, queries.starts, queries.ends, queries.time_us, queries.category),
        k, float(half_life_us), weight, positive,
    )  # fmt: skip
    return weight, positive


def _overflowing(events: TableEvents, k: int) -> Mask:
    """Which keys (by number) have more categories than a table holds."""
    counted = events.counted & (events.category != 0)
    pairs = np.unique(
        (events.timeline.runs[counted].astype(np.uint64) << 32) | events.category[counted].astype(np.uint64)
    )
    return np.bincount((pairs >> np.uint64(32)).astype(np.int64), minlength=len(events.timeline.starts) - 1) > k


@inlined
def _left(age_us: int, half_life_us: float) -> float:
    """What is left of a weight of 1; of a negative age all."""
    return 2.0 ** (-age_us / half_life_us) if age_us > 0 else 1.0


@inlined
def _fold(
    state: Ints, times: Ints, codes: Ints, weights: Floats, block: Ints, events: tuple[Ints, Ints, Mask, Mask],
    place: int, k: int, half_life_us: float,
) -> None:  # fmt: skip
    """Fold the event at a place: into the block, and what leaves the block into the table.

    `state`: entries, newest time of the table, events of the block. `times`, `codes` (k,) and `weights` (k, 2) are the
    table, `block` (17,) places ascending in time and fold order.
    """
    event_times, category, counted, positive = events
    n = state[2]
    at = n
    while at > 0 and event_times[block[at - 1]] > event_times[place]:
        block[at] = block[at - 1]
        at -= 1
    block[at] = place
    state[2] = n + 1
    if n < BLOCK:
        return
    oldest = block[0]
    for i in range(BLOCK):
        block[i] = block[i + 1]
    state[2] = BLOCK
    if not counted[oldest]:
        return
    time_us = event_times[oldest]
    state[1] = max(state[1], time_us)
    code, liked = category[oldest], 1.0 if positive[oldest] else 0.0
    for i in range(state[0]):
        if codes[i] == code:
            if time_us >= times[i]:
                left = _left(time_us - times[i], half_life_us)
                weights[i, 0], weights[i, 1] = weights[i, 0] * left + 1.0, weights[i, 1] * left + liked
                times[i] = time_us
            else:
                left = _left(times[i] - time_us, half_life_us)
                weights[i, 0] += left
                weights[i, 1] += liked * left
            return
    free = state[0]
    if free < k:
        state[0] += 1
    else:  # the weakest makes room; of equals the smallest code
        free, least = 0, np.inf
        for i in range(k):
            weight = weights[i, 0] * _left(state[1] - times[i], half_life_us)
            if weight < least or (weight == least and codes[i] < codes[free]):
                free, least = i, weight
    codes[free], times[free], weights[free, 0], weights[free, 1] = code, time_us, 1.0, liked


@inlined
def _weight_at(
    state: Ints, times: Ints, codes: Ints, weights: Floats, block: Ints, events: tuple[Ints, Ints, Mask, Mask],
    code: int, time_us: int, half_life_us: float,
) -> tuple[float, float]:  # fmt: skip
    """Weight and positive weight of a category at a time after all that was folded."""
    event_times, category, counted, positive = events
    weight, liked = 0.0, 0.0
    for i in range(state[0]):
        if codes[i] == code:
            left = _left(time_us - times[i], half_life_us)
            weight, liked = weights[i, 0] * left, weights[i, 1] * left
    for i in range(state[2]):
        place = block[i]
        if counted[place] and category[place] == code:
            left = _left(time_us - event_times[place], half_life_us)
            weight += left
            if positive[place]:
                liked += left
    return weight, liked


@kernel
def _replay(
    places: tuple[Ints, Ints, Ints, Ints, Mask],
    kept: tuple[Ints, Mask, Mask],
    queries: tuple[Ints, Ints, Ints, Ints, Ints],
    k: int,
    half_life_us: float,
    weight: Floats,
    positive: Floats,
) -> None:
    """Queries in `order`: by user, then by how many events they see."""
    starts, log_order, event_times, runs, by_log = places
    events = (event_times, kept[0], kept[1], kept[2])
    order, query_starts, query_ends, query_times, query_codes = queries
    state, times, codes = np.zeros(3, np.int64), np.zeros(k, np.int64), np.zeros(k, np.int64)
    weights, block = np.zeros((k, 2)), np.zeros(BLOCK + 1, np.int64)
    late_state, late_times, late_codes = state.copy(), times.copy(), codes.copy()
    late_weights, late_block = weights.copy(), block.copy()
    fold_order = np.zeros(0, np.int64)  # of the user's events: place of each rank
    ranks, seen = fold_order.copy(), np.zeros(0, np.bool_)
    start = folded = shown = last_seen = np.int64(-1)
    for query in order:
        if query_starts[query] != start:
            start = query_starts[query]
            end = starts[runs[start] + 1]
            fold_order = np.arange(start, end)
            if by_log[runs[start]]:
                fold_order = start + np.argsort(log_order[start:end], kind="mergesort")
            ranks = np.empty(end - start, np.int64)
            ranks[fold_order - start] = np.arange(end - start)
            seen = np.zeros(end - start, np.bool_)
            folded, shown, last_seen = np.int64(0), start, np.int64(-1)
            state[:] = 0
            state[1] = np.iinfo(np.int64).min
        while shown < query_ends[query]:
            rank = ranks[shown - start]
            seen[rank] = True
            last_seen = max(last_seen, rank)
            shown += 1
        while folded < len(seen) and seen[folded]:
            _fold(state, times, codes, weights, block, events, fold_order[folded], k, half_life_us)
            folded += 1
        if last_seen < folded:
            weight[query], positive[query] = _weight_at(
                state, times, codes, weights, block, events, query_codes[query], query_times[query], half_life_us
            )
            continue
        late_state[:], late_times[:], late_codes[:] = state, times, codes
        late_weights[:], late_block[:] = weights, block
        for rank in range(folded, last_seen + 1):
            if seen[rank]:
                _fold(
                    late_state, late_times, late_codes, late_weights, late_block, events, fold_order[rank], k,
                    half_life_us,
                )  # fmt: skip
        weight[query], positive[query] = _weight_at(
            late_state, late_times, late_codes, late_weights, late_block, events, query_codes[query],
            query_times[query], half_life_us,
        )  # fmt: skip
