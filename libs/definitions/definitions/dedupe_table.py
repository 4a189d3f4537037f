"""The ids of a partition's newest records in two tables, an older and a newer, compiled."""

import numpy as np
import numpy.typing as npt

from definitions.compiled import kernel
from definitions.slots import Ids, Index, row_of

Offsets = npt.NDArray[np.int64]
Seen = Index
"""An id's place is 1 + the offset of its newest record."""


@kernel
def judge(
    older: Seen, newer: Seen, ids: Ids, offsets: Offsets, first: int, end: int, window: int, keep: npt.NDArray[np.bool_]
) -> int:
    """Say of events `first` to `end` whether they count, and remember them in `newer`; how many ids were new to it."""
    added = 0
    for i in range(first, end):
        row = row_of(newer, ids[i])
        before = newer[row, 1]
        if before == 0:
            added += 1
            newer[row, 0] = np.int64(ids[i])
            before = older[row_of(older, ids[i]), 1]
        newer[row, 1] = offsets[i] + 1
        keep[i] = before == 0 or offsets[i] + 1 - before > window
    return added


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
        if older[row, 1] > floor and newer[row_of(newer, np.uint64(older[row, 0])), 1] == 0:
            ids[count], offsets[count] = np.uint64(older[row, 0]), older[row, 1] - 1
            count += 1
    return ids[:count], offsets[:count]
