"""Ids in Feast: it has no unsigned 64-bit type, so an id travels as the int64 of the same bits, as in the lake."""

import numpy as np
import numpy.typing as npt


def to_feast(item_or_user_id: int) -> int:
    """An id (0 to 2**64 - 1) as Feast's int64: `store.get_online_features(entity_rows=[{"user_id": to_feast(id)}])`."""
    return item_or_user_id - 2**64 if item_or_user_id >= 2**63 else item_or_user_id


def from_feast(value: int) -> int:
    """The inverse."""
    return value % 2**64


def columns_from_feast(values: npt.ArrayLike) -> npt.NDArray[np.uint64]:
    """A column of int64 as ids, uint64 (n,)."""
    return np.asarray(values, np.int64).view(np.uint64)
