"""Events by key and time, with strict as-of reads for many keys and times at once.

A window's sum is the difference of two reads of one cumulative column: nothing before a key's first event counts as 0.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Ids = npt.NDArray[np.uint64]


class Timeline:
    """Places of events, sorted by key, then time, then log order.

    `order` int64 (m,): index, among the events given, of the event at each place; `times` int64 (m,) there;
    `runs` int64 (m,): the number of its key, ascending.
    """

    def __init__(self, keys: Ids, times: Ints) -> None:
        """`keys` uint64 (m,) and `times` int64 (m,) in log order."""
        self.order: Ints = np.lexsort((times, keys))  # stable: ties stay in log order
        self.times: Ints = times[self.order]
        self._keys, codes = np.unique(keys, return_inverse=True)
        self._ranks = np.unique(times)
        # One number for (key, time), so that one binary search finds a place in a key's run.
        self._sorted: Ints = self._number(codes.astype(np.int64), times)[self.order]
        self.runs: Ints = codes[self.order].astype(np.int64)
        self._starts: Ints = np.searchsorted(self.runs, np.arange(len(self._keys)))

    def of(self, keys: Ids) -> "KeyReads":
        """Reads for `keys` uint64 (n,), known or not."""
        at = np.searchsorted(self._keys, keys)
        at[at == len(self._keys)] = 0
        known = self._keys[at] == keys if len(self._keys) else np.zeros(len(keys), np.bool_)
        starts = self._starts[at] if len(self._keys) else np.zeros(len(keys), np.int64)
        return KeyReads(self, at.astype(np.int64), known, starts)

    def places(self, codes: Ints, times: Ints) -> Ints:
        """First place in each key's run whose time is not before `times`."""
        return np.searchsorted(self._sorted, self._number(codes, times))

    def _number(self, codes: Ints, times: Ints) -> Ints:
        return codes * (len(self._ranks) + 1) + np.searchsorted(self._ranks, times)


@dataclass(frozen=True, eq=False)
class KeyReads:
    """As-of reads for n keys; `starts` int64 (n,) is where each key's run begins."""

    timeline: Timeline
    codes: Ints
    known: npt.NDArray[np.bool_]
    starts: Ints

    def before(self, times: Ints) -> Ints:
        """One past the place of each key's last event with event time < `times` int64 (n,); its start if none."""
        return np.where(self.known, self.timeline.places(self.codes, times), self.starts)


class Column:
    """A cumulative column over a timeline's places: sums between places by subtraction, exact int64."""

    def __init__(self, amounts: Ints) -> None:
        """`amounts` int64 (m,) at each place."""
        self._cumulative = np.concatenate([np.zeros(1, np.int64), np.cumsum(amounts)])

    def between(self, first: Ints, end: Ints) -> Ints:
        """Sum over the places first <= p < end, int64 (n,). A run's own reads never cross into another run."""
        return np.asarray(self._cumulative[end] - self._cumulative[first])


class Matches:
    """The matching events of a timeline, for reads of the newest of them before a place."""

    def __init__(self, matching: npt.NDArray[np.bool_]) -> None:
        """`matching` (m,): whether the event at each place counts."""
        self.places: Ints = np.flatnonzero(matching)
        self._counts = np.concatenate([np.zeros(1, np.int64), np.cumsum(matching)])

    def newest(self, first: Ints, end: Ints, back: int = 0) -> tuple[Ints, npt.NDArray[np.bool_]]:
        """Index into `places` of the newest match in first <= p < end, `back` matches earlier; and if there is one."""
        index = self._counts[end] - 1 - back
        found = index >= self._counts[first]
        return np.where(found, index, 0), found
