"""How good ranked lists are: precision, recall, hit rate, NDCG, MAP and MRR at K over the whole catalogue, by user.

Full ranking, never a sample of negatives: sampled metrics order models otherwise (Krichene and Rendle, On Sampled
Metrics for Item Recommendation, KDD 2020). Items that the user has seen are masked; ties are broken at random, seeded.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.evaluation.metrics import Vector

Csr = Any
"""scipy.sparse.csr_array or csr_matrix (users, items); scipy has no types of its own."""
Scores = npt.NDArray[np.float32]

ROWS = 2048  # users scored at once: 2,048 x 20,000 items of float32 are 160 MB


def rank_items(scores: Scores, seen: Csr, k: int, *, seed: int = 0) -> npt.NDArray[np.intp]:
    """Places of the k best unseen items of each user, best first: intp (users, k), -1 where fewer are left.

    Args:
        scores: float32 (users, items); -inf and NaN are never recommended.
        seen: csr (users, items); stored cells are masked.
        k: length of the list.
        seed: of the random order of equal scores.
    """
    users, items = scores.shape
    masked = np.where(np.isfinite(scores), scores, -np.inf)
    masked[seen.nonzero()] = -np.inf
    # One random order of the items a user: a stable sort of the shuffled row keeps it among equals.
    shuffled = np.random.default_rng(seed).permuted(np.tile(np.arange(items), (users, 1)), axis=1)
    order = np.argsort(-np.take_along_axis(masked, shuffled, axis=1), axis=1, kind="stable")[:, :k]
    top = np.take_along_axis(shuffled, order, axis=1)
    top[np.take_along_axis(masked, top, axis=1) == -np.inf] = -1
    if k > items:
        top = np.pad(top, ((0, 0), (0, k - items)), constant_values=-1)
    return top


def list_metrics(ranked: npt.NDArray[np.intp], relevant: Csr) -> dict[str, Vector]:
    """Metrics of lists of K items, by user: name -> float64 (users,), NaN for users without a relevant item.

    `precision` hits / K; `recall` hits / relevant; `hit` any hit; `ndcg` gain 1, discount 1 / log2(rank + 1), ideal
    of min(K, relevant) hits (Järvelin and Kekäläinen, TOIS 2002); `map` mean over min(K, relevant) of the precision at
    each hit; `mrr` 1 / rank of the first hit, 0 without one.

    Args:
        ranked: intp (users, K) of item places without repeats, -1 = none.
        relevant: csr (users, items), stored cells are the held-out items, each once.
    """
    users, k = ranked.shape
    relevant = relevant.tocsr()
    held = np.diff(relevant.indptr).astype(np.float64)
    flat = np.arange(users)[:, None] * relevant.shape[1] + ranked
    wanted = np.repeat(np.arange(users), np.diff(relevant.indptr)) * relevant.shape[1] + relevant.indices
    hits = (np.isin(flat, wanted) & (ranked >= 0)).astype(np.float64)

    ranks = np.arange(1, k + 1)
    discounts = 1 / np.log2(ranks + 1)
    reachable = np.minimum(held, k).astype(np.intp)
    with np.errstate(invalid="ignore", divide="ignore"):
        values = {
            "precision": hits.mean(axis=1),
            "recall": hits.sum(axis=1) / held,
            "hit": hits.any(axis=1).astype(np.float64),
            "ndcg": hits @ discounts / np.r_[0.0, np.cumsum(discounts)][reachable],
            "map": (hits * np.cumsum(hits, axis=1) / ranks).sum(axis=1) / reachable,
            "mrr": (hits / ranks).max(axis=1, initial=0.0),
        }
    return {name: np.where(held > 0, value, np.nan) for name, value in values.items()}


def full_ranking(
    score: Callable[[Csr], Scores], history: Csr, seen: Csr, relevant: Csr, *, k: int = 10, seed: int = 0
) -> Mapping[str, Vector]:
    """`list_metrics` of a model's K best unseen items for every user, scored in blocks of users.

    Args:
        score: csr (n, items) of what users did -> float32 (n, items).
        history: csr (users, items) that the model may look at.
        seen: csr (users, items) never recommended again; holds `history`.
        relevant: csr (users, items) held out.
        k: length of the lists.
        seed: of ties.
    """
    found: list[dict[str, Vector]] = []
    for block, begin in enumerate(range(0, history.shape[0], ROWS)):
        rows = slice(begin, begin + ROWS)
        ranked = rank_items(score(history[rows]), seen[rows], k, seed=seed + block)
        found.append(list_metrics(ranked, relevant[rows]))
    return {name: np.concatenate([each[name] for each in found]) for name in found[0]}
