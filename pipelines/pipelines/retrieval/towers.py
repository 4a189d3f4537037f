"""A two-tower model as arrays: a user vector from the newest items, an item vector, their dot product.

Trained by `pipelines.deep.two_tower`; scoring, export and serving need no torch.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipelines.retrieval.interactions import Csr

Matrix = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class TwoTower:
    """user(h) = sum of `history`[h] / sqrt(|h|) + `bias`; score(h, j) = user(h) . `items`[j].

    `history`, `items` float32 (items, width); `bias` float32 (width,). The root keeps a long history's vector longer
    than a short one's, so that it outweighs the bias, which is what a user without history gets.
    """

    history: Matrix
    items: Matrix
    bias: Matrix

    def users(self, rows: Csr) -> Matrix:
        """float32 (users, width) of csr (users, items): of all they did."""
        ones = (rows != 0).astype(np.float32)
        count = np.maximum(np.asarray(ones.sum(axis=1)).ravel(), 1)
        found: Matrix = np.asarray(ones @ self.history) / np.sqrt(count)[:, None] + self.bias
        return found.astype(np.float32)

    def users_of(self, codes: npt.NDArray[np.int64]) -> Matrix:
        """float32 (n, width) of int64 (n, K) codes: place + 1 of the newest items, 0 = none or unknown."""
        known = codes > 0
        total = np.where(known[:, :, None], self.history[np.maximum(codes - 1, 0)], 0).sum(axis=1, dtype=np.float32)
        count = np.maximum(known.sum(axis=1), 1).astype(np.float32)
        found: Matrix = total / np.sqrt(count)[:, None] + self.bias
        return found

    def scores(self, rows: Csr) -> Matrix:
        """float32 (users, items)."""
        return self.users(rows) @ self.items.T
