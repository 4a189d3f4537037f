"""What an experiment found, as one HTML file that needs nothing else: pictures inside, no script, no network."""

import math
from pathlib import Path
from typing import Final

import jinja2

from pipelines.evaluation import plots
from pipelines.evaluation.intervals import Interval
from pipelines.evaluation.report import day
from pipelines.experiments.comparing import Comparison
from pipelines.experiments.design import Metric
from pipelines.experiments.judging import ALARM, Judgement
from pipelines.experiments.sequential import MIN_USERS

_DAY_US: Final = 86_400_000_000.0
_SHOWN: Final = 1.0  # of the forest plot: an interval that is wider than the value itself says nothing


def write_page(found: Judgement, metrics: dict[str, Metric], path: Path, *, usecase: str, commit: str = "") -> None:
    """Render to `path`; the file appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".part")
    aside.write_text(render(found, metrics, usecase=usecase, commit=commit), encoding="utf-8")
    aside.replace(path)


def render(found: Judgement, metrics: dict[str, Metric], *, usecase: str, commit: str = "") -> str:
    """HTML; `metrics` are those that the judgement is made of, by name."""
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader(
            [jinja2.PackageLoader("pipelines.experiments"), jinja2.PackageLoader("pipelines.evaluation")]
        ),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"percent": _percent, "p": p_text, "figure": _figure, "day": day, "zip": zip}
    return environment.get_template("experiment.html.j2").render(
        found=found,
        design=found.design,
        usecase=usecase,
        commit=commit,
        headline=headline(found),
        tiles=_tiles(found),
        sense=lambda each: _sense(each, metrics[each.metric]),
        plots=_plots(found),
        alarm=ALARM,
        min_users=MIN_USERS,
    )


def headline(found: Judgement) -> str:
    """The verdict on every treatment in a sentence."""
    design = found.design
    if found.checks.void:
        return f"{design.name} is void: its arms cannot be compared"
    said = []
    for each in found.found[: len(design.treatments)]:
        arm, verdict = each.treatment_arm, found.verdicts[each.treatment_arm]
        if verdict in ("better", "worse"):
            said.append(
                f"{arm} is {verdict} than {design.control}: {design.primary} {_percent(each.estimate.relative)}"
            )
        elif verdict == "too few users":
            said.append(f"{arm}: too few users to say anything yet")
        else:
            said.append(f"{arm}: no difference from {design.control} found so far")
    return "; ".join(said)


def p_text(value: float | None) -> str:
    """A probability that people can read."""
    if value is None or math.isnan(value):
        return "–"
    return f"{value:.3f}" if value >= 0.001 else f"{value:.0e}" if value > 0 else "0"


def _tiles(found: Judgement) -> list[dict[str, str]]:
    tiles = [
        {"figure": f"{found.users:,}", "text": f"users, of {found.design.planned_users:,} planned"},
        {"figure": p_text(found.checks.sample_ratio_p), "text": f"p of the sample ratio; below {ALARM:g} is an alarm"},
    ]
    for each in found.found[: len(found.design.treatments)]:
        span = f"{_percent(math.log1p(each.relative_low))} to {_percent(math.log1p(each.relative_high))}"
        tiles.insert(
            0, {"figure": _percent(each.estimate.relative), "text": f"{each.treatment_arm}: {each.metric}, {span}"}
        )
    return tiles


def _plots(found: Judgement) -> dict[str, str]:
    rows, design = [], found.design
    for each in found.found:
        if math.isfinite(each.relative_low) and each.relative_high - each.relative_low < 2 * _SHOWN:
            label = each.metric if len(design.treatments) == 1 else f"{each.metric}, {each.treatment_arm}"
            rows.append((label, Interval(math.expm1(each.estimate.relative), each.relative_low, each.relative_high)))
    made = {"metrics": plots.intervals(rows, "difference from control", zero=True, percent=True)} if rows else {}
    looks = {arm: looks for arm, looks in found.looks.items() if len(looks) > 1}
    if looks:
        longest = max(looks.values(), key=len)
        first = longest[0].time_us
        days = [(look.time_us - first) / _DAY_US for look in longest]
        curves = {arm: [Interval(look.relative, look.low, look.high) for look in each] for arm, each in looks.items()}
        made["looks"] = plots.over_time(days, curves, f"{design.primary}, difference")
    return made


def _sense(each: Comparison, metric: Metric) -> str:
    """`up` for good, `down` for bad, where the always-valid interval leaves 0 out."""
    if not each.enough or not (each.low > 0 or each.high < 0):
        return ""
    return "up" if (each.estimate.effect > 0) == metric.higher_is_better else "down"


def _percent(log_ratio: float) -> str:
    """Of ln(treatment / control)."""
    return f"{math.expm1(log_ratio):+.1%}" if math.isfinite(log_ratio) else "–"


def _figure(value: float) -> str:
    return f"{value:,.4g}" if math.isfinite(value) else "–"
