"""Writes a verdict as JSON and as one self-contained page with its latencies and rungs over time."""

import dataclasses
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from loadtest.targets import RUNGS
from loadtest.verdict import Verdict

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 920, 260, 56, 16, 12, 30
RUNG_HEIGHT = 120
_NOT_OK = "no answer"
_TICKS_MS = (0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 60_000)


def write_reports(verdict: Verdict, folder: Path) -> Verdict:
    """Write `loadtest-<suite>.json` and `.html` into `folder`; returns the verdict with both paths in it."""
    folder.mkdir(parents=True, exist_ok=True)
    page, data = folder / f"loadtest-{verdict.suite}.html", folder / f"loadtest-{verdict.suite}.json"
    verdict = dataclasses.replace(verdict, report_html=str(page), report_json=str(data))
    replace_file(data, json.dumps(verdict.to_json(), indent=1) + "\n")
    replace_file(page, render(verdict))
    return verdict


def render(verdict: Verdict) -> str:
    """The page of a verdict."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("loadtest", "templates"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template("report.html.j2").render(
        v=verdict, latency=latency_plot(verdict), ladder=rung_plot(verdict), summary=summary_line(verdict)
    )


def summary_line(verdict: Verdict) -> str:
    """One sentence: what was asked, what came, and the verdict."""
    outcome = "passed" if verdict.passed else "missed " + ", ".join(verdict.missed)
    rungs = ", ".join(f"{rung} {share:.1%}" for rung, share in verdict.rungs.items() if share) or "no answers"
    return (
        f"{verdict.rate:g} requests/s x {verdict.candidates} candidates for {verdict.seconds:g} s: "
        f"p50 {_ms(verdict.p50_ms)}, p99 {_ms(verdict.p99_ms)}, {verdict.errors} errors, {rungs} - {outcome}"
    )


def latency_plot(verdict: Verdict) -> dict[str, Any]:
    """Geometry of p50, p99 and maximum per second on a logarithmic axis, with the p99 limit as a line."""
    values = [s[k] for s in verdict.timeline for k in ("p50_ms", "p99_ms", "max_ms") if s[k] is not None]
    limit = next((check.limit for check in verdict.checks if check.target == "p99_ms"), None)
    spread = [*values, limit] if limit is not None else values
    low = max(min(spread, default=1.0) * 0.8, 0.05)
    high = max(max(spread, default=100.0) * 1.25, low * 10)

    def y(ms: float) -> float:
        share = (math.log(max(ms, low)) - math.log(low)) / (math.log(high) - math.log(low))
        return round(TOP + (1 - share) * (HEIGHT - TOP - BOTTOM), 1)

    lines = {
        key: [
            f"{x:.1f},{y(s[key])}"
            for x, s in zip(_middles(verdict), verdict.timeline, strict=True)
            if s[key] is not None
        ]
        for key in ("max_ms", "p99_ms", "p50_ms")
    }
    return {
        "lines": {key: " ".join(points) for key, points in lines.items()},
        "ticks": [(f"{ms:g}", y(ms)) for ms in _TICKS_MS if low <= ms <= high],
        "limit": None if limit is None else (f"p99 limit {limit:g} ms", y(limit)),
        "seconds": _second_ticks(verdict),
    }


def rung_plot(verdict: Verdict) -> dict[str, Any]:
    """Geometry of stacked bars: for each second the shares of its requests by rung, what had no answer on top."""
    bars = []
    width = _step(verdict)
    inner = RUNG_HEIGHT - BOTTOM
    for number, second in enumerate(verdict.timeline):
        parts: list[tuple[str, int]] = [(rung, second["rungs"].get(rung, 0)) for rung in RUNGS]
        parts.append((_NOT_OK, sum(second["errors"].values())))
        total, base = sum(n for _, n in parts), float(inner)
        for name, n in parts:
            if n:
                height = n / total * inner
                base -= height
                bars.append(
                    {
                        "x": round(LEFT + number * width, 2),
                        "y": round(base, 2),
                        "width": round(max(width - min(1.0, width * 0.15), 0.5), 2),
                        "height": round(height, 2),
                        "kind": _css(name),
                        "title": f"second {number}: {name} {n} of {total}",
                    }
                )
    seen = [name for name in (*RUNGS, _NOT_OK) if any(bar["kind"] == _css(name) for bar in bars)]
    return {"bars": bars, "legend": [(name, _css(name)) for name in seen], "seconds": _second_ticks(verdict)}


def _step(verdict: Verdict) -> float:
    return (WIDTH - LEFT - RIGHT) / max(len(verdict.timeline), 1)


def _middles(verdict: Verdict) -> Sequence[float]:
    step = _step(verdict)
    return [LEFT + (number + 0.5) * step for number in range(len(verdict.timeline))]


def _second_ticks(verdict: Verdict) -> list[tuple[int, float]]:
    count = len(verdict.timeline)
    every = next((n for n in (1, 2, 5, 10, 20, 30, 60, 120, 300, 600) if count / n <= 12), 1200)
    step = _step(verdict)
    return [(second, round(LEFT + second * step, 1)) for second in range(0, count + 1, every)]


def _css(name: str) -> str:
    return name.lower().replace("_", "-").replace(" ", "-")


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} ms"


def replace_file(path: Path, text: str) -> None:
    """Write beside, then rename: a reader never sees half a report."""
    beside = path.with_name(path.name + ".tmp")
    beside.write_text(text, encoding="utf-8")
    os.replace(beside, path)
