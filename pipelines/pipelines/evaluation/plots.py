"""The report's pictures, as SVG text: one style, no state outside a figure."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from pipelines.evaluation.calibration import Curve
from pipelines.evaluation.intervals import Interval

INK, MUTED, GRID = "#1f2933", "#52606d", "#e4e7eb"
COLOURS = ("#0b69a3", "#c65d21", "#2f8132", "#7b3fa0", "#8d6e00", "#a61b4b")
_STYLE: Any = {  # matplotlib types its keys one by one
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "xtick.color": MUTED,
    "ytick.color": INK,
    "svg.hashsalt": "millrace",  # the same figures give the same bytes
}
_WIDTH = 7.6  # inches


def intervals(rows: Sequence[tuple[str, Interval]], label: str, *, zero: bool = False, percent: bool = False) -> str:
    """One point and its interval a row, first row on top; `zero`: with a line at 0, for gains; `percent`: of shares."""
    with mpl.rc_context(_STYLE):
        figure, axes = _figure(0.34 * len(rows) + 0.9)
        for place, (_, each) in enumerate(rows):
            real = zero and np.isfinite(each.low) and (each.low > 0 or each.high < 0)
            colour = COLOURS[0] if not zero or real else MUTED
            if np.isfinite(each.low) and np.isfinite(each.high):
                axes.plot([each.low, each.high], [place, place], color=colour, lw=2, solid_capstyle="round")
            axes.plot(each.value, place, "o", color=colour, ms=6)
        if zero:
            axes.axvline(0, color=INK, lw=1)
        axes.set_yticks(range(len(rows)), [name for name, _ in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlabel(label)
        if percent:
            axes.xaxis.set_major_formatter(PercentFormatter(1.0))
        return _svg(figure)


def calibration(curves: Mapping[str, Curve]) -> str:
    """What was promised against what came true."""
    with mpl.rc_context(_STYLE):
        figure, axes = _figure(4.6, width=5.8)
        ends = [float(each) for curve in curves.values() for each in (*curve.score, *curve.rate)]
        low, high = max(0.0, min(ends) - 0.06), min(1.0, max(ends) + 0.06)
        axes.plot([low, high], [low, high], color=MUTED, lw=1, ls="--", label="as promised")
        for colour, (name, curve) in zip(COLOURS, curves.items(), strict=False):
            error = [curve.rate - curve.low, curve.high - curve.rate]
            axes.errorbar(
                curve.score, curve.rate, yerr=np.maximum(error, 0), fmt="o-", ms=4, lw=1.5, capsize=2, color=colour,
                label=name,
            )  # fmt: skip
        axes.set_xlim(low, high)
        axes.set_ylim(low, high)
        axes.grid(axis="y", color=GRID)
        axes.set_xlabel("predicted probability")
        axes.set_ylabel("share that came true")
        axes.legend(frameon=False, loc="upper left")
        return _svg(figure)


def by_lag(labels: Sequence[str], values: Sequence[Interval], retrained: Mapping[str, Interval], label: str) -> str:
    """A metric by how late features are; `retrained` are points of models that were trained on late features."""
    with mpl.rc_context(_STYLE):
        figure, axes = _figure(3.4)
        places = np.arange(len(labels))
        middle = np.array([each.value for each in values])
        low, high = np.array([each.low for each in values]), np.array([each.high for each in values])
        axes.fill_between(places, low, high, color=COLOURS[0], alpha=0.15, lw=0)
        axes.plot(places, middle, "o-", color=COLOURS[0], label="trained on fresh features")
        for place, value in zip(places.tolist(), middle.tolist(), strict=True):
            axes.annotate(f"{value:.3f}", (place, value), (0, 9), textcoords="offset points", ha="center", fontsize=9)
        for i, (name, each) in enumerate(retrained.items()):
            error = [[max(each.value - each.low, 0)], [max(each.high - each.value, 0)]]
            axes.errorbar(
                [list(labels).index(name) + 0.3], [each.value], yerr=error, fmt="s", ms=5, capsize=2, color=COLOURS[1],
                label="trained on features of that age" if i == 0 else None,
            )  # fmt: skip
        axes.set_xticks(places, list(labels))
        axes.set_xlim(-0.4, len(labels) - 0.6)
        axes.margins(y=0.15)
        axes.grid(axis="x", visible=False)
        axes.grid(axis="y", color=GRID)
        axes.set_xlabel("how late the features are")
        axes.set_ylabel(label)
        axes.legend(frameon=False, loc="lower left")
        return _svg(figure)


def over_time(days: Sequence[float], curves: Mapping[str, Sequence[Interval]], label: str) -> str:
    """How estimates and their intervals went, one band a name, over days since the first estimate; with a line at 0."""
    with mpl.rc_context(_STYLE):
        figure, axes = _figure(3.4)
        for colour, (name, values) in zip(COLOURS, curves.items(), strict=False):
            at = np.asarray(days)[len(days) - len(values) :]
            low, high = np.array([each.low for each in values]), np.array([each.high for each in values])
            axes.fill_between(at, low, high, color=colour, alpha=0.15, lw=0)
            axes.plot(at, [each.value for each in values], "o-", ms=4, color=colour, label=name)
        axes.axhline(0, color=INK, lw=1)
        axes.grid(axis="x", visible=False)
        axes.grid(axis="y", color=GRID)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.set_xlabel("days since the first of them")
        axes.set_ylabel(label)
        if len(curves) > 1:
            axes.legend(frameon=False, loc="upper right")
        return _svg(figure)


def bars(rows: Sequence[tuple[str, float]], label: str) -> str:
    """Horizontal bars, first row on top."""
    with mpl.rc_context(_STYLE):
        figure, axes = _figure(0.3 * len(rows) + 0.9)
        axes.barh(range(len(rows)), [value for _, value in rows], color=COLOURS[0], height=0.62)
        axes.set_yticks(range(len(rows)), [name for name, _ in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlabel(label)
        return _svg(figure)


def signed_bars(rows: Sequence[tuple[str, float]], label: str) -> str:
    """Bars to both sides of 0, for and against."""
    with mpl.rc_context(_STYLE):
        figure, axes = _figure(0.3 * len(rows) + 0.9)
        values = [value for _, value in rows]
        axes.barh(
            range(len(rows)), values, color=[COLOURS[0] if value >= 0 else COLOURS[1] for value in values], height=0.62
        )
        axes.axvline(0, color=INK, lw=1)
        axes.set_yticks(range(len(rows)), [name for name, _ in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlabel(label)
        return _svg(figure)


def _figure(height: float, width: float = _WIDTH) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.grid(axis="x", color=GRID)
    axes.set_axisbelow(True)
    return figure, axes


def _svg(figure: Figure) -> str:
    out = io.StringIO()
    metadata: dict[str, Any] = {"Date": None, "Creator": None}
    figure.savefig(out, format="svg", transparent=True, metadata=metadata)
    text = out.getvalue()
    return text[text.index("<svg") :]
