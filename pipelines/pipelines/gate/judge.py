"""The rules, as a pure function: what is known of a challenger, of the champion and of simpler models -> a verdict."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from pipelines.evaluation.intervals import Bootstrap, Interval
from pipelines.evaluation.metrics import calibration_ratio
from pipelines.export.parity import MAX_DIFFERENCE, Parity

Scores = npt.NDArray[np.floating]

LADDER: Final = (
    "constant", "popularity", "item_mean", "itemknn", "ease", "ials", "lr", "lightgbm", "xgboost", "lambdarank", "fm",
    "dcn_v2", "dlrm", "two_tower", "sequence",
)  # fmt: skip
"""Simplest first. What is not on it is more complicated than all of it."""

LEVEL: Final = 0.99  # at 95 % one equal model in 40 would pass
RESAMPLES: Final = 2000  # ten of them lie beyond each end of a 99 % interval
MAX_LOSS: Final = 0.005  # of a guard or a cohort, where its interval says that the loss is real
COHORT_ROWS: Final = 500  # a smaller one has no interval that says anything
CALIBRATION: Final = (0.95, 1.05)  # mean score over mean label
PARITY_ROWS: Final = 50_000
ALL: Final = "all"
HIGHER_IS_BETTER: Final[Mapping[str, bool]] = {"auc": True, "gauc": True, "ndcg_at_10": True, "logloss": False}


@dataclass(frozen=True)
class Reason:
    """Why not: the rule that was broken, by a word that stays the same, and a sentence with the figures."""

    rule: str
    text: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.text}"


@dataclass(frozen=True, eq=False)
class Rows:
    """The n rows that all models are judged on: label (n,) 0/1, user_id (n,), and cohorts, name -> bool (n,)."""

    label: npt.NDArray[np.int64]
    user_id: npt.NDArray[np.uint64]
    cohorts: Mapping[str, npt.NDArray[np.bool_]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Evidence:
    """What is known of one model.

    `who`: for people; `model`: its name on the LADDER; `scores` float (n,) on the gate's rows, None where the model
    could not even be opened, and `faults` say why. `parity`: exported graph against framework, None if nobody
    measured it. `latency_ms`: p99 of one request, None where it does not matter (simpler models, the champion).
    """

    who: str
    model: str
    scores: Scores | None
    faults: tuple[Reason, ...] = ()
    parity: Parity | None = None
    latency_ms: float | None = None


@dataclass(frozen=True)
class Bars:
    """What the use case asks for: the metric that decides, those that must not get worse, and the latency in ms."""

    primary: str = "gauc"
    guards: tuple[str, ...] = ("auc", "logloss", "calibration")
    latency_ms: float = 38.0
    parity_rows: int = PARITY_ROWS


@dataclass(frozen=True)
class Comparison:
    """`metric` of the challenger minus that of `against`, better is above 0 whatever the metric; `cohort` or all."""

    against: str
    metric: str
    cohort: str
    better: Interval


@dataclass(frozen=True)
class Verdict:
    """Promoted with no reason against it, or refused for at least one. `for_it`: why, where it was promoted."""

    reasons: tuple[Reason, ...]
    comparisons: tuple[Comparison, ...] = ()
    for_it: str = ""

    @property
    def promoted(self) -> bool:
        """Whether nothing speaks against it."""
        return not self.reasons

    def __str__(self) -> str:
        return self.for_it if self.promoted else "; ".join(map(str, self.reasons))


def judge(
    rows: Rows,
    challenger: Evidence,
    champion: Evidence | None,
    simpler: Sequence[Evidence],
    bars: Bars,
    *,
    seed: int = 0,
) -> Verdict:
    """Whether `challenger` may serve in place of `champion`, and every reason why not.

    Args:
        rows: the test rows, the same for all.
        challenger: who wants to serve.
        champion: who serves; None before the first promotion.
        simpler: models of this split; those that are no simpler than the challenger are left out.
        bars: of the use case.
        seed: of the bootstrap.
    """
    reasons = list(challenger.faults)
    if challenger.scores is None:
        return Verdict(tuple(reasons))
    reasons += _exported(challenger, bars)
    if not np.isfinite(challenger.scores).all():
        reasons.append(Reason("scores", f"{int((~np.isfinite(challenger.scores)).sum())} are NaN or infinite"))
        return Verdict(tuple(reasons))
    reasons += _calibrated(rows, challenger.scores, bars)
    court = _Court(rows, challenger, challenger.scores, bars, seed)
    for other in simpler:
        if rank(other.model) < rank(challenger.model):
            reasons += court.must_beat(other)
    for_it = f"{challenger.who} beats every simpler model on {bars.primary}, and nothing served before it"
    if champion is not None:
        reasons += court.against_champion(champion)
        for_it = f"{challenger.who}: {court.said}"
    return Verdict(tuple(reasons), tuple(court.comparisons), for_it)


def rank(model: str) -> int:
    """Place on the LADDER; what is not there comes last."""
    return LADDER.index(model) if model in LADDER else len(LADDER)


def _exported(challenger: Evidence, bars: Bars) -> list[Reason]:
    found, reasons = challenger.parity, []
    if found is None:
        reasons.append(Reason("parity", "nobody compared the exported graph with the framework"))
    elif found.rows < bars.parity_rows:
        reasons.append(Reason("parity", f"compared on {found.rows} rows, {bars.parity_rows} are asked for"))
    elif found.max_abs > MAX_DIFFERENCE or found.flips:
        reasons.append(Reason("parity", f"{found.max_abs:.3g} off (at most {MAX_DIFFERENCE:g}), {found.flips} flips"))
    if challenger.latency_ms is None:
        reasons.append(Reason("latency", "nobody measured it"))
    elif challenger.latency_ms > bars.latency_ms:
        reasons.append(
            Reason("latency", f"p99 of a request is {challenger.latency_ms:.1f} ms, {bars.latency_ms:g} are there")
        )
    return reasons


def _calibrated(rows: Rows, scores: Scores, bars: Bars) -> list[Reason]:
    if "calibration" not in bars.guards:
        return []
    low, high = CALIBRATION
    ratio = calibration_ratio(rows.label, scores)
    if ratio is not None and low <= ratio <= high:
        return []
    said = "no row is positive" if ratio is None else f"mean score / mean label is {ratio:.3f}"
    return [Reason("calibration", f"{said}, {low:g} to {high:g} is served")]


class _Court:
    """Pairs the challenger with others: the same users are drawn for all."""

    def __init__(self, rows: Rows, challenger: Evidence, scores: Scores, bars: Bars, seed: int) -> None:
        self._rows, self._challenger, self._scores, self._bars = rows, challenger, scores, bars
        self._seed = seed
        self.comparisons: list[Comparison] = []
        self.said = ""

    def must_beat(self, other: Evidence) -> list[Reason]:
        """A simpler model, on the primary metric, with its interval above 0."""
        found = self.compare(other, self._bars.primary)
        if found.low > 0:
            return []
        return [Reason("baseline", f"{self._bars.primary} {_figures(found)} of {other.who}, not above 0")]

    def against_champion(self, champion: Evidence) -> list[Reason]:
        """Better, or as good and simpler; and nowhere clearly worse."""
        primary = self._bars.primary
        found = self.compare(champion, primary)
        reasons: list[Reason] = []
        if found.low > 0:
            self.said = f"{primary} {_figures(found)} of {champion.who}"
        elif rank(self._challenger.model) < rank(champion.model) and found.low > -MAX_LOSS:
            self.said = f"{primary} {_figures(found)} of {champion.who}, as good and simpler"
        else:
            reasons.append(
                Reason("champion", f"{primary} {_figures(found)} of {champion.who}, not above 0: it keeps its place")
            )
        for guard in self._bars.guards:
            if guard != primary and guard in HIGHER_IS_BETTER:
                reasons += self._must_not_lose(champion, guard, ALL, "guard")
        for name, mask in self._rows.cohorts.items():
            if int(mask.sum()) > COHORT_ROWS:
                reasons += self._must_not_lose(champion, primary, name, "cohort")
        return reasons

    def _must_not_lose(self, champion: Evidence, metric: str, cohort: str, rule: str) -> list[Reason]:
        found = self.compare(champion, metric, cohort)
        if found.value >= -MAX_LOSS or found.high >= 0:
            return []
        where = "" if cohort == ALL else f" for {cohort}"
        return [Reason(rule, f"{metric}{where} {_figures(found)} of {champion.who}, at most {MAX_LOSS} may be lost")]

    def compare(self, other: Evidence, metric: str, cohort: str = ALL) -> Interval:
        """Challenger minus `other`, turned so that above 0 is better."""
        if other.scores is None:
            raise ValueError(f"{other.who} has no scores: it cannot be compared with")
        rows = slice(None) if cohort == ALL else self._rows.cohorts[cohort]
        bootstrap = Bootstrap(self._rows.user_id[rows], resamples=RESAMPLES, seed=self._seed, level=LEVEL)
        found = bootstrap.difference(metric, self._rows.label[rows], self._scores[rows], other.scores[rows])
        if not HIGHER_IS_BETTER[metric]:
            found = Interval(-found.value, -found.high, -found.low, found.level)
        self.comparisons.append(Comparison(other.who, metric, cohort, found))
        return found


def _figures(found: Interval) -> str:
    return f"{found.value:+.4f} ({found.low:+.4f} to {found.high:+.4f})"
