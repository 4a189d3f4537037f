"""The verdict of a run: its figures, and which targets it missed."""

import math
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from loadtest.histogram import milliseconds
from loadtest.load import Load
from loadtest.recorder import DROPPED, OK, Recorder
from loadtest.targets import RUNGS, Limits, Phase, Suite
from loadtest.watching import Resources

RECOVERED_S = 3
RECOVERED_SHARE = 0.95  # of a second's answers
_CEILINGS = (
    "p50_ms", "p99_ms", "p999_ms", "ok_p99_ms", "error_share", "unshed_share", "recovery_s", "p99_drift",
    "rss_growth_mib", "generator_cpu_share",
)  # fmt: skip


@dataclass(frozen=True)
class Check:
    """One target: what was asked, what was measured, and whether it holds."""

    target: str
    limit: float
    measured: float | None
    held: bool


@dataclass(frozen=True)
class Verdict:
    """All that a run found. Latencies in ms from the schedule, over every request that was due.

    `errors` counts each request that had no OK answer, dropped ones included; `shed` those of them that the server sent
    away with a push-back, `unshed` the rest. `goodput_rps`: OK answers a second. Shares are 0 to 1.
    """

    suite: str
    passed: bool
    missed: list[str]
    checks: list[Check]
    target: str
    usecase: str
    mode: str
    rate: float
    achieved_rate: float
    achieved_share: float
    seconds: float
    warmup_s: float
    candidates: int
    deadline_ms: int
    model_share: float
    goodput_rps: float
    shed: int
    unshed: int
    requests: int
    warmup_requests: int
    ok: int
    errors: int
    errors_by_code: Mapping[str, int]
    error_details: Mapping[str, str]
    late: int
    dropped: int
    p50_ms: float | None
    p99_ms: float | None
    p999_ms: float | None
    max_ms: float | None
    ok_p99_ms: float | None
    start_delay_p99_ms: float | None
    rungs: Mapping[str, float]
    models: Mapping[str, int]
    timeline: list[dict[str, Any]]
    phases: list[dict[str, Any]]
    generator_cpu_share: float
    resources: Mapping[str, Any]
    machine: Mapping[str, str | int | None]
    started_at: str
    report_html: str = ""
    report_json: str = ""
    runs: list[dict[str, Any]] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Plain data, ready for `json.dumps`."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Verdict":
        """The verdict that `to_json` wrote."""
        return cls(**{**data, "checks": [Check(**check) for check in data["checks"]]})


def judge(
    suite_name: str,
    suite: Suite,
    load: Load,
    recorder: Recorder,
    *,
    due: int,
    spent_s: float,
    resources: Resources,
    started_at: str,
) -> Verdict:
    """Compare a run with its suite.

    `due` is how many requests the measured time asked for, `spent_s` how long it took to send them, `resources` what
    the machine gave meanwhile.
    """
    ended = recorder.latency.count
    ok = recorder.codes[OK]
    errors = ended - ok
    achieved_rate = (ended - recorder.dropped) / max(spent_s, 1e-9)
    asked_rate = due / load.seconds
    figures: dict[str, float | None] = {
        "p50_ms": milliseconds(recorder.latency.quantile_us(0.5)),
        "p99_ms": milliseconds(recorder.latency.quantile_us(0.99)),
        "p999_ms": milliseconds(recorder.latency.quantile_us(0.999)),
        "error_share": errors / ended if ended else None,
        "achieved_share": achieved_rate / asked_rate if due else None,
        "ok_p99_ms": milliseconds(recorder.ok_latency.quantile_us(0.99)),
        "unshed_share": (errors - recorder.shed) / ended if ended else None,
        "recovery_s": _recovery_s(suite.phases, recorder),
        "p99_drift": _drift(load.seconds, recorder),
        "rss_growth_mib": max(resources.rss_growth_mib.values(), default=None),
        "generator_cpu_share": resources.generator_cores,
    }
    rungs = {rung: recorder.rungs[rung] / ok if ok else 0.0 for rung in RUNGS}
    checks = _checks(suite.limits, figures, rungs)
    missed = [check.target for check in checks if not check.held]
    return Verdict(
        suite=suite_name,
        passed=not missed,
        missed=missed,
        checks=checks,
        target=load.target,
        usecase=load.usecase,
        mode=load.mode,
        rate=load.rate,
        achieved_rate=round(achieved_rate, 2),
        achieved_share=round(figures["achieved_share"] or 0.0, 4),
        seconds=load.seconds,
        warmup_s=load.warmup_s,
        candidates=load.candidates,
        deadline_ms=load.deadline_ms,
        model_share=round(rungs["MODEL"], 6),
        goodput_rps=round(ok / load.seconds, 2),
        shed=recorder.shed,
        unshed=errors - recorder.shed,
        requests=ended,
        warmup_requests=recorder.warmup_requests,
        ok=ok,
        errors=errors,
        errors_by_code={code: n for code, n in sorted(recorder.codes.items()) if code != OK},
        error_details=dict(sorted(recorder.first_details.items())),
        late=recorder.late,
        dropped=recorder.codes[DROPPED],
        p50_ms=figures["p50_ms"],
        p99_ms=figures["p99_ms"],
        p999_ms=figures["p999_ms"],
        max_ms=milliseconds(recorder.latency.max_us) if ended else None,
        ok_p99_ms=figures["ok_p99_ms"],
        start_delay_p99_ms=milliseconds(recorder.start_delay.quantile_us(0.99)),
        rungs={rung: round(share, 6) for rung, share in rungs.items()},
        models=dict(recorder.models),
        timeline=recorder.timeline(),
        phases=_phases(suite.phases, recorder),
        generator_cpu_share=resources.generator_cores,
        resources=resources.to_json(),
        machine={"cores": os.cpu_count(), "python": platform.python_version(), "system": platform.platform()},
        started_at=started_at,
    )


def median_of(verdicts: Sequence[Verdict]) -> Verdict:
    """The run whose p99 is in the middle (of an even number, the worse of the two), with all runs in `runs`.

    A run without any answer is the worst.
    """
    ranked = sorted(verdicts, key=lambda each: math.inf if each.p99_ms is None else each.p99_ms)
    shown = ("passed", "missed", "p50_ms", "p99_ms", "p999_ms", "errors", "model_share", "generator_cpu_share", "late")
    runs = [{name: getattr(each, name) for name in (*shown, "started_at")} for each in verdicts]
    return replace(ranked[len(ranked) // 2], runs=runs)


def _phases(phases: Sequence[Phase], recorder: Recorder) -> list[dict[str, Any]]:
    """Each phase's own figures; a phase is cut at whole seconds."""
    found, begins_s = [], 0.0
    for phase in phases:
        part = recorder.between(begins_s, begins_s + phase.seconds)
        begins_s += phase.seconds
        found.append(
            {
                **phase.model_dump(),
                "requests": part.latency.count,
                "goodput_rps": round(part.codes[OK] / phase.seconds, 2),
                "p50_ms": milliseconds(part.latency.quantile_us(0.5)),
                "p99_ms": milliseconds(part.latency.quantile_us(0.99)),
                "ok_p99_ms": milliseconds(part.ok_latency.quantile_us(0.99)),
                "errors": {code: n for code, n in sorted(part.codes.items()) if code != OK},
                "rungs": dict(part.rungs),
            }
        )
    return found


def _recovery_s(phases: Sequence[Phase], recorder: Recorder) -> float | None:
    """Seconds from the end of the highest phase until RECOVERED_S of them in a row are free of errors and on MODEL."""
    if not phases:
        return None
    top = max(range(len(phases)), key=lambda place: phases[place].rate)
    begins = math.ceil(sum(phase.seconds for phase in phases[: top + 1]))
    good = 0
    for second in range(begins, int(sum(phase.seconds for phase in phases))):
        part = recorder.between(second, second + 1)
        well = part.codes[OK] == part.latency.count and part.rungs["MODEL"] >= RECOVERED_SHARE * part.codes[OK]
        good = good + 1 if well else 0
        if good == RECOVERED_S:
            return float(second + 1 - RECOVERED_S - begins)
    return None


def _drift(seconds: float, recorder: Recorder) -> float | None:
    """p99 of the last quarter of the time as a multiple of the first quarter's."""
    first, last = recorder.between(0, seconds / 4), recorder.between(seconds * 3 / 4, seconds)
    before, after = first.latency.quantile_us(0.99), last.latency.quantile_us(0.99)
    return after / before if before and after is not None else None


def _checks(limits: Limits, figures: Mapping[str, float | None], rungs: Mapping[str, float]) -> list[Check]:
    """Latency, errors and the generator's own load have a ceiling; the achieved rate and the rungs a floor."""
    checks = []
    for name in _CEILINGS:
        limit, measured = getattr(limits, name), figures[name]
        if limit is not None:
            checks.append(_check(name, limit, measured, held=measured is not None and measured <= limit))
    floors = {"achieved_share": (limits.achieved_share, figures["achieved_share"])}
    floors |= {f"rungs.{rung}": (share, rungs[rung]) for rung, share in limits.rungs.items()}
    for name, (limit, measured) in floors.items():
        checks.append(_check(name, limit, measured, held=measured is not None and measured >= limit))
    return checks


def _check(name: str, limit: float, measured: float | None, *, held: bool) -> Check:
    return Check(name, limit, None if measured is None else round(measured, 6), held)
