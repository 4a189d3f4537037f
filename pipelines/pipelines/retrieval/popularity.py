"""The floor: every user gets what most users met."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipelines.retrieval.interactions import Csr


@dataclass(frozen=True)
class Popularity:
    """`counts` float32 (items,): users who met the item."""

    counts: npt.NDArray[np.float32]

    def scores(self, rows: Csr) -> npt.NDArray[np.float32]:
        """float32 (users, items): the same for everybody."""
        return np.broadcast_to(self.counts, (rows.shape[0], len(self.counts)))


def fit_popularity(interactions: Csr, *, seed: int = 0) -> Popularity:
    """Of csr (users, items) of ones; `seed` is unused."""
    del seed
    return Popularity(np.asarray(interactions.sum(axis=0), np.float32).ravel())
