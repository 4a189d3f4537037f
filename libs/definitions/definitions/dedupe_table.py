"""The ids of a partition's newest records in two tables, an older and a newer, compiled."""

import numpy as np
import numpy.typing as npt

from definitions.compiled import inlined, kernel
from definitions.slots import mixed

Ids = npt.NDArray[np.uint64]
Offsets = npt.NDArray[np.int64]
Seen = npt.NDArray[np.int64]
"""(2^n, 2): an id's bits, and 1 + the offset of its newest record; 0 = empty. At most half full."""


@inlined
def _row(table: Seen, key: np.uint64) -> int:
    mask = len(table) - 1
    row = np.int64(mixed(key)) & mask
    while table[row, 1] != 0 and table[row, 0] != np.int64(key):
        row = (row + 1) & mask
    return int(row)


@kernel
def judge(
    older: Seen, newer: Seen, ids: Ids, offsets: Offsets, first: int, end: int, window: int, keep: npt.NDArray[np.bool_]
) -> int:
    """Say of events `first` to `end` whether they count, and remember them in `newer`; how many ids were new to it."""
    added = 0
    for i in range(first, end):
        row = _row(newer, ids[i])
        before = newer[row, 1]
        if before == 0:
            added += 1
            newer[row, 0] = np.int64(ids[i])
            before = older[_row(older, ids[i]), 1]
        newer[row, 1] = offsets[i] + 1
        keep[i] = before == 0 or offsets[i] + 1 - before > window
    return added


@kernel
def spread(table: Seen, larger: Seen) -> None:
    """All entries of one table, into an empty other one."""
    for row in range(len(table)):
        if table[row, 1]:
            target = _row(larger, np.uint64(table[row, 0]))
            larger[target, 0] = table[row, 0]
            larger[target, 1] = table[row, 1]


@kernel
def entries(older: Seen, newer: Seen, floor: int) -> tuple[Ids, Offsets]:
    """Ids and newest offsets of all records at or above `floor`, in no order; each id once."""
    count = 0
    for table in (older, newer):
        for row in range(len(table)):
            count += table[row, 1] > floor
    ids, offsets = np.empty(count, np.uint64), np.empty(count, np.int64)
    count = 0
    for row in range(len(newer)):
        if newer[row, 1] > floor:
            ids[count], offsets[count] = np.uint64(newer[row, 0]), newer[row, 1] - 1
            count += 1
    for row in range(len(older)):
        if older[row, 1] > floor and newer[_row(newer, np.uint64(older[row, 0])), 1] == 0:
            ids[count], offsets[count] = np.uint64(older[row, 0]), older[row, 1] - 1
            count += 1
    return ids[:count], offsets[:count]
