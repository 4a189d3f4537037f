"""One side's events read as of many queries: totals, windows, decayed sums, newest matches.

Totals and tiles are two strict as-of reads of a cumulative column, everything else reads the newest matches before t.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from definitions.compiled import kernel
from definitions.events import UNITS_PER_VALUE, EventColumns, micros
from definitions.item_values import Gathered, window_value
from definitions.plan import Decay, History, Selector, Side, WindowColumn
from definitions.tiles import NEVER
from definitions.timeline import Column, Ids, Ints, KeyReads, Matches, Timeline

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
T = TypeVar("T", bound=np.generic)


@dataclass(frozen=True, eq=False)
class Past:
    """A history at each query, newest first, all (n, k): ids uint64, values int64 in 1e-6 units, categories uint32;
    0 from `held` int64 (n,) on.
    """

    ids: Ids
    values: Ints
    categories: npt.NDArray[np.uint32]
    held: Ints

    @cached_property
    def there(self) -> Mask:
        """Which places hold an event, (n, k)."""
        return np.arange(self.ids.shape[1]) < self.held[:, None]


class SideReads:
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

    def matching(self, selector: Selector) -> Mask:
        """Which events count for a selector, (m,)."""
        found = np.zeros(len(self.action), np.bool_)
        for action, bound in selector:
            found |= (self.action == action) & (True if bound is None else self.value >= bound)
        return found

    def gathered(self, numbers: Floats) -> Gathered:
        """Everything that `item_features` reads, as a row of either side holds it at the query's time."""
        columns = [self._column(measure) for measure in range(len(self.side.measures))]
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

    def _column(self, measure: int) -> Column:
        spec = self.side.measures[measure]
        matching = self.matching(spec.selector)
        return Column(self.value * matching if spec.is_sum else matching)

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

    def decayed(self, decay: Decay, matching: Mask) -> tuple[Floats, Ints]:
        """Decayed sums (n,) at the time of the newest match (n,), by the kernel's own step."""
        matches = Matches(matching)
        if not len(matches.places):
            return np.zeros(len(self.end)), np.full(len(self.end), NEVER, np.int64)
        times = self.timeline.times[matches.places]
        weights = self.value[matches.places].astype(np.float64) if decay.is_sum else np.ones(len(times))
        sums = _decayed_sums(self.timeline.runs[matches.places], times, weights, float(decay.half_life_us))
        index, found = matches.newest(self.start, self.end)
        return np.where(found, sums[index], 0.0), np.where(found, times[index], NEVER)

    def past_means(self, past: Past, window: WindowColumn) -> npt.NDArray[np.float32]:
        """A window column of the items of a past, each at its query's time: float32 (n, k), 0 where there is none."""
        times = np.broadcast_to(self._times[:, None], past.ids.shape)[past.there]
        reads = self.timeline.of(past.ids[past.there])
        end = reads.before(times)

        def window_sum(index: int) -> Ints:
            spec = self.side.sums[index]
            column = self._column(spec.measure)
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

    def history(self, history: History, ids: Ids, values: Ints) -> Past:
        """The newest k matching events of each query's key, written into `ids` and `values` (n, k), which are zero."""
        matches = Matches(self.matching(history.selector))
        categories = np.zeros(ids.shape, np.uint32)
        held = _newest(
            (matches.places, matches.counts), (self.start, self.end), (self.item_id, self.value, self.category),
            (ids, values, categories),
        )  # fmt: skip
        return Past(ids, values, categories, held)


def residuals(past: Past, means: npt.NDArray[np.float32], categories: Ints, lasts: Ints) -> Floats:
    """Means of value - item mean, float64 (n, len(lasts) + 2): over the newest of each of `lasts`, which ascend; over
    those of the query's category; and how many those are. Sums run from the newest event to the oldest, as assembly's
    do: the same bits.
    """
    return _residuals((past.values, past.categories, past.held), means, categories, lasts)


def _stack(columns: Sequence[npt.NDArray[Any]], like: Ints, dtype: type[T]) -> npt.NDArray[T]:
    """Columns (n,) side by side, (n, columns); also where there are none."""
    return np.stack(columns, axis=1) if columns else np.zeros((len(like), 0), dtype)


@kernel
def _decayed_sums(runs: Ints, times: Ints, weights: Floats, half_life_us: float) -> Floats:
    """Of each run's events so far, at the time of the newest of them, (m,)."""
    sums = np.empty(len(times))
    value = 0.0
    for i in range(len(times)):
        if i == 0 or runs[i] != runs[i - 1]:
            value = 0.0
        elif times[i] > times[i - 1]:
            value *= 2.0 ** (-(times[i] - times[i - 1]) / half_life_us)
        value += weights[i]
        sums[i] = value
    return sums


@kernel
def _newest(
    matches: tuple[Ints, Ints],
    reads: tuple[Ints, Ints],
    events: tuple[Ids, Ints, npt.NDArray[np.uint32]],
    out: tuple[Ids, Ints, npt.NDArray[np.uint32]],
) -> Ints:
    """Fill `out` (n, k) with the newest matches of each read, and say how many there are, (n,)."""
    places, counts = matches
    starts, ends = reads
    held = np.empty(len(starts), np.int64)
    for i in range(len(starts)):
        newest = counts[ends[i]] - 1
        n = min(newest + 1 - counts[starts[i]], out[0].shape[1])
        for back in range(n):
            place = places[newest - back]
            out[0][i, back] = events[0][place]
            out[1][i, back] = events[1][place]
            out[2][i, back] = events[2][place]
        held[i] = n
    return held


@kernel
def _residuals(
    past: tuple[Ints, npt.NDArray[np.uint32], Ints], means: npt.NDArray[np.float32], wanted: Ints, lasts: Ints
) -> Floats:
    values, categories, held = past
    found = np.zeros((len(held), len(lasts) + 2))
    for i in range(len(held)):
        total, alike, n, column = 0.0, 0.0, 0, 0
        for back in range(held[i]):
            gap = values[i, back] / UNITS_PER_VALUE - np.float64(means[i, back])
            total += gap
            if wanted[i] != 0 and categories[i, back] == wanted[i]:
                alike += gap
                n += 1
            if column < len(lasts) and back + 1 == lasts[column]:
                found[i, column] = total / lasts[column]
                column += 1
        if held[i] > 0:
            found[i, column:-2] = total / held[i]
        if n > 0:
            found[i, -2] = alike / n
            found[i, -1] = n
    return found
