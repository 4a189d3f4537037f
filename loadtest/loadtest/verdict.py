"""The verdict of a run: its figures, and which targets it missed."""

import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from loadtest.histogram import milliseconds
from loadtest.load import Load
from loadtest.recorder import DROPPED, OK, Recorder
from loadtest.targets import RUNGS, Limits, Suite


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

    `errors` counts each request that had no OK answer, dropped ones included; shares are 0 to 1.
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
    generator_cpu_share: float
    machine: Mapping[str, str | int | None]
    started_at: str
    report_html: str = ""
    report_json: str = ""

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
    cpu_s: float,
    started_at: str,
) -> Verdict:
    """Compare a run with its suite.

    `due` is how many requests the measured time asked for, `spent_s` how long it took to send them, `cpu_s` the
    processor time of the generator in that span.
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
        "generator_cpu_share": cpu_s / max(spent_s, 1e-9),
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
        ok_p99_ms=milliseconds(recorder.ok_latency.quantile_us(0.99)),
        start_delay_p99_ms=milliseconds(recorder.start_delay.quantile_us(0.99)),
        rungs={rung: round(share, 6) for rung, share in rungs.items()},
        models=dict(recorder.models),
        timeline=recorder.timeline(),
        generator_cpu_share=round(figures["generator_cpu_share"] or 0.0, 4),
        machine={"cores": os.cpu_count(), "python": platform.python_version(), "system": platform.platform()},
        started_at=started_at,
    )


def _checks(limits: Limits, figures: Mapping[str, float | None], rungs: Mapping[str, float]) -> list[Check]:
    """Latency, errors and the generator's own load have a ceiling; the achieved rate and the rungs a floor."""
    checks = []
    for name in ("p50_ms", "p99_ms", "p999_ms", "error_share", "generator_cpu_share"):
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
