"""A user's values at time t: one pure function for the gateway, the nightly batch, backfill and tests."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from definitions.kernel import Moment, TableState, matches
from definitions.layout import Layout
from definitions.plan import BLOCK, Measure, Selector, Side, Table
from definitions.tiles import NEVER, decayed, end_tile, first_tile, ratio_of

T = TypeVar("T", bound=np.generic)

_SECOND_US = 1e6
_OVER = math.inf  # more than any value


class UserView(Protocol):
    """What is read of a user: a packed row (`UserRow`) or a live state (`UserState`)."""

    newest_us: int
    totals: list[int]
    decay_values: list[float]
    decay_times: list[int]
    recencies: list[int]
    numbers: list[float]
    codes: list[int]

    @property
    def block(self) -> list[Moment]:
        """The newest 16 events, ascending."""

    def history(self, index: int) -> tuple[npt.ArrayLike, npt.ArrayLike, npt.ArrayLike, npt.ArrayLike]:
        """Times, ids, values and categories of older events, ascending."""

    def table(self, index: int) -> TableState:
        """Weights of older events."""

    def tile_sum(self, column: int, first: int, end: int) -> int:
        """Sum of the tiles first <= index < end."""


@dataclass(frozen=True, slots=True)
class TableAt:
    """One affinity table at t: total weight, and category -> (all, positive)."""

    total: float
    entries: dict[int, tuple[float, float]]


class Past(NamedTuple):
    """Events of a history, newest first: `item_ids` uint64, `values` int64 (1e-6 units), `categories` uint32, (n,)."""

    item_ids: npt.NDArray[np.uint64]
    values: npt.NDArray[np.int64]
    categories: npt.NDArray[np.uint32]


_NO_PAST = Past(np.zeros(0, np.uint64), np.zeros(0, np.int64), np.zeros(0, np.uint32))


class UserAt:
    """One user evaluated at `time_us`: only events with event time < t exist. View None: a user without history.

    `tied`: all 16 newest events are at or after t, so older ones among them may be counted too; count such rows.
    """

    def __init__(self, layout: Layout, view: UserView | None, time_us: int) -> None:
        self._layout = layout
        self._side = layout.user
        self._view = view
        self._time_us = time_us
        self.before: list[Moment] = []
        self._since: list[Moment] = []
        self._matching: dict[Selector, list[Moment]] = {}
        self._tables: dict[int, TableAt] = {}
        self._histories: dict[int, Past] = {}
        if view is not None:
            block = view.block
            if not block or block[-1].time_us < time_us:
                self.before = block
            else:
                self.before = [moment for moment in block if moment.time_us < time_us]
                self._since = block[len(self.before) :]
        self.tied = len(self._since) == BLOCK

    def write_floats(self, columns: list[float]) -> None:
        """Write the user's float columns, each at its position; never NaN."""
        side = self._side
        sums = self._sums()
        decays = [self._decay(index) for index in range(len(side.decays))]
        for window in side.window_columns:
            num, den = sums[window.num], None if window.den is None else sums[window.den]
            if window.ttl_us is not None and self._expired(window.ttl_us):
                num, den = 0, None if den is None else 0
            prior = window.prior
            columns[window.position] = (
                num / window.scale if den is None else ratio_of(num, den, window.scale, prior.mean, prior.weight)
            )
        for column in side.decayed_columns:
            weight, weights = decays[column.num], None if column.den is None else decays[column.den]
            if column.ttl_us is not None and self._expired(column.ttl_us):
                weight, weights = 0.0, None if weights is None else 0.0
            prior = column.prior
            columns[column.position] = (
                weight / column.scale
                if weights is None
                else ratio_of(weight, weights, column.scale, prior.mean, prior.weight)
            )
        for recency in side.recency_columns:
            expired = recency.ttl_us is not None and self._expired(recency.ttl_us)
            age_us = recency.cap_us if expired else self._age(recency.recency, recency.cap_us)
            columns[recency.position] = age_us / _SECOND_US
        for number in side.number_columns:
            value = float("nan") if self._view is None else self._view.numbers[number.number]
            columns[number.position] = number.default if value != value else value

    def table(self, index: int, ttl_us: int | None) -> TableAt:
        """An affinity table at t, the block's events before t included."""
        if self._view is None or (ttl_us is not None and self._expired(ttl_us)):
            return TableAt(0.0, {})
        found = self._tables.get(index)
        if found is None:
            spec, older = self._side.tables[index], self._view.table(index)
            found = self._tables[index] = table_at(spec, older, self.before, self._time_us)
        return found

    def history(self, index: int) -> Past:
        """A history's newest k events before t, newest first."""
        found = self._histories.get(index)
        if found is None:
            found = self._histories[index] = _NO_PAST if self._view is None else self._past(self._view, index)
        return found

    def _past(self, view: UserView, index: int) -> Past:
        spec = self._side.histories[index]
        newer = self._newer(spec.selector)[: -spec.k - 1 : -1]
        times, ids, values, categories = view.history(index)
        older_ids = np.asarray(ids, np.uint64)
        end = int(np.searchsorted(np.asarray(times, np.int64), self._time_us)) if self.tied else len(older_ids)
        older = slice(max(0, end - spec.k + len(newer)), end)
        return Past(
            _joined([moment.item_id for moment in newer], older_ids[older]),
            _joined([moment.value for moment in newer], np.asarray(values, np.int64)[older]),
            _joined([moment.category for moment in newer], np.asarray(categories, np.uint32)[older]),
        )

    def codes(self) -> list[int]:
        """The user's category codes, 0 = absent."""
        return [0] * self._side.code_width if self._view is None else self._view.codes

    def _sums(self) -> list[int]:
        """Every matching event of each window, less the block's at or after t."""
        side, view, time_us = self._side, self._view, self._time_us
        if view is None:
            return [0] * len(side.sums)
        sums, totals, tile_sum = [], view.totals, view.tile_sum
        edges = {
            (hop_us, window_us): (first_tile(time_us, window_us, hop_us), end_tile(time_us, hop_us))
            for hop_us, window_us in _windows(side)
        }
        for spec in side.sums:
            if spec.window_us is None:
                total = totals[spec.measure]
            else:
                total = tile_sum(spec.tile_column, *edges[spec.hop_us, spec.window_us])
            sums.append(total)
        if self._since:
            for index, spec in enumerate(side.sums):
                since = self._since
                if spec.window_us is not None:
                    open_end_us = end_tile(time_us, spec.hop_us) * spec.hop_us  # later tiles were not read
                    since = [moment for moment in since if moment.time_us < open_end_us]
                sums[index] -= _amount(side.measures[spec.measure], since)
        return sums

    def _decay(self, index: int) -> float:
        """Older events' weight, and the block's before t."""
        if self._view is None:
            return 0.0
        spec = self._side.decays[index]
        value = decayed(
            self._view.decay_values[index], self._time_us - self._view.decay_times[index], spec.half_life_us
        )
        for moment in self._newer(spec.selector):
            weight = float(moment.value) if spec.is_sum else 1.0
            value += weight * 2.0 ** ((moment.time_us - self._time_us) / spec.half_life_us)
        return value

    def _age(self, index: int, cap_us: int) -> int:
        """Time since the newest matching event before t, at most the cap."""
        if self._view is None:
            return cap_us
        selector = self._side.recencies[index]
        newer = self._newer(selector)
        newest_us = newer[-1].time_us if newer else self._view.recencies[index]
        return cap_us if newest_us == NEVER else max(0, min(self._time_us - newest_us, cap_us))

    def _newer(self, selector: Selector) -> list[Moment]:
        """The block's matching events before t, ascending."""
        found = self._matching.get(selector)
        if found is None:
            least = _least_values(selector)
            found = self._matching[selector] = [
                moment for moment in self.before if moment.value >= least.get(moment.action, _OVER)
            ]
        return found

    def _expired(self, ttl_us: int) -> bool:
        """Is the user's newest event before t too old. A `tied` row's is not known, and counts as fresh."""
        return not self.tied and (not self.before or self._time_us - self.before[-1].time_us > ttl_us)


@lru_cache(maxsize=64)
def _windows(side: Side) -> tuple[tuple[int, int], ...]:
    """(hop, window) of what is read from tiles, each once."""
    return tuple({(spec.hop_us, spec.window_us): None for spec in side.sums if spec.window_us is not None})


@lru_cache(maxsize=1024)
def _least_values(selector: Selector) -> dict[int, float]:
    """Action -> the least value that counts."""
    return {action: -math.inf if bound is None else bound for action, bound in selector}


def _joined(newer: list[int], older: npt.NDArray[T]) -> npt.NDArray[T]:
    """`newer` as they are, then `older` from its end."""
    joined = np.empty(len(newer) + len(older), older.dtype)
    joined[: len(newer)] = newer
    joined[len(newer) :] = older[::-1]
    return joined


def _amount(measure: Measure, moments: Sequence[Moment]) -> int:
    return sum(moment.value if measure.is_sum else 1 for moment in moments if matches(measure.selector, moment))


def table_at(spec: Table, table: TableState, before: Sequence[Moment], time_us: int) -> TableAt:
    """A table at t: its entries, and the events of `before`, all before t. `table` is not changed."""
    half_life_us = spec.half_life_us
    total = decayed(table.total, time_us - table.time_us, half_life_us)
    entries = {}
    for category, (weight, positive, at_us) in table.entries.items():
        left = decayed(1.0, time_us - at_us, half_life_us)
        entries[category] = weight * left, positive * left
    least, least_positive = _least_values(spec.selector), _least_values(spec.positive)
    for at_us, _, action, value, category in before:
        if category and value >= least.get(action, _OVER):
            left = 2.0 ** ((at_us - time_us) / half_life_us)
            total += left
            weight, positive = entries.get(category, (0.0, 0.0))
            if value >= least_positive.get(action, _OVER):
                positive += left
            entries[category] = weight + left, positive
    return TableAt(total, entries)
