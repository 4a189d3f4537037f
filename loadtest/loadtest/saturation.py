"""Finds the highest rate that holds, goes well past it, and compares both with what low rates foretold."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from loadtest.capacity import Prediction, predict
from loadtest.errors import BadInput
from loadtest.targets import Search, Suite
from loadtest.verdict import Check, Verdict

CONFIRMATIONS: Final = 6
BEYOND: Final = (1.25, 1.5, 2.0)  # of the knee, for the curve
LEAST_RATE: Final = 5.0


Measure = Callable[[float, float], Verdict]
"""(rate, seconds) -> what that many requests a second gave in that time, after a warm-up."""


@dataclass(frozen=True)
class Step:
    """One rate and what it gave. Latencies in ms from the schedule; shares 0 to 1; `holds`: the knee's conditions."""

    kind: str
    rate: float
    seconds: float
    holds: bool
    achieved_share: float
    goodput_rps: float
    p50_ms: float | None
    p99_ms: float | None
    ok_p99_ms: float | None
    model_share: float
    rungs: Mapping[str, float]
    requests: int
    errors: int
    errors_by_code: Mapping[str, int]
    shed: int
    unshed: int
    generator_cores: float
    resources: Mapping[str, Any]

    @classmethod
    def of(cls, kind: str, verdict: Verdict, search: Search) -> "Step":
        """The step that a run was."""
        fast = verdict.p99_ms is not None and verdict.p99_ms <= search.knee_p99_ms
        answered = verdict.requests > 0 and verdict.goodput_rps * verdict.seconds / verdict.requests
        return cls(
            kind=kind,
            rate=verdict.rate,
            seconds=verdict.seconds,
            # who is sent away is not served: a model's share is of all that asked
            holds=fast and verdict.model_share * answered >= search.knee_model_share,
            achieved_share=verdict.achieved_share,
            goodput_rps=verdict.goodput_rps,
            p50_ms=verdict.p50_ms,
            p99_ms=verdict.p99_ms,
            ok_p99_ms=verdict.ok_p99_ms,
            model_share=verdict.model_share,
            rungs=verdict.rungs,
            requests=verdict.requests,
            errors=verdict.errors,
            errors_by_code=verdict.errors_by_code,
            shed=verdict.shed,
            unshed=verdict.unshed,
            generator_cores=verdict.generator_cpu_share,
            resources=verdict.resources,
        )


@dataclass(frozen=True)
class Saturation:
    """All that a search found. None: no rate held, so there is nothing to compare with."""

    suite: str
    passed: bool
    missed: list[str]
    checks: list[Check]
    target: str
    candidates: int
    deadline_ms: int
    overload: float
    knee_rps: float | None
    goodput_share_at_overload: float | None
    overload_p99_ms: float | None
    unshed_at_overload: int | None
    prediction: Prediction | None
    model_error: float | None
    generator_cores: float
    steps: list[Step]
    machine: Mapping[str, str | int | None] = field(default_factory=dict)
    started_at: str = ""
    report_json: str = ""
    report_csv: str = ""
    report_png: str = ""

    @property
    def knee(self) -> Step | None:
        """The run that confirmed the knee."""
        return next((step for step in reversed(self.steps) if step.kind == "knee" and step.holds), None)

    def to_json(self) -> dict[str, Any]:
        """Plain data, with the keys that every suite has: those of the run at the knee."""
        knee = self.knee
        at_knee = {
            "rate": None if knee is None else knee.rate,
            "p50_ms": None if knee is None else knee.p50_ms,
            "p99_ms": None if knee is None else knee.p99_ms,
            "errors": None if knee is None else knee.errors,
            "model_share": None if knee is None else knee.model_share,
        }
        return {**at_knee, **asdict(self)}


def saturate(suite_name: str, suite: Suite, measure: Measure) -> Saturation:
    """Search, confirm, overload, judge.

    Raises:
        BadInput: the suite has no search.
        LoadTestError: what `measure` raises.
    """
    search = suite.search
    if search is None:
        raise BadInput(f"suite {suite_name!r} has no `search`; take saturation")
    looker = _Looker(search, suite.seconds, measure)
    for rate in search.calibrate:
        looker.look("calibrate", rate)
    prediction = predict([step for step in looker.steps if step.kind == "calibrate"], search.knee_p99_ms)
    knee = _confirmed(looker, search, _bracket(looker, search, suite.rate))
    overloaded = None
    if knee is not None:
        for times in BEYOND:
            if times != search.overload and knee.rate * times <= search.max_rate:
                looker.look("beyond", knee.rate * times)
        overloaded = looker.look("overload", knee.rate * search.overload, search.confirm_s)
    return _judged(suite_name, suite, search, looker, knee, overloaded, prediction)


class _Looker:
    """Measures rates and keeps what was found."""

    def __init__(self, search: Search, seconds: float, measure: Measure) -> None:
        self._search = search
        self._seconds = seconds
        self._measure = measure
        self.steps: list[Step] = []
        self.last: Verdict | None = None

    def look(self, kind: str, rate: float, seconds: float | None = None) -> Step:
        """One run."""
        self.last = self._measure(round(rate, 1), seconds or self._seconds)
        self.steps.append(Step.of(kind, self.last, self._search))
        return self.steps[-1]

    def holds(self, kind: str, rate: float) -> bool:
        """Whether a rate holds, at the second try at the latest: one hiccup of a shared machine is no limit."""
        return self.look(kind, rate).holds or self.look(kind, rate).holds


def _bracket(looker: _Looker, search: Search, first: float) -> float | None:
    """The highest rate found to hold, within `precision` of one that does not; None if none holds."""
    high: float | None = None
    low: float | None = None
    rate = first
    while low is None or high is None:
        if looker.holds("search", rate):
            low = rate
            if rate >= search.max_rate:
                return rate
            rate = min(rate * search.factor, search.max_rate)
        else:
            high = rate
            rate = rate / search.factor
            if low is None and rate < LEAST_RATE:
                return None
    while high / low > 1 + search.precision:
        rate = (low * high) ** 0.5
        if looker.holds("search", rate):
            low = rate
        else:
            high = rate
    return low


def _confirmed(looker: _Looker, search: Search, rate: float | None) -> Step | None:
    """The longer run at the knee; where it does not hold, a little lower."""
    for _ in range(CONFIRMATIONS if rate is not None else 0):
        assert rate is not None  # noqa: S101 - the range says so
        step = looker.look("knee", rate, search.confirm_s)
        if step.holds:
            return step
        rate *= 1 - search.precision
    return None


def _judged(
    suite_name: str,
    suite: Suite,
    search: Search,
    looker: _Looker,
    knee: Step | None,
    overloaded: Step | None,
    prediction: Prediction | None,
) -> Saturation:
    knee_rps = None if knee is None else knee.rate
    share = None if knee is None or overloaded is None else overloaded.goodput_rps / knee.rate
    p99_ms = None if overloaded is None else overloaded.ok_p99_ms
    unshed = None if overloaded is None else overloaded.unshed / max(overloaded.requests, 1)
    error = None if knee_rps is None or prediction is None else abs(prediction.knee_rps - knee_rps) / knee_rps
    busiest = max((step.generator_cores for step in looker.steps), default=0.0)
    behind = min((step.achieved_share for step in looker.steps), default=1.0)
    checks = [
        _check("goodput_share_at_overload", search.goodput_share, share, floor=True),
        _check("overload_p99_ms", search.overload_p99_ms, p99_ms),
        _check("unshed_share_at_overload", search.unshed_share, unshed),
        _check("model_error", search.model_error, error),
        _check("generator_cpu_share", suite.limits.generator_cpu_share, busiest),
        _check("achieved_share", suite.limits.achieved_share, behind, floor=True),
    ]
    missed = [check.target for check in checks if not check.held]
    last = looker.last
    return Saturation(
        suite=suite_name,
        passed=not missed,
        missed=missed,
        checks=checks,
        target="" if last is None else last.target,
        candidates=suite.candidates if last is None else last.candidates,
        deadline_ms=suite.deadline_ms if last is None else last.deadline_ms,
        overload=search.overload,
        knee_rps=knee_rps,
        goodput_share_at_overload=_rounded(share),
        overload_p99_ms=p99_ms,
        unshed_at_overload=None if overloaded is None else overloaded.unshed,
        prediction=prediction,
        model_error=_rounded(error),
        generator_cores=busiest,
        steps=looker.steps,
        machine={} if last is None else last.machine,
        started_at="" if last is None else last.started_at,
    )


def _check(target: str, limit: float, measured: float | None, *, floor: bool = False) -> Check:
    held = measured is not None and (measured >= limit if floor else measured <= limit)
    return Check(target, limit, _rounded(measured), held)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
