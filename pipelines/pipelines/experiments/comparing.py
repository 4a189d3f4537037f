"""Two arms by one metric: the estimate by tea-tasting, and an interval that may be looked at at any time."""

import math
import warnings
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from pipelines.experiments import sequential
from pipelines.experiments.design import Metric
from pipelines.experiments.reading import Units

if TYPE_CHECKING:
    from tea_tasting.aggr import Aggregates
    from tea_tasting.metrics import RatioOfMeans

ALPHA: Final = 0.05
_Z: Final = 1.959963984540054  # standard errors of a 95 % interval: what tea-tasting tells is an interval


@dataclass(frozen=True, slots=True)
class Estimate:
    """What one look says of the difference treatment - control.

    `error`: its standard error. `relative` and `relative_error`: of ln(treatment / control); NaN where a mean is not
    positive. `fixed_p`: of a test that is looked at once. `users` of both arms; `fewest` of the smaller one.
    """

    control: float
    treatment: float
    effect: float
    error: float
    relative: float
    relative_error: float
    fixed_p: float
    users: int
    fewest: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """A treatment against the control by one metric, after all looks so far.

    [low, high] covers the true effect at all looks together with probability 1 - alpha; `relative_*` are the same of
    treatment / control - 1. `p` is the smallest always-valid p so far. `fixed_*` hold for one look at the planned size.
    `cuped`: whether the users' past was used; `variance_cut` is the part of the variance that it took away.
    """

    metric: str
    treatment_arm: str
    estimate: Estimate
    low: float
    high: float
    relative_low: float
    relative_high: float
    p: float
    fixed_low: float
    fixed_high: float
    cuped: bool
    variance_cut: float

    @property
    def enough(self) -> bool:
        """Whether each arm has the users that the normal approximation needs."""
        return self.estimate.fewest >= sequential.MIN_USERS


def estimate(units: Units, metric: Metric, control: int, treatment: int, *, cuped: bool = True) -> Estimate:
    """Of one metric between two arms (places in `Design.arms`).

    Means are compared by Welch's formula, ratios by the delta method (Deng, Knoblich, Lu, KDD 2018), each after the
    users' past was regressed out where `cuped` (Deng, Xu, Kohavi, Walker, WSDM 2013): tea-tasting does it.
    """
    names = _columns(units, metric, cuped=cuped)
    analysis = _analysis(*names)
    samples = [aggregates(units.arm == arm, units, [name for name in names if name]) for arm in (control, treatment)]
    counts = [sample.count() for sample in samples]
    if min(counts) < 2:
        return Estimate(*(math.nan,) * 7, users=sum(counts), fewest=min(counts))
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore", RuntimeWarning)  # no variance: the estimate says so with NaN
        try:
            found = analysis.analyze_aggregates(*samples)
        except (ValueError, ZeroDivisionError, OverflowError):  # no logarithm of a ratio of means: one is 0 or below
            return Estimate(*(math.nan,) * 7, users=sum(counts), fewest=min(counts))
    ratio = 1.0 + found.rel_effect_size
    positive = ratio > 0 and found.control > 0
    return Estimate(
        control=float(found.control),
        treatment=float(found.treatment),
        effect=float(found.effect_size),
        error=float(found.effect_size_ci_upper - found.effect_size_ci_lower) / (2 * _Z),
        relative=math.log(ratio) if positive else math.nan,
        relative_error=math.log((1 + found.rel_effect_size_ci_upper) / ratio) / _Z if positive else math.nan,
        fixed_p=float(found.pvalue),
        users=sum(counts),
        fewest=min(counts),
    )


def compare(
    units: Units, metric: Metric, control: int, treatment: int, name: str, *, planned: int, alpha: float = ALPHA,
    earlier: tuple[Estimate, ...] = (),
) -> Comparison:  # fmt: skip
    """After this look and `earlier` ones. `planned`: users of both arms that the interval is narrowest for."""
    plain = estimate(units, metric, control, treatment, cuped=False)
    has_past = _has_past(units, metric)
    now = estimate(units, metric, control, treatment) if has_past else plain
    cut = 1.0 - (now.error / plain.error) ** 2 if has_past and plain.error > 0 else 0.0
    variance = sequential.mixture(planned, alpha)
    reach = sequential.multiplier(now.users, variance, alpha)
    return Comparison(
        metric=metric.name,
        treatment_arm=name,
        estimate=now,
        low=now.effect - reach * now.error,
        high=now.effect + reach * now.error,
        relative_low=math.expm1(now.relative - reach * now.relative_error),
        relative_high=math.expm1(now.relative + reach * now.relative_error),
        p=p_value((*earlier, now), variance),
        fixed_low=now.effect - _Z * now.error,
        fixed_high=now.effect + _Z * now.error,
        cuped=has_past,
        variance_cut=cut,
    )


def p_value(looks: tuple[Estimate, ...], variance: float) -> float:
    """The smallest always-valid p of the looks that had enough users; 1 if none had."""
    counted = [look for look in looks if look.fewest >= sequential.MIN_USERS]
    if not counted:
        return 1.0
    effect, error = (np.array([getattr(look, name) for look in counted]) for name in ("effect", "error"))
    users = np.array([float(look.users) for look in counted])
    return float(sequential.p_values(effect, error, users, variance).min())


def aggregates(chosen: npt.NDArray[np.bool_], units: Units, names: list[str]) -> "Aggregates":
    """Count, means, variances and covariances of some columns over some users."""
    from tea_tasting.aggr import Aggregates

    rows = np.stack([units.columns[name][chosen] for name in names])
    count = rows.shape[1]
    spread = np.atleast_2d(np.cov(rows)) if count > 1 else np.zeros((len(names), len(names)))
    return Aggregates(
        count_=count,
        mean_=dict(zip(names, rows.mean(axis=1).tolist() if count else [0.0] * len(names), strict=True)),
        var_={name: float(spread[i, i]) for i, name in enumerate(names)},
        cov_={(names[i], names[j]): float(spread[i, j]) for i in range(len(names)) for j in range(i)},
    )


def _columns(units: Units, metric: Metric, *, cuped: bool) -> tuple[str, str | None, str | None, str | None]:
    """Numerator, denominator, and their covariates where they are wanted and known."""
    if not cuped or not _has_past(units, metric):
        return metric.numerator, metric.denominator, None, None
    before = None if metric.denominator is None else f"{metric.denominator}_before"
    return metric.numerator, metric.denominator, f"{metric.numerator}_before", before


def _has_past(units: Units, metric: Metric) -> bool:
    past = units.columns.get(f"{metric.numerator}_before")
    if past is None or not len(past) or not np.ptp(past) > 0:
        return False
    return metric.denominator is None or bool(units.columns[f"{metric.denominator}_before"].any())


@cache
def _analysis(
    numerator: str, denominator: str | None, before: str | None, denominator_before: str | None
) -> "RatioOfMeans":
    from tea_tasting.metrics import RatioOfMeans

    return RatioOfMeans(numerator, denominator, before, denominator_before, confidence_level=0.95, use_t=False)
