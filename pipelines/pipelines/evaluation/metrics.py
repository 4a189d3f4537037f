"""How good scores are: AUC, GAUC, log-loss, NDCG@K. Plain numpy; tested against scikit-learn and by hand."""

from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]
Labels = npt.NDArray[np.integer] | npt.NDArray[np.bool_]
Ids = npt.NDArray[np.uint64]

_CLIP = 1e-7  # float32 scores saturate at 0 and 1; log-loss must stay finite


@dataclass(frozen=True)
class Metrics:
    """Of one model on one set of rows. None where the rows cannot tell (one class only, no user with both)."""

    auc: float | None
    logloss: float
    gauc: float | None
    ndcg10: float | None
    mean_score: float
    base_rate: float
    rows: int

    def as_dict(self) -> dict[str, float | None]:
        """Name -> value."""
        return asdict(self)


def evaluate(labels: Labels, scores: Floats, users: Ids, *, seed: int = 0) -> Metrics:
    """All metrics of (n,) scores in [0, 1] for (n,) labels 0/1; `users` (n,) is what GAUC and NDCG group by."""
    return Metrics(
        auc=auc(labels, scores),
        logloss=log_loss(labels, scores),
        gauc=gauc(labels, scores, users),
        ndcg10=ndcg(labels, scores, users, k=10, seed=seed),
        mean_score=float(np.mean(scores, dtype=np.float64)),
        base_rate=float(np.mean(labels, dtype=np.float64)),
        rows=len(labels),
    )


def auc(labels: Labels, scores: Floats) -> float | None:
    """Probability that a positive row scores above a negative one, ties counting half; None with one class only."""
    positive = np.asarray(labels, bool)
    n_pos = int(positive.sum())
    n_neg = len(positive) - n_pos
    if n_pos == 0 or n_neg == 0:
        return None
    return (float(_mid_ranks(scores)[positive].sum()) - n_pos * (n_pos + 1) / 2) / (n_pos * n_neg)


def log_loss(labels: Labels, scores: Floats) -> float:
    """Mean negative log-likelihood, natural logarithm."""
    p = np.clip(np.asarray(scores, np.float64), _CLIP, 1 - _CLIP)
    positive = np.asarray(labels, bool)
    return float(-np.mean(np.where(positive, np.log(p), np.log1p(-p))))


def gauc(labels: Labels, scores: Floats, users: Ids) -> float | None:
    """AUC inside each user, averaged with weight = the user's rows (Zhou et al., Deep Interest Network, KDD 2018).

    Users with one class only say nothing and are left out; None if none remains.
    """
    total = weight = 0.0
    for rows in _groups(users):
        value = auc(labels[rows], scores[rows])
        if value is not None:
            total += value * len(rows)
            weight += len(rows)
    return total / weight if weight else None


def ndcg(labels: Labels, scores: Floats, users: Ids, *, k: int, seed: int = 0) -> float | None:
    """NDCG@k of each user's rows ranked by score, gain = label, mean over users with a positive row.

    Ties are broken by a seeded random order, never by file order. None if no user has a positive row.
    """
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    order = shuffled[np.lexsort((-np.asarray(scores, np.float64)[shuffled], users[shuffled]))]
    ranked = np.asarray(labels, np.float64)[order]
    values = []
    for rows in _groups(users[order]):
        gains = ranked[rows[0] : rows[-1] + 1]
        positives = int(gains.sum())
        if positives:
            top = gains[:k]
            discounts = 1 / np.log2(np.arange(2, 2 + k))
            values.append(float(top @ discounts[: len(top)]) / float(discounts[: min(positives, k)].sum()))
    return float(np.mean(values)) if values else None


def rank_flips(reference: Floats, scores: Floats, groups: npt.NDArray[np.integer], *, margin: float = 5e-6) -> int:
    """Pairs of one group that `reference` separates by more than `margin` and `scores` orders the other way.

    A group is one request's candidates. Counted over neighbours in reference order after skipping pairs within the
    margin: a flip of any pair shows as a running maximum that is not reached.
    """
    flips = 0
    for rows in _groups(groups):
        order = rows[np.argsort(reference[rows], kind="stable")]
        ref, got = reference[order], scores[order]
        highest = np.maximum.accumulate(got)
        # For each row: the highest score among rows that the reference puts more than `margin` below it.
        below = np.searchsorted(ref, ref - margin, side="left") - 1
        comparable = below >= 0
        flips += int((highest[below[comparable]] > got[comparable]).sum())
    return flips


def _mid_ranks(scores: Floats) -> Floats:
    order = np.argsort(scores, kind="stable")
    ordered = scores[order]
    first = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    last = np.r_[first[1:], len(ordered)]
    ranks = np.empty(len(scores), np.float64)
    ranks[order] = np.repeat((first + 1 + last) / 2, last - first)
    return ranks


def _groups(keys: npt.NDArray[np.generic]) -> list[npt.NDArray[np.intp]]:
    """Row indices of each distinct key."""
    if len(keys) == 0:
        return []
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    return np.split(order, np.flatnonzero(ordered[1:] != ordered[:-1]) + 1)
