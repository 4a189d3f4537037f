"""What an experiment says so far: first whether it may be believed, then what it found."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import scipy.stats
from definitions.usecase import UseCase
from stores.offline import Lake

from pipelines.experiments import sequential
from pipelines.experiments.comparing import ALPHA, Comparison, Estimate, compare, estimate
from pipelines.experiments.design import Design, Metric, expected_shares, metrics_of
from pipelines.experiments.reading import RUNGS, Facts, Units, read, units_of

ALARM: Final = 0.001
"""p below which a mismatch is an alarm: by chance one experiment in a thousand, at one look."""
LOOKS: Final = 30
"""At most so many points in time of the primary metric's past."""
_DAY_US: Final = 86_400_000_000
Verdict = Literal["void", "too few users", "better", "worse", "no difference found"]


@dataclass(frozen=True, slots=True)
class Look:
    """The primary metric's relative difference as it stood at a time."""

    time_us: int
    users: int
    relative: float
    low: float
    high: float
    p: float


@dataclass(frozen=True)
class Checks:
    """Whether the arms may be compared at all. p values of alarms; `void` says in words what is wrong, empty: nothing.

    `assigned`, `expected`: distinct users by arm. `rungs_p`: rung -> p that its share of answers differs by arm.
    """

    assigned: dict[str, int]
    expected: dict[str, float]
    sample_ratio_p: float
    rungs_p: dict[str, float]
    moved: int
    misplaced: int
    void: tuple[str, ...]


@dataclass(frozen=True)
class Judgement:
    """`found`: every metric of every treatment, the primary ones first. `adjusted_p`: the others', by (arm, metric)."""

    design: Design
    checks: Checks
    users: int
    found: tuple[Comparison, ...]
    adjusted_p: dict[tuple[str, str], float]
    looks: dict[str, tuple[Look, ...]]
    verdicts: dict[str, Verdict]

    def as_dict(self) -> dict[str, Any]:
        """For JSON: no NaN, no infinity."""
        rows = [
            {
                **asdict(each),
                "primary": each.metric == self.design.primary,
                "adjusted_p": self.adjusted_p.get((each.treatment_arm, each.metric)),
            }
            for each in self.found
        ]
        said = {
            "experiment": self.design.name,
            "layer": self.design.layer,
            "control": self.design.control,
            "primary": self.design.primary,
            "planned_users": self.design.planned_users,
            "running": self.design.until_us is None,
            "users": self.users,
            "verdicts": self.verdicts,
            "checks": asdict(self.checks),
            "metrics": rows,
            "looks": {arm: [asdict(look) for look in looks] for arm, looks in self.looks.items()},
        }
        clean: dict[str, Any] = finite(said)
        return clean


def judge(lake: Lake, usecase: UseCase, design: Design, *, alpha: float = ALPHA) -> Judgement:
    """Read the lake and judge.

    The primary metric is tested at alpha / number of treatments; all others together hold a false discovery rate of
    alpha, whatever their dependence (Benjamini, Yekutieli, Annals of Statistics 2001), by always-valid p throughout.
    """
    facts = read(lake, usecase, design)
    units = units_of(facts, usecase)
    checks = check(design, facts, units)
    metrics = metrics_of(usecase)
    primary = metrics[design.primary]
    others = [metric for metric in metrics.values() if metric is not primary]
    control, share = design.arms.index(design.control), alpha / max(1, len(design.treatments))
    found, looks = list[Comparison](), dict[str, tuple[Look, ...]]()
    times = look_times(facts)
    past = [units_of(facts, usecase, time_us) for time_us in times]
    for arm in design.treatments:
        place = design.arms.index(arm)
        planned = _planned(design, arm)
        before = tuple(estimate(then, primary, control, place) for then in past)
        found.append(compare(units, primary, control, place, arm, planned=planned, alpha=share, earlier=before))
        looks[arm] = _looks([*times, _end(facts)], (*before, found[-1].estimate), planned, share)
    for arm in design.treatments:
        place, planned = design.arms.index(arm), _planned(design, arm)
        found += [compare(units, metric, control, place, arm, planned=planned, alpha=alpha) for metric in others]
    return Judgement(
        design=design,
        checks=checks,
        users=len(units),
        found=tuple(found),
        adjusted_p=_adjusted([each for each in found if each.metric != primary.name]),
        looks=looks,
        verdicts={each.treatment_arm: _verdict(each, primary, checks, share) for each in found[: len(looks)]},
    )


def check(design: Design, facts: Facts, units: Units) -> Checks:
    """Sample ratio first; then whether degraded answers fell on the arms alike; then who was where."""
    expected = expected_shares(design) * facts.assigned.sum()
    ratio_p = sample_ratio_p(facts.assigned, expected_shares(design))
    rungs_p = rung_shares_p(design, units)
    void = []
    if ratio_p < ALARM:
        void.append(
            f"sample ratio mismatch (p {ratio_p:.1e}): users are missing from an arm, so those who are left differ; "
            "look for lost impressions, redirects, crashes or bots of one arm"
        )
    for rung, p in rungs_p.items():
        if p < ALARM / len(rungs_p):
            void.append(
                f"answers on rung {rung} fell on the arms unequally (p {p:.1e}): what was compared is partly the "
                "ladder, not the arms; see why one arm's model answers late or not at all"
            )
    strayed = facts.moved + facts.misplaced
    if strayed > ALARM * max(facts.assigned.sum(), 1):
        void.append(
            f"{facts.moved} users were in more than one arm and {facts.misplaced} not in the one of their hash: "
            "was the experiment changed other than by `millrace experiment grow`?"
        )
    return Checks(
        assigned=dict(zip(design.arms, facts.assigned.tolist(), strict=True)),
        expected=dict(zip(design.arms, expected.tolist(), strict=True)),
        sample_ratio_p=ratio_p,
        rungs_p=rungs_p,
        moved=facts.moved,
        misplaced=facts.misplaced,
        void=tuple(void),
    )


def sample_ratio_p(assigned: npt.NDArray[np.int64], shares: npt.NDArray[np.float64]) -> float:
    """Pearson's chi-square of distinct users by arm against their shares; 1 while nobody is there.

    Fabijan et al., Diagnosing Sample Ratio Mismatch in Online Controlled Experiments, KDD 2019.
    """
    counted = shares > 0
    if assigned.sum() == 0 or counted.sum() < 2:
        return 1.0
    found = scipy.stats.chisquare(assigned[counted], shares[counted] / shares[counted].sum() * assigned[counted].sum())
    return float(found.pvalue)


def rung_shares_p(design: Design, units: Units) -> dict[str, float]:
    """Each lower rung -> p that all arms have the same share of answers on it, by Bonferroni over the treatments.

    Users are drawn, not requests, since a user's answers degrade together: the delta method as a test of what users
    have beyond the common share (linearisation: Budylin et al., Consistent Transformation of Ratio Metrics, WSDM 2018),
    its variance taken as if there were no difference, so that one arm that always degrades is found, too.
    """
    control = design.arms.index(design.control)
    treatments = [design.arms.index(arm) for arm in design.treatments]
    requests, found = units.columns["requests"], {}
    for column in RUNGS:
        beyond = units.columns[column] - units.columns[column].sum() / max(requests.sum(), 1.0) * requests
        ps = [_mean_p(beyond[units.arm == control], beyond[units.arm == place]) for place in treatments]
        found[column.removeprefix("on_").upper()] = min(1.0, min(ps) * len(ps))
    return found


def _mean_p(one: npt.NDArray[np.float64], other: npt.NDArray[np.float64]) -> float:
    both = np.concatenate([one, other])
    if min(len(one), len(other)) == 0 or (spread := both.std()) == 0:
        return 1.0
    z = (one.mean() - other.mean()) / (spread * np.sqrt(1 / len(one) + 1 / len(other)))
    return float(2 * scipy.stats.norm.sf(abs(z)))


def look_times(facts: Facts) -> list[int]:
    """Daily, at most `LOOKS`; of less than three days, a tenth of the time each. Event time, the end left out."""
    if not len(facts.people):
        return []
    begin, end = _begin(facts), _end(facts)
    days = (end - begin) // _DAY_US
    count = int(min(LOOKS, days)) if days >= 3 else 10
    return [begin + (end - begin) * part // count for part in range(1, count)]


def _looks(times: Sequence[int], estimates: Sequence[Estimate], planned: int, alpha: float) -> tuple[Look, ...]:
    variance = sequential.mixture(planned, alpha)
    found, p = [], 1.0
    for time_us, each in zip(times, estimates, strict=True):
        if each.fewest < sequential.MIN_USERS or math.isnan(each.relative):
            continue
        error, users = np.array([each.error]), np.array([float(each.users)])
        p = min(p, float(sequential.p_values(np.array([each.effect]), error, users, variance)[0]))
        reach = sequential.multiplier(each.users, variance, alpha) * each.relative_error
        low, high = math.expm1(each.relative - reach), math.expm1(each.relative + reach)
        found.append(Look(time_us, each.users, math.expm1(each.relative), low, high, p))
    return tuple(found)


def _verdict(found: Comparison, metric: Metric, checks: Checks, alpha: float) -> Verdict:
    if checks.void:
        return "void"
    if not found.enough:
        return "too few users"
    if found.p >= alpha:
        return "no difference found"
    return "better" if (found.estimate.effect > 0) == metric.higher_is_better else "worse"


def _adjusted(found: list[Comparison]) -> dict[tuple[str, str], float]:
    if not found:
        return {}
    adjusted = scipy.stats.false_discovery_control([each.p for each in found], method="by")
    return {(each.treatment_arm, each.metric): float(p) for each, p in zip(found, adjusted, strict=True)}


def _planned(design: Design, arm: str) -> int:
    """Users of the arm and the control together, when all that were planned have come."""
    shares: dict[str, float] = dict(zip(design.arms, expected_shares(design).tolist(), strict=True))
    return max(1, round(design.planned_users * (shares[arm] + shares[design.control])))


def _begin(facts: Facts) -> int:
    return int(min(facts.people["first_us"].to_list()))


def _end(facts: Facts) -> int:
    """The newest thing that happened, and a moment after it."""
    times = (frame["time_us"].to_numpy() for frame in (facts.exposures, facts.events))
    return 1 + max((int(each.max()) for each in times if len(each)), default=0)


def finite(value: Any) -> Any:
    """Nested data as JSON can say it: None for what is not finite."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(each) for key, each in value.items()}
    return [finite(each) for each in value] if isinstance(value, list | tuple) else value
