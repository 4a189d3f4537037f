"""Who met which item, once each, and a split of it that holds nothing out twice."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from pipelines.errors import LeakError, TrainingError

Ids = npt.NDArray[np.uint64]
Csr = Any
"""scipy.sparse.csr_array (users, items) of float32 ones; scipy has no types of its own."""


@dataclass(frozen=True)
class Interactions:
    """Distinct pairs: `matrix` csr float32 (users, items) of ones; `user_ids`, `item_ids` sorted uint64, its axes."""

    user_ids: Ids
    item_ids: Ids
    matrix: Csr


@dataclass(frozen=True)
class Held:
    """One user's interactions fall into `fit`, `valid` and `test`: csr (users, items) each, no cell in two of them."""

    fit: Csr
    valid: Csr
    test: Csr


def interactions(user_ids: Ids, item_ids: Ids, catalogue: Ids | None = None) -> Interactions:
    """Every pair once, however often it happened: a second copy in another part of a split would be a leak.

    Args:
        user_ids, item_ids: uint64 (n,), one row an event.
        catalogue: uint64 items that exist without an event too.
    """
    users, user = np.unique(user_ids, return_inverse=True)
    items = np.unique(item_ids if catalogue is None else np.concatenate([item_ids, catalogue]))
    item = np.searchsorted(items, item_ids)
    return Interactions(users, items, _ones(user, item, (len(users), len(items))))


def split_users(matrix: Csr, *, seed: int = 0, shares: tuple[float, float] = (0.1, 0.1)) -> Held:
    """A random part of each user's items for validation and for test; the rest, and what rounds off, is fitted.

    The protocol of RecBole (ratio split, grouped by user, random order): a user with n items holds out
    floor(share x n) for each part, but at least one where 3 are there.

    Args:
        matrix: csr (users, items).
        seed: of the order.
        shares: of validation and of test.

    Raises:
        TrainingError: nothing would be fitted or held out.
    """
    matrix = matrix.tocsr()
    counts = np.diff(matrix.indptr)
    user = np.repeat(np.arange(matrix.shape[0]), counts)
    order = np.lexsort((np.random.default_rng(seed).random(matrix.nnz), user))
    place = np.arange(matrix.nnz) - np.repeat(matrix.indptr[:-1], counts)
    valid, test = (np.where(counts >= 3, np.maximum((share * counts).astype(np.int64), 1), 0) for share in shares)
    late = place - (counts - valid - test)[user]  # order keeps users together, so `user` is its user too
    part = np.where(late < 0, 0, np.where(late < valid[user], 1, 2))
    item = matrix.indices[order]
    parts = [_ones(user[part == each], item[part == each], matrix.shape) for each in range(3)]
    if min(each.nnz for each in parts) == 0:
        raise TrainingError(f"{matrix.nnz} pairs of {matrix.shape[0]} users leave a part empty; load more data")
    return Held(*parts)


def check_held_out(fitted: Csr, *held: Csr) -> None:
    """Refuse a matrix to fit on that holds a cell of a held-out one.

    Raises:
        LeakError: names how many cells, and the first by its place.
    """
    for each in held:
        if (shared := (fitted != 0).multiply(each != 0)).nnz:
            row, column = (int(axis[0]) for axis in shared.nonzero())
            raise LeakError(
                f"{shared.nnz} held-out interactions are in the fitted matrix, first user {row}, item {column}; "
                "split distinct pairs and fit on `Held.fit`"
            )


def _ones(user: npt.NDArray[np.integer], item: npt.NDArray[np.integer], shape: tuple[int, int]) -> Csr:
    found = csr_array((np.ones(len(user), np.float32), (user, item)), shape=shape)
    found.sum_duplicates()
    found.data[:] = 1
    return found
