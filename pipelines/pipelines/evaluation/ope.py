"""Off-policy estimates: what another policy would have earned, from what one policy's choices did earn.

With w = pi(chosen) / propensity, r the reward and q(x, a) a model of it:

    IPS    mean(w r)                                   Horvitz and Thompson, JASA 1952; Strehl et al., NIPS 2010
    SNIPS  sum(w r) / sum(w)                           Swaminathan and Joachims, NIPS 2015
    DM     mean(sum_a pi(a) q(x, a))                   as good as q is
    DR     mean(sum_a pi(a) q(x, a) + w (r - q(x, chosen)))   Dudik, Langford and Li, ICML 2011
    ESS    sum(w)^2 / sum(w^2)                         Kish, Survey Sampling, 1965

IPS, SNIPS and DR need the logged propensities; DM's interval knows nothing of q's bias.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from pipelines.errors import BadInputError
from pipelines.evaluation.intervals import LEVEL, RESAMPLES, Bootstrap, Interval
from pipelines.evaluation.metrics import Vector

Method = Literal["ips", "snips", "dm", "dr"]

FOLDS: Final = 3  # q is never fitted on the rows that it corrects


class MissingPropensities(BadInputError):
    """The log does not say how likely its choices were, so it cannot say what other choices would have done."""


@dataclass(frozen=True, eq=False)
class Feedback:
    """n logged choices of one of K actions each.

    `reward` float64 (n,); `propensity` float64 (n,) in (0, 1], of the chosen action when it was chosen; `chosen` int64
    (n,), its place in 0..K-1; `unit` (n,): whose rows are drawn together, such as users.

    Raises:
        MissingPropensities: a propensity is absent (NaN), 0, above 1, or all are 1: nothing was left to chance.
        BadInputError: lengths differ, or there are no rows.
    """

    reward: Vector
    propensity: Vector
    chosen: npt.NDArray[np.int64]
    unit: npt.NDArray[np.integer]

    def __post_init__(self) -> None:
        lengths = {len(each) for each in (self.reward, self.propensity, self.chosen, self.unit)}
        if lengths in ({0}, set()) or len(lengths) > 1:
            raise BadInputError(f"feedback: {sorted(lengths)} rows of its columns; give as many of each, at least one")
        bad = ~((self.propensity > 0) & (self.propensity <= 1))  # NaN is neither
        remedy = "serve with exploration slots, log each choice's probability, and estimate from those impressions"
        if bad.any():
            raise MissingPropensities(f"propensity: {bad.sum()} of {len(bad)} logged choices have none; {remedy}")
        if (self.propensity == 1).all():
            raise MissingPropensities(f"propensity: all {len(bad)} are 1, nothing was left to chance; {remedy}")


@dataclass(frozen=True)
class Estimates:
    """One `Interval` a method, and `ess`: how many rows of the target policy's own the weighted rows are worth."""

    values: Mapping[Method, Interval]
    ess: float
    rows: int

    def as_dict(self) -> dict[str, object]:
        """For a report: per method value, low, high, level; `ess`, `rows`."""
        return {
            **{name: value.as_dict() for name, value in self.values.items()},
            "ess": self.ess,
            "rows": self.rows,
        }


def estimate(
    feedback: Feedback,
    target: Vector,
    rewards: Vector | None = None,
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> Estimates:
    """The target policy's mean reward a choice, by each method that the arguments allow.

    Args:
        feedback: what was logged.
        target: float64 (n, K), the target policy's probabilities; each row adds up to 1.
        rewards: float64 (n, K), q for each action, not fitted on the row itself (`cross_fitted`); without it no DM, DR.

    Raises:
        BadInputError: shapes differ, or rows of `target` are no probabilities.
    """
    rows = np.arange(len(feedback.reward))
    if target.shape[0] != len(rows) or (rewards is not None and rewards.shape != target.shape):
        raise BadInputError(f"target: shape {target.shape}; give ({len(rows)}, K), and rewards of the same shape")
    if (target < 0).any() or not np.allclose(target.sum(axis=1), 1.0, atol=1e-6):
        raise BadInputError("target: some row is no probability distribution; its entries are >= 0 and add up to 1")
    weight = target[rows, feedback.chosen] / feedback.propensity
    earned = weight * feedback.reward
    bootstrap = Bootstrap(feedback.unit, resamples=resamples, seed=seed, level=level)
    found: dict[Method, Interval] = {"ips": bootstrap.of(bootstrap.mean(earned), float(earned.mean()))}
    if weight.sum() > 0:
        value = float(earned.sum() / weight.sum())
        found["snips"] = bootstrap.of(bootstrap.mean(feedback.reward, weight), value)
    if rewards is not None:
        modelled = (target * rewards).sum(axis=1)
        doubly = modelled + weight * (feedback.reward - rewards[rows, feedback.chosen])
        found["dm"] = bootstrap.of(bootstrap.mean(modelled), float(modelled.mean()))
        found["dr"] = bootstrap.of(bootstrap.mean(doubly), float(doubly.mean()))
    squares = float(np.square(weight).sum())
    return Estimates(found, float(weight.sum()) ** 2 / squares if squares else 0.0, len(rows))


def cross_fitted(
    features: Vector, chosen: npt.NDArray[np.int64], reward: Vector, unit: npt.NDArray[np.integer], *, seed: int = 0
) -> Vector:
    """q for every action of every row, by logistic regression; no row, nor one of its unit, helps to fit its own q.

    Args:
        features: float64 (n, K, F), of each action in each row's context.
        chosen: int64 (n,), the action whose reward is known.
        reward: float64 (n,), 0 or 1.
        unit: (n,), kept whole by the `FOLDS` folds.

    Returns:
        float64 (n, K), probabilities. A fold whose other rows have one class only gets their mean.
    """
    units, code = np.unique(unit, return_inverse=True)
    fold = np.random.default_rng(seed).permutation(np.arange(len(units)) % FOLDS)[code]
    count, actions, width = features.shape
    known = features[np.arange(count), chosen]
    out = np.empty((count, actions))
    with threadpool_limits(1):
        for held in range(FOLDS):
            others, own = fold != held, fold == held
            labels = reward[others] > 0
            if not own.any():
                continue
            if labels.all() or not labels.any():
                out[own] = labels.mean() if len(labels) else 0.0
                continue
            model = LogisticRegression(C=1.0, max_iter=500).fit(known[others], labels)
            out[own] = model.predict_proba(features[own].reshape(-1, width))[:, 1].reshape(-1, actions)
    return out
