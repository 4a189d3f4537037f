"""Events by key and time, with strict as-of reads for many keys and times at once.

A window's sum is the difference of two reads of one cumulative column: nothing before a key's first event counts as 0.
Compiled: places are found by one hash and one binary search a read, and nothing is sorted that is in order already.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from definitions.compiled import kernel

Ints = npt.NDArray[np.int64]
Ids = npt.NDArray[np.uint64]

_MIX = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio: Fibonacci hashing
_SHORT = 16  # events that came late are few: shorter runs are sorted by insertion


class Timeline:
    """Places of events, sorted by key, then time, then log order.

    `order` int64 (m,): index, among the events given, of the event at each place; `times` int64 (m,) there;
    `runs` int64 (m,): the number of its key, by first event; `starts` int64 (keys + 1,): where each key's run begins.
    """

    def __init__(self, keys: Ids, times: Ints) -> None:
        """`keys` uint64 (m,) and `times` int64 (m,) in log order."""
        bits = max(4, (2 * len(keys)).bit_length())
        self._table = np.zeros(1 << bits, np.uint64), np.full(1 << bits, -1, np.int64)
        codes, count = _number_keys(keys, *self._table)
        self.starts, self.order = _by_key(codes, count)
        self.times: Ints = times[self.order]
        _sort_runs(self.starts, self.order, self.times)
        self.runs: Ints = codes[self.order]

    def of(self, keys: Ids) -> "KeyReads":
        """Reads for `keys` uint64 (n,), known or not."""
        starts, ends = _find_runs(keys, *self._table, self.starts)
        return KeyReads(self, starts, ends)


@dataclass(frozen=True, eq=False)
class KeyReads:
    """As-of reads for n keys; `starts` and `ends` int64 (n,): each key's run, empty where the key is unknown."""

    timeline: Timeline
    starts: Ints
    ends: Ints

    def before(self, times: Ints) -> Ints:
        """One past the place of each key's last event with event time < `times` int64 (n,); its start if none."""
        return _before(self.timeline.times, self.starts, self.ends, times)


class Column:
    """A cumulative column over a timeline's places: sums between places by subtraction, exact int64."""

    def __init__(self, amounts: Ints | npt.NDArray[np.bool_]) -> None:
        """`amounts` int64 (m,) at each place, or which of them count."""
        self._cumulative = _cumulate(amounts)

    def between(self, first: Ints, end: Ints) -> Ints:
        """Sum over the places first <= p < end, int64 (n,). A run's own reads never cross into another run."""
        return _between(self._cumulative, first, end)


class Matches:
    """The matching events of a timeline, for reads of the newest of them before a place."""

    def __init__(self, matching: npt.NDArray[np.bool_]) -> None:
        """`matching` (m,): whether the event at each place counts."""
        self.places: Ints = np.flatnonzero(matching)
        self.counts: Ints = _cumulate(matching)
        """int64 (m + 1,): how many match before each place."""

    def newest(self, first: Ints, end: Ints) -> tuple[Ints, npt.NDArray[np.bool_]]:
        """Index into `places` of the newest match in first <= p < end; and if there is one."""
        index = self.counts[end] - 1
        found = index >= self.counts[first]
        return np.where(found, index, 0), found


@kernel
def _number_keys(keys: Ids, known: Ids, numbers: Ints) -> tuple[Ints, int]:
    """Number (m,) of each key, by first event, and how many there are; fills the hash table `known`, `numbers`."""
    mask, shift = len(known) - 1, np.uint64(64 - np.int64(np.log2(len(known)) + 0.5))
    codes = np.empty(len(keys), np.int64)
    count = 0
    for i in range(len(keys)):
        key = keys[i]
        slot = np.int64((key * _MIX) >> shift)
        while numbers[slot] >= 0 and known[slot] != key:
            slot = (slot + 1) & mask
        if numbers[slot] < 0:
            known[slot] = key
            numbers[slot] = count
            count += 1
        codes[i] = numbers[slot]
    return codes, count


@kernel
def _by_key(codes: Ints, count: int) -> tuple[Ints, Ints]:
    """Where each key's run begins, (count + 1,), and the events by key, in log order inside a run, (m,)."""
    starts = np.zeros(count + 1, np.int64)
    for i in range(len(codes)):
        starts[codes[i] + 1] += 1
    for code in range(count):
        starts[code + 1] += starts[code]
    free = starts[:-1].copy()
    order = np.empty(len(codes), np.int64)
    for i in range(len(codes)):
        order[free[codes[i]]] = i
        free[codes[i]] += 1
    return starts, order


@kernel
def _sort_runs(starts: Ints, order: Ints, times: Ints) -> None:
    """Sort each run of `order` and `times` by time, in place; ties stay in log order."""
    for code in range(len(starts) - 1):
        first, end = starts[code], starts[code + 1]
        late = 0
        for i in range(first + 1, end):
            late += times[i] < times[i - 1]
        if late == 0:
            continue
        if end - first > _SHORT and late > 1:
            by_time = np.argsort(times[first:end], kind="mergesort")
            times[first:end] = times[first:end][by_time]
            order[first:end] = order[first:end][by_time]
            continue
        for i in range(first + 1, end):
            time_us, event = times[i], order[i]
            place = i
            while place > first and times[place - 1] > time_us:
                times[place], order[place] = times[place - 1], order[place - 1]
                place -= 1
            times[place], order[place] = time_us, event


@kernel
def _find_runs(keys: Ids, known: Ids, numbers: Ints, starts: Ints) -> tuple[Ints, Ints]:
    mask, shift = len(known) - 1, np.uint64(64 - np.int64(np.log2(len(known)) + 0.5))
    firsts = np.zeros(len(keys), np.int64)
    ends = np.zeros(len(keys), np.int64)
    for i in range(len(keys)):
        slot = np.int64((keys[i] * _MIX) >> shift)
        while numbers[slot] >= 0 and known[slot] != keys[i]:
            slot = (slot + 1) & mask
        if numbers[slot] >= 0:
            firsts[i], ends[i] = starts[numbers[slot]], starts[numbers[slot] + 1]
    return firsts, ends


@kernel
def _before(times: Ints, firsts: Ints, ends: Ints, asked: Ints) -> Ints:
    """For each read the first place of its run whose time is not before the asked one; the run's end if none."""
    found = np.empty(len(asked), np.int64)
    for i in range(len(asked)):
        low, high, time_us = firsts[i], ends[i], asked[i]
        while low < high:
            middle = (low + high) >> 1
            if times[middle] < time_us:
                low = middle + 1
            else:
                high = middle
        found[i] = low
    return found


@kernel
def _cumulate(amounts: npt.NDArray[np.int64] | npt.NDArray[np.bool_]) -> Ints:
    sums = np.zeros(len(amounts) + 1, np.int64)
    for i in range(len(amounts)):
        sums[i + 1] = sums[i] + amounts[i]
    return sums


@kernel
def _between(sums: Ints, first: Ints, end: Ints) -> Ints:
    found = np.empty(len(first), np.int64)
    for i in range(len(first)):
        found[i] = sums[end[i]] - sums[first[i]]
    return found
