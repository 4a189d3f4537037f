"""Ids to places by open addressing: linear probing, at most half full."""

import numpy as np
import numpy.typing as npt

from definitions.compiled import inlined, kernel, prefetch_row

Ids = npt.NDArray[np.uint64]
Index = npt.NDArray[np.int64]
"""(2^n, 2): an id's bits, and its place; place 0 = empty."""

AHEAD = 32  # keys whose memory is fetched before they are worked on, so that its latencies overlap
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)  # splitmix64's finaliser


def new_index(keys: int) -> Index:
    """Empty, with room for so many."""
    size = 64
    while size < 2 * keys:
        size *= 2
    return np.zeros((size, 2), np.int64)


@inlined
def mixed(key: np.uint64) -> np.uint64:
    """All bits of an id in all bits (Steele et al., OOPSLA 2014)."""
    key = (key ^ (key >> np.uint64(30))) * _MIX_1
    key = (key ^ (key >> np.uint64(27))) * _MIX_2
    return key ^ (key >> np.uint64(31))


@inlined
def home_of(index: Index, key: np.uint64) -> int:
    """The row where the search for an id begins."""
    return int(np.int64(mixed(key)) & (len(index) - 1))


@inlined
def row_of(index: Index, key: np.uint64) -> int:
    """The row of the id, or the empty one where it belongs."""
    mask = len(index) - 1
    row = home_of(index, key)
    bits = np.int64(key)
    while index[row, 1] != 0 and index[row, 0] != bits:
        row = (row + 1) & mask
    return int(row)


@inlined
def remove(index: Index, row: int) -> None:
    """Empty a row; what stands behind it for want of this place moves up (Knuth, TAOCP 3, 6.4, algorithm R)."""
    mask = len(index) - 1
    hole = following = row
    while True:
        following = (following + 1) & mask
        if index[following, 1] == 0:
            break
        home = home_of(index, np.uint64(index[following, 0]))
        if (following - home) & mask >= (following - hole) & mask:
            index[hole, 0] = index[following, 0]
            index[hole, 1] = index[following, 1]
            hole = following
    index[hole, 0] = 0
    index[hole, 1] = 0


@kernel
def places_of(index: Index, ids: Ids) -> npt.NDArray[np.int64]:
    """The place of each id, (n,); 0 for an unknown one."""
    count = len(ids)
    places = np.empty(count, np.int64)
    for i in range(count):
        if i + AHEAD < count:
            prefetch_row(index, home_of(index, ids[i + AHEAD]))
        places[i] = index[row_of(index, ids[i]), 1]
    return places


@kernel
def copy_into(index: Index, larger: Index) -> None:
    """All entries of one index, into an empty other one."""
    for row in range(len(index)):
        if index[row, 1]:
            target = row_of(larger, np.uint64(index[row, 0]))
            larger[target, 0] = index[row, 0]
            larger[target, 1] = index[row, 1]


@kernel
def ids_in(index: Index, count: int) -> Ids:
    """Every id, ascending."""
    ids = np.empty(count, np.uint64)
    found = 0
    for row in range(len(index)):
        if index[row, 1]:
            ids[found] = np.uint64(index[row, 0])
            found += 1
    ids.sort()
    return ids
