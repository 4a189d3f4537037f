"""32-bit hashes of consumed items, as the user row keeps them for the seen-item filter."""

from typing import overload

import numpy as np
import numpy.typing as npt

_MASK = 2**64 - 1
_MIX_1, _MIX_2 = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB  # splitmix64's finaliser (Steele et al., OOPSLA 2014)


@overload
def seen_hash(item_id: int) -> int: ...
@overload
def seen_hash(item_id: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint32]: ...
def seen_hash(item_id: int | npt.NDArray[np.uint64]) -> int | npt.NDArray[np.uint32]:
    """High 32 bits of splitmix64's finaliser; two different items share a hash once in 4 billion pairs."""
    if isinstance(item_id, np.ndarray):
        x = item_id ^ (item_id >> np.uint64(30))
        x = x * np.uint64(_MIX_1)
        x = x ^ (x >> np.uint64(27))
        x = x * np.uint64(_MIX_2)
        x = x ^ (x >> np.uint64(31))
        return np.asarray(x >> np.uint64(32), np.uint32)
    y = ((item_id ^ (item_id >> 30)) * _MIX_1) & _MASK
    y = ((y ^ (y >> 27)) * _MIX_2) & _MASK
    return (y ^ (y >> 31)) >> 32
