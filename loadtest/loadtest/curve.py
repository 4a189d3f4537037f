"""Writes what a saturation search found: JSON, a CSV row a step, and a plot."""

import csv
import dataclasses
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loadtest.report import replace_file
from loadtest.saturation import Saturation, Step

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INK, _SOFT, _BAD, _P50, _P99, _GOOD, _SHED, _FAILED = (
    "#1c2430", "#5b6675", "#b3261e", "#2563eb", "#b45309", "#14804a", "#d19a00", "#dc2626"
)  # fmt: skip
COLUMNS = (
    "kind", "rate", "seconds", "holds", "goodput_rps", "p50_ms", "p99_ms", "ok_p99_ms", "model_share", "requests",
    "errors", "shed", "unshed", "generator_cores",
)  # fmt: skip


def write_saturation(found: Saturation, folder: Path) -> Saturation:
    """Write `loadtest-<suite>.json`, `.csv` and `.png` into `folder`; returns the result with their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    data, table, plot = (folder / f"loadtest-{found.suite}.{kind}" for kind in ("json", "csv", "png"))
    found = dataclasses.replace(found, report_json=str(data), report_csv=str(table), report_png=str(plot))
    replace_file(data, json.dumps(found.to_json(), indent=1) + "\n")
    replace_file(table, as_csv(found.steps))
    draw(found, plot)
    return found


def as_csv(steps: Sequence[Step]) -> str:
    """A row a step in the order in which they ran, with the cores that each watched process took."""
    watched = sorted({name for step in steps for name in step.resources.get("cores", {})})
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*COLUMNS, *(f"{name}_cores" for name in watched)])
    for step in steps:
        cores = step.resources.get("cores", {})
        writer.writerow([*(getattr(step, name) for name in COLUMNS), *(cores.get(name, "") for name in watched)])
    return text.getvalue()


def draw(found: Saturation, path: Path) -> None:
    """Three panels over the rate asked: latency with its limit, what became of the requests, cores taken."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (latency, fate, cores) = plt.subplots(3, 1, figsize=(9, 10.5), sharex=True, layout="constrained")
    steps = sorted(found.steps, key=lambda step: step.rate)
    _latency(latency, steps, found)
    _fate(fate, steps)
    _cores(cores, steps)
    for axes in (latency, fate, cores):
        axes.grid(visible=True, color="#dfe4ea", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_ylim(bottom=0) if axes is not latency else None
        if found.knee_rps is not None:
            axes.axvline(found.knee_rps, color=_INK, linewidth=1.2)
        if found.prediction is not None:
            axes.axvline(found.prediction.knee_rps, color=_INK, linewidth=1.2, linestyle=":")
    cores.set_xlabel("requests a second asked")
    figure.suptitle(_title(found), fontsize=12, color=_INK)
    beside = path.with_name(f".{path.name}")
    figure.savefig(beside, dpi=110, format="png")
    plt.close(figure)
    beside.replace(path)


def _latency(axes: "Axes", steps: Sequence[Step], found: Saturation) -> None:
    for name, label, colour in (
        ("p50_ms", "p50", _P50),
        ("p99_ms", "p99 of all", _P99),
        ("ok_p99_ms", "p99 of OK", _GOOD),
    ):
        _line(axes, steps, [getattr(step, name) for step in steps], label, colour)
    if found.prediction is not None:
        foretold = [(step.rate, found.prediction.p99_ms(step.rate)) for step in steps]
        near = [(rate, ms) for rate, ms in foretold if ms < 2 * found.deadline_ms]
        axes.plot([r for r, _ in near], [ms for _, ms in near], ":", color=_P99, linewidth=1.2, label="p99 foretold")
    axes.axhline(found.deadline_ms, color=_BAD, linestyle="--", linewidth=1, label=f"deadline {found.deadline_ms} ms")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_ylabel("ms from the schedule")
    if found.knee_rps is not None:
        axes.annotate(
            f" knee {found.knee_rps:g}/s", (found.knee_rps, axes.get_ylim()[0]), color=_INK, va="bottom", fontsize=9
        )
    axes.legend(loc="center right", fontsize=8, frameon=False)


def _fate(axes: "Axes", steps: Sequence[Step]) -> None:
    model = [step.goodput_rps * step.model_share for step in steps]
    lower = [step.goodput_rps - by_model for step, by_model in zip(steps, model, strict=True)]
    shed, failed = ([getattr(step, name) / step.seconds for step in steps] for name in ("shed", "unshed"))
    axes.stackplot(
        [step.rate for step in steps], model, lower, shed, failed,
        labels=["OK on MODEL", "OK on a lower rung", "shed with a push-back", "neither"],
        colors=[_P50, "#0e9488", _SHED, _FAILED], alpha=0.85,
    )  # fmt: skip
    axes.set_ylabel("requests a second")
    axes.legend(loc="upper left", fontsize=8, frameon=False)


def _cores(axes: "Axes", steps: Sequence[Step]) -> None:
    totals: dict[str, float] = {}
    for step in steps:
        for name, used in step.resources.get("cores", {}).items():
            totals[name] = max(totals.get(name, 0.0), used)
    for name in sorted(totals, key=lambda each: -totals[each])[:5]:
        _line(axes, steps, [step.resources.get("cores", {}).get(name) for step in steps], name, None)
    _line(axes, steps, [step.generator_cores for step in steps], "this generator", _SOFT)
    axes.set_ylabel("cores")
    axes.legend(loc="upper left", fontsize=8, frameon=False)


def _line(axes: "Axes", steps: Sequence[Step], values: Sequence[float | None], label: str, colour: str | None) -> None:
    known = [(step.rate, value) for step, value in zip(steps, values, strict=True) if value is not None]
    axes.plot(
        [r for r, _ in known], [v for _, v in known], "o-", color=colour, markersize=3.5, linewidth=1.3, label=label
    )


def _title(found: Saturation) -> str:
    def said(value: Any, unit: str = "") -> str:
        return "-" if value is None else f"{value:g}{unit}"

    foretold = None if found.prediction is None else found.prediction.knee_rps
    share = None if found.goodput_share_at_overload is None else round(found.goodput_share_at_overload * 100, 1)
    return (
        f"{found.candidates} candidates, {found.machine.get('cores')} cores: knee {said(found.knee_rps, '/s')} "
        f"(foretold {said(foretold, '/s')})\nat {found.overload:g} times that: goodput {said(share, ' %')} of it, "
        f"p99 of OK {said(found.overload_p99_ms, ' ms')}"
    )
