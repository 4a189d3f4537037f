"""How sure a figure is: bootstrap intervals over users, paired where two models are compared on the same rows.

Users are drawn with replacement, whole: rows of one user are not independent, and an interval over rows would be too
narrow (Deng et al., Applying the Delta Method in Metric Analytics, KDD 2018). No resample copies a row: each metric is
computed from how often a user was drawn, by sums a user or, for AUC, by weighted ranks.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from pipelines.evaluation import metrics
from pipelines.evaluation.metrics import Floats, Labels, Vector

RESAMPLES: Final = 1000
LEVEL: Final = 0.95
_BLOCK: Final = 1 << 20  # cells at once: a block of resamples stays in the processor's cache


@dataclass(frozen=True)
class Interval:
    """`value` on all rows; with probability `level` the truth lies in [low, high] (infinite: the rows cannot tell)."""

    value: float
    low: float
    high: float
    level: float = LEVEL

    def as_dict(self) -> dict[str, float | None]:
        """`value`, `low`, `high`, `level`; None for what is not finite, as JSON has no infinity."""
        named = {"value": self.value, "low": self.low, "high": self.high, "level": self.level}
        return {name: number if math.isfinite(number) else None for name, number in named.items()}


class Bootstrap:
    """Resamples of the users of n rows: the same seed draws the same users, so differences are paired."""

    def __init__(
        self, users: npt.NDArray[np.generic], *, resamples: int = RESAMPLES, seed: int = 0, level: float = LEVEL
    ) -> None:
        """Of rows (n,) whose owners are `users` (n,): users, or days where days are what varies."""
        if not 0 < level < 1 or resamples < 1:
            raise ValueError(f"level {level} must lie between 0 and 1, resamples {resamples} be at least 1")
        self._keys, self._code = np.unique(users, return_inverse=True)
        self._resamples, self._seed, self._level = resamples, seed, level

    @property
    def units(self) -> int:
        """Distinct users."""
        return len(self._keys)

    def interval(self, metric: str, labels: Labels, scores: Floats) -> Interval:
        """Of `metric` (one of METRICS) of (n,) scores for (n,) labels."""
        return self.of(self.replicates(metric, labels, scores), METRICS[metric].point(labels, scores, self._code))

    def difference(self, metric: str, labels: Labels, scores: Floats, other: Floats) -> Interval:
        """Of metric(scores) - metric(other), both drawn with the same users."""
        point = METRICS[metric].point
        value = point(labels, scores, self._code) - point(labels, other, self._code)
        return self.of(self.replicates(metric, labels, scores) - self.replicates(metric, labels, other), value)

    def replicates(self, metric: str, labels: Labels, scores: Floats) -> Vector:
        """`metric` in each resample, float64 (resamples,); NaN where a resample cannot tell.

        Raises:
            KeyError: not one of METRICS.
            ValueError: labels or scores are not one a row.
        """
        if len(labels) != len(self._code) or len(scores) != len(self._code):
            raise ValueError(f"{len(labels)} labels and {len(scores)} scores for {len(self._code)} rows")
        return METRICS[metric].replicates(self, labels, np.asarray(scores, np.float64))

    def mean(self, values: Floats, weights: Floats | None = None) -> Vector:
        """Mean of (n,) values, or weighted by (n,) weights, in each resample; NaN values count for nothing."""
        known = ~np.isnan(values)
        weight = known * (np.ones(len(values)) if weights is None else weights)
        sums = self.sums(np.where(known, values, 0.0) * weight, weight)
        return _ratio(sums[:, 0], sums[:, 1])

    def sums(self, *columns: Floats) -> Vector:
        """Sum of each (n,) column over the drawn rows: float64 (resamples, columns)."""
        a_user = np.stack([np.bincount(self._code, column, self.units) for column in columns], axis=1)
        return np.concatenate([drawn @ a_user for drawn in self._draws(self.units)])

    def cells(self, cell: npt.NDArray[np.intp], count: int, values: Floats) -> Vector:
        """Sum of (n,) values by cell (n,) in [0, count), over the drawn rows: float64 (resamples, count)."""
        a_user = np.bincount(self._code * count + cell, values, self.units * count).reshape(self.units, count)
        return np.concatenate([drawn @ a_user for drawn in self._draws(self.units)])

    def auc(self, labels: Labels, scores: Floats) -> Vector:
        """AUC in each resample: for each positive row, the drawn negatives below it, those that tie counting half."""
        positive = np.asarray(labels, bool)
        order = np.argsort(scores[~positive], kind="stable")
        below_code, below = self._code[~positive][order], scores[~positive][order]
        above_code, above = self._code[positive], scores[positive]
        low, high = np.searchsorted(below, above, "left"), np.searchsorted(below, above, "right")
        found = []
        for drawn in self._draws(max(len(positive), self.units)):
            beaten = np.zeros((len(drawn), len(below) + 1))
            np.cumsum(drawn[:, below_code], axis=1, out=beaten[:, 1:])
            won = drawn[:, above_code]
            pairs = np.einsum("ij,ij->i", won, beaten[:, low]) + np.einsum("ij,ij->i", won, beaten[:, high])
            found.append(_ratio(pairs / 2, won.sum(axis=1) * beaten[:, -1]))
        return np.concatenate(found)

    def of(self, replicates: Vector, value: float) -> Interval:
        """Percentile interval of `replicates`; infinite with one user or where most resamples cannot tell."""
        known = replicates[~np.isnan(replicates)]
        if self.units < 2 or 2 * len(known) < len(replicates) or math.isnan(value):
            return Interval(value, -math.inf, math.inf, self._level)
        tail = (1 - self._level) / 2
        low, high = np.quantile(known, [tail, 1 - tail])
        return Interval(value, float(low), float(high), self._level)

    def _draws(self, width: int) -> Iterator[npt.NDArray[np.float64]]:
        """How often each user is drawn, float64 (block, users), block by block; always the same for a seed."""
        rng = np.random.default_rng(self._seed)
        block = max(1, _BLOCK // max(width, 1))
        for begin in range(0, self._resamples, block):
            count = min(block, self._resamples - begin)
            drawn = rng.integers(self.units, size=(count, self.units)) + self.units * np.arange(count)[:, None]
            yield np.bincount(drawn.ravel(), minlength=count * self.units).reshape(count, -1).astype(np.float64)


@dataclass(frozen=True)
class _Metric:
    """`point(labels, scores, groups)` on all rows, NaN where they cannot tell; `replicates` the same by resample."""

    point: Callable[[Labels, Floats, npt.NDArray[np.intp]], float]
    replicates: Callable[[Bootstrap, Labels, Vector], Vector]


def _known(value: float | None) -> float:
    return math.nan if value is None else value


def _ratio(numerator: Vector, denominator: Vector) -> Vector:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(denominator != 0, numerator / denominator, np.nan)


def _gauc(drawn: Bootstrap, labels: Labels, scores: Vector) -> Vector:
    """A user drawn twice counts twice, as itself: its AUC is inside it."""
    code = drawn._code
    values = metrics.auc_by_group(labels, scores, code)[1]
    return drawn.mean(values[code])


def _ndcg_at_10(drawn: Bootstrap, labels: Labels, scores: Vector) -> Vector:
    code = drawn._code
    rows = np.bincount(code)
    return drawn.mean(metrics.ndcg_by_group(labels, scores, code, k=10)[1][code], (1 / rows)[code])


def _normalised_ce(drawn: Bootstrap, labels: Labels, scores: Vector) -> Vector:
    sums = drawn.sums(metrics.log_losses(labels, scores), np.asarray(labels, np.float64), np.ones(len(labels)))
    return _ratio(sums[:, 0] / sums[:, 2], metrics.entropy(sums[:, 1] / sums[:, 2]))


def _ece(drawn: Bootstrap, labels: Labels, scores: Vector) -> Vector:
    gaps = drawn.cells(metrics.ece_bin(scores), metrics.ECE_BINS, scores - labels)
    off: Vector = np.abs(gaps).sum(axis=1) / drawn.sums(np.ones(len(scores)))[:, 0]
    return off


def _calibration(drawn: Bootstrap, labels: Labels, scores: Vector) -> Vector:
    sums = drawn.sums(scores, np.asarray(labels, np.float64))
    return _ratio(sums[:, 0], sums[:, 1])


METRICS: Final[Mapping[str, _Metric]] = {
    "auc": _Metric(lambda y, s, _: _known(metrics.auc(y, s)), lambda b, y, s: b.auc(y, s)),
    "gauc": _Metric(lambda y, s, u: _known(metrics.gauc(y, s, u)), _gauc),
    "logloss": _Metric(lambda y, s, _: metrics.log_loss(y, s), lambda b, y, s: b.mean(metrics.log_losses(y, s))),
    "ndcg_at_10": _Metric(lambda y, s, u: _known(metrics.ndcg(y, s, u, k=10)), _ndcg_at_10),
    "normalised_ce": _Metric(lambda y, s, _: _known(metrics.normalised_ce(y, s)), _normalised_ce),
    "ece": _Metric(lambda y, s, _: metrics.ece(y, s), _ece),
    "calibration": _Metric(lambda y, s, _: _known(metrics.calibration_ratio(y, s)), _calibration),
    "mae": _Metric(lambda y, s, _: metrics.mae(y, s), lambda b, y, s: b.mean(np.abs(s - y))),
    "rmse": _Metric(lambda y, s, _: metrics.rmse(y, s), lambda b, y, s: np.sqrt(b.mean(np.square(s - y)))),
}
"""Metric -> how it is computed. Those of classification take labels 0/1; `mae` and `rmse` take numbers."""
