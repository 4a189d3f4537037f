"""Item-item models: a user's score of an item is the sum of weights from the items of its history."""

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_factor, cho_solve

from pipelines.retrieval.interactions import Csr

NEIGHBOURS = 50  # served for each item: enough for lists of 500 from the last 64 items, small enough to load at once


@dataclass(frozen=True)
class ItemItem:
    """`weights` float32 (items, items): [h, j] is what item h in the history adds to the score of j; diagonal 0."""

    weights: npt.NDArray[np.float32]

    def scores(self, rows: Csr) -> npt.NDArray[np.float32]:
        """float32 (users, items) for csr (users, items) of what they did."""
        return np.asarray(rows.astype(np.float32) @ self.weights)

    def kept(self, neighbours: int = NEIGHBOURS) -> Self:
        """The same with the `neighbours` largest positive weights of each row only: what is served."""
        weights = np.maximum(self.weights, 0)
        if neighbours < weights.shape[1]:
            least = -np.partition(-weights, neighbours - 1, axis=1)[:, neighbours - 1 : neighbours]
            weights = np.where(weights >= least, weights, 0)
        return type(self)(weights.astype(np.float32))


def fit_item_knn(interactions: Csr, *, neighbours: int = 200, exponent: float = 0.6, seed: int = 0) -> ItemItem:
    """Co-occurrence over popularity, the `neighbours` nearest history items of each item kept.

    w[h, j] = co(h, j) / (n(h)^exponent n(j)^(1 - exponent)): the cosine at .5, asymmetric elsewhere (Aiolli, RecSys
    2013). More than .5 trusts popular history items less.

    Args:
        interactions: csr (users, items) of ones.
        neighbours: history items that may vote for one item.
        exponent: in [0, 1].
        seed: unused; nothing here is random.
    """
    del seed
    together = _gram(interactions)
    count = np.maximum(together.diagonal(), 1)
    weights = together / np.outer(count**exponent, count ** (1 - exponent))
    np.fill_diagonal(weights, 0)
    if neighbours < len(weights):
        least = -np.partition(-weights, neighbours - 1, axis=0)[neighbours - 1]
        weights = np.where(weights >= least, weights, 0)
    return ItemItem(weights.astype(np.float32))


def fit_ease(interactions: Csr, *, ridge: float = 250.0, dropout: float = 0.0, seed: int = 0) -> ItemItem:
    """EASE: the ridge regression of each item on all others, in closed form (Steck, WWW 2019).

    With `dropout` p the diagonal gains p / (1 - p) of itself: the denoising form (Steck, Autoencoders that don't
    overfit towards the Identity, NeurIPS 2020). O(items^3): 1,682 items take .3 s on one core.

    Args:
        interactions: csr (users, items) of ones.
        ridge: lambda > 0.
        dropout: in [0, 1).
        seed: unused; nothing here is random.
    """
    del seed
    gram = _gram(interactions)
    diagonal = gram.diagonal()
    gram[np.diag_indices_from(gram)] += ridge + dropout / (1 - dropout) * diagonal
    inverse = cho_solve(cho_factor(gram, overwrite_a=True, check_finite=False), np.eye(len(gram)), overwrite_b=True)
    weights = -inverse / inverse.diagonal()
    np.fill_diagonal(weights, 0)
    return ItemItem(weights.astype(np.float32))


def _gram(interactions: Csr) -> npt.NDArray[np.float64]:
    ones = interactions.astype(np.float64)
    return np.asarray((ones.T @ ones).toarray())
