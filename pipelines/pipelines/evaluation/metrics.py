"""How good scores are: AUC, GAUC, log-loss, normalised cross-entropy, ECE, NDCG@K, MAE, RMSE. Plain numpy; tested
against scikit-learn and by hand. `intervals` says how sure each of them is."""

from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]
Labels = npt.NDArray[np.integer] | npt.NDArray[np.bool_] | npt.NDArray[np.floating]  # 0/1, or numbers to predict
Groups = npt.NDArray[np.integer]
Vector = npt.NDArray[np.float64]

_CLIP = 1e-7  # float32 scores saturate at 0 and 1; log-loss must stay finite
ECE_BINS = 15  # Guo et al., On Calibration of Modern Neural Networks, ICML 2017


@dataclass(frozen=True)
class Metrics:
    """Of one model on one set of rows. None where the rows cannot tell (one class only, no user with both).

    `calibration`: mean score / mean label, 1 at best.
    """

    auc: float | None
    logloss: float
    gauc: float | None
    ndcg_at_10: float | None
    normalised_ce: float | None
    ece: float
    calibration: float | None
    mean_score: float
    base_rate: float
    rows: int

    def as_dict(self) -> dict[str, float | None]:
        """Name -> value."""
        return asdict(self)


def evaluate(labels: Labels, scores: Floats, users: Groups, *, seed: int = 0) -> Metrics:
    """All metrics of (n,) scores in [0, 1] for (n,) labels 0/1; `users` (n,) is what GAUC and NDCG group by."""
    return Metrics(
        auc=auc(labels, scores),
        logloss=log_loss(labels, scores),
        gauc=gauc(labels, scores, users),
        ndcg_at_10=ndcg(labels, scores, users, k=10, seed=seed),
        normalised_ce=normalised_ce(labels, scores),
        ece=ece(labels, scores),
        calibration=calibration_ratio(labels, scores),
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
    ranks = _mid_ranks(np.zeros(len(positive), np.intp), scores)
    return (float(ranks[positive].sum()) - n_pos * (n_pos + 1) / 2) / (n_pos * n_neg)


def log_losses(labels: Labels, scores: Floats) -> Vector:
    """Negative log-likelihood of each row, natural logarithm, float64 (n,)."""
    p = np.clip(np.asarray(scores, np.float64), _CLIP, 1 - _CLIP)
    return -np.where(np.asarray(labels, bool), np.log(p), np.log1p(-p))


def log_loss(labels: Labels, scores: Floats) -> float:
    """Mean negative log-likelihood, natural logarithm."""
    return float(np.mean(log_losses(labels, scores)))


def entropy(rate: Floats | float) -> Vector:
    """Of a coin with that rate, natural logarithm; 0 at rates 0 and 1."""
    p = np.clip(np.asarray(rate, np.float64), np.finfo(np.float64).tiny, 1.0)
    q = np.clip(1 - np.asarray(rate, np.float64), np.finfo(np.float64).tiny, 1.0)
    return -p * np.log(p) - q * np.log(q)


def normalised_ce(labels: Labels, scores: Floats) -> float | None:
    """Log-loss over the entropy of the base rate: 1 is a constant's, less is better; None with one class only.

    He et al., Practical Lessons from Predicting Clicks on Ads at Facebook, ADKDD 2014.
    """
    rate = float(np.mean(labels, dtype=np.float64))
    return log_loss(labels, scores) / float(entropy(rate)) if 0 < rate < 1 else None


def calibration_ratio(labels: Labels, scores: Floats) -> float | None:
    """Mean prediction over mean label: 1 is right, 1.1 promises a tenth too much; None without a positive row."""
    rate = float(np.mean(labels, dtype=np.float64))
    return float(np.mean(scores, dtype=np.float64)) / rate if rate else None


def ece_bin(scores: Floats, bins: int = ECE_BINS) -> npt.NDArray[np.intp]:
    """Which of `bins` equal parts of [0, 1] each score lies in, (n,); 1.0 is in the last."""
    return np.clip((np.asarray(scores, np.float64) * bins).astype(np.intp), 0, bins - 1)


def ece(labels: Labels, scores: Floats, *, bins: int = ECE_BINS) -> float:
    """Expected calibration error: |mean score - mean label| in equal-width bins, by rows (Guo et al., above)."""
    gap = np.bincount(ece_bin(scores, bins), np.asarray(scores, np.float64) - np.asarray(labels, np.float64), bins)
    return float(np.abs(gap).sum()) / len(labels)


def mae(values: Labels, predictions: Floats) -> float:
    """Mean absolute error of (n,) predictions."""
    return float(np.mean(np.abs(np.asarray(predictions, np.float64) - values)))


def rmse(values: Labels, predictions: Floats) -> float:
    """Root of the mean squared error of (n,) predictions."""
    return float(np.sqrt(np.mean(np.square(np.asarray(predictions, np.float64) - values))))


def auc_by_group(labels: Labels, scores: Floats, groups: Groups) -> tuple[Groups, Vector, npt.NDArray[np.int64]]:
    """(groups sorted, AUC inside each NaN where it has one class only, rows of each); groups: users or requests."""
    keys, code = np.unique(groups, return_inverse=True)
    positive = np.asarray(labels, bool)
    rows = np.bincount(code, minlength=len(keys))
    n_pos = np.bincount(code[positive], minlength=len(keys))
    ranks = np.bincount(code[positive], _mid_ranks(code, scores)[positive], len(keys))
    pairs = n_pos * (rows - n_pos)
    with np.errstate(invalid="ignore", divide="ignore"):
        found = np.where(pairs > 0, (ranks - n_pos * (n_pos + 1) / 2) / pairs, np.nan)
    return keys, found, rows


def gauc(labels: Labels, scores: Floats, users: Groups) -> float | None:
    """AUC inside each user, averaged with weight = the user's rows (Zhou et al., Deep Interest Network, KDD 2018).

    Users with one class only say nothing and are left out; None if none remains.
    """
    _, values, rows = auc_by_group(labels, scores, users)
    tells = ~np.isnan(values)
    return float(np.average(values[tells], weights=rows[tells])) if tells.any() else None


def ndcg_by_group(labels: Labels, scores: Floats, groups: Groups, *, k: int, seed: int = 0) -> tuple[Groups, Vector]:
    """(groups sorted, NDCG@k of each group's rows ranked by score, or NaN where no row has a gain); gain = label.

    Ties are broken by a seeded random order, never by file order.
    """
    keys, code = np.unique(groups, return_inverse=True)
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    gains = np.asarray(labels, np.float64)[shuffled]
    by_score = _dcg(code[shuffled], -np.asarray(scores, np.float64)[shuffled], gains, len(keys), k)
    ideal = _dcg(code[shuffled], -gains, gains, len(keys), k)
    with np.errstate(invalid="ignore", divide="ignore"):
        return keys, np.where(ideal > 0, by_score / ideal, np.nan)


def _dcg(code: npt.NDArray[np.intp], ascending: Vector, gains: Vector, groups: int, k: int) -> Vector:
    order = np.lexsort((ascending, code))
    starts = np.r_[0, np.cumsum(np.bincount(code, minlength=groups))[:-1]]
    place = np.arange(len(code)) - starts[code[order]]
    top = place < k
    discounted = np.asarray(gains[order][top] / np.log2(place[top] + 2.0), np.float64)
    return np.bincount(code[order][top], discounted, groups).astype(np.float64)


def ndcg(labels: Labels, scores: Floats, users: Groups, *, k: int, seed: int = 0) -> float | None:
    """NDCG@k of each user's rows ranked by score, gain = label, mean over users with a positive row.

    Ties are broken by a seeded random order, never by file order. None if no user has a positive row.
    """
    values = ndcg_by_group(labels, scores, users, k=k, seed=seed)[1]
    return float(np.nanmean(values)) if not np.isnan(values).all() else None


def rank_flips(reference: Floats, scores: Floats, groups: Groups, *, margin: float = 5e-6) -> int:
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


def _mid_ranks(code: npt.NDArray[np.intp], scores: Floats) -> Vector:
    """Rank of each row inside its group `code` (0 ..), from 1, ties sharing their mean, float64 (n,)."""
    order = np.lexsort((scores, code))
    group, ordered = code[order], scores[order]
    first = np.flatnonzero(np.r_[True, (ordered[1:] != ordered[:-1]) | (group[1:] != group[:-1])])
    last = np.r_[first[1:], len(ordered)]
    starts = np.r_[0, np.cumsum(np.bincount(code))[:-1]][group[first]]
    ranks = np.empty(len(scores), np.float64)
    ranks[order] = np.repeat((first + 1 + last) / 2 - starts, last - first)
    return ranks


def _groups(keys: Groups) -> list[npt.NDArray[np.intp]]:
    """Row indices of each distinct key."""
    if len(keys) == 0:
        return []
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    return np.split(order, np.flatnonzero(ordered[1:] != ordered[:-1]) + 1)
