"""Raw values to the dense codes of vocabularies, as a kernel: numpy takes a search, a mask and copies for each."""

import numpy as np
import numpy.typing as npt

from definitions.compiled import brief, inlined

Ids = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int64]


@inlined
def _code(value: int, vocabulary: Ids, first: int, end: int) -> int:
    """1 + the place of the value's bits in the sorted vocabulary[first:end], 0 where it is unknown."""
    low, high, bits = first, end, np.uint64(value)
    while low < high:
        middle = (low + high) >> 1
        if vocabulary[middle] < bits:
            low = middle + 1
        else:
            high = middle
    return low - first + 1 if low < end and vocabulary[low] == bits else 0


@brief
def fill_codes(users: Ints, items: Ints, plan: Ints, bounds: Ints, vocabularies: Ids) -> Ints:
    """int64 (n, K), column k by plan[k] = (0 of the user, 1 of the item; which column; which vocabulary, -1: as it is).

    Args:
        users: int64 (1, Ku), the same for all rows, or (n, Ku).
        items: int64 (n, Ki).
        plan: int64 (K, 3).
        bounds: int64 (V + 1,): vocabulary v is vocabularies[bounds[v]:bounds[v + 1]], uint64, sorted.
    """
    n, columns = len(items), len(plan)
    out = np.empty((n, columns), np.int64)
    for row in range(n):
        for column in range(columns):
            side, source, known = plan[column]
            if side == 0 and row and len(users) == 1:
                out[row, column] = out[0, column]
                continue
            value = items[row, source] if side else users[row if len(users) > 1 else 0, source]
            if known >= 0:
                value = _code(value, vocabularies, bounds[known], bounds[known + 1])
            out[row, column] = value
    return out


def compiled() -> None:
    """Have the kernel compiled, or loaded: not in the first request that needs it."""
    one = np.ones((1, 1), np.int64)
    fill_codes(one, one, np.zeros((1, 3), np.int64), np.array([0, 1]), np.ones(1, np.uint64))
