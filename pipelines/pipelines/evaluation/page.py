"""The report as one HTML file that needs nothing else: pictures inside, no script, no network."""

import math
from pathlib import Path

import jinja2

from pipelines.evaluation import plots
from pipelines.evaluation.ablation import LAGS, Table
from pipelines.evaluation.intervals import Interval
from pipelines.evaluation.report import Report, day
from pipelines.evaluation.study import FLOORS

TOP = 12  # columns shown of a long list


def write_page(report: Report, path: Path, *, commit: str = "") -> None:
    """Render to `path`; the file appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".part")
    aside.write_text(render(report, commit=commit), encoding="utf-8")
    aside.replace(path)


def render(report: Report, *, commit: str = "") -> str:
    """HTML."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pipelines.evaluation"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= {
        "value": _value, "span": _span, "signed": _signed, "signed_span": _signed_span, "sense": _sense, "day": day,
    }  # fmt: skip
    return environment.get_template("report.html.j2").render(
        report=report,
        commit=commit,
        headline=_headline(report),
        verdict=_verdict(report),
        tiles=_tiles(report),
        freshness_line=_freshness_line(report.freshness),
        explained_rows=len(report.explained.found.base),
        example_line=_example_line(report),
        plots=_plots(report),
        shown_columns=_shown_columns(report),
    )


def _headline(report: Report) -> str:
    gain = (report.best.gain or {})["gauc"]
    if gain.low > 0:
        return f"{report.best.label} ranks a user's items better than their average rating does"
    if gain.high < 0:
        return f"No model here ranks a user's items as well as their average rating; best of them: {report.best.label}"
    return f"{report.best.label} is best here, but not surely better than ranking by average rating"


def _verdict(report: Report) -> str:
    """What a product manager takes away, in two or three sentences."""
    best, gain = report.best, (report.best.gain or {})
    ratio = best.metrics["calibration"].value
    models = len(report.models.rows) - len(FLOORS)
    said = [
        f"Of {models} models it has the best {_name(report.primary)} on the validation rows, and loses no guard there; "
        "all figures are of the test rows.",
        f"Against ranking by the item's mean so far it gains {gain['auc'].value:+.4f} AUC "
        f"({_signed_span(gain['auc'])}) and {gain['gauc'].value:+.4f} GAUC ({_signed_span(gain['gauc'])}).",
    ]
    off = abs(ratio - 1)
    said.append(
        f"Its probabilities are right on average within {off:.1%}."
        if off <= 0.05
        else f"Its probabilities are {off:.0%} too {'high' if ratio > 1 else 'low'} on average: retrain or recalibrate."
    )
    return " ".join(said)


def _tiles(report: Report) -> list[dict[str, str]]:
    best = report.best
    drop = _loss_at(report.freshness, "1 h")
    return [
        {"figure": _value(best.metrics["auc"]), "text": f"AUC of {best.label}, {_span(best.metrics['auc'])}"},
        {"figure": _value(best.metrics["gauc"]), "text": f"GAUC, inside each user, {_span(best.metrics['gauc'])}"},
        {
            "figure": _value(best.metrics["calibration"], 3),
            "text": f"mean prediction / mean label, {_span(best.metrics['calibration'], 3)}",
        },
        {"figure": f"{-drop.value:.3f}", "text": f"AUC lost if features are 1 h late ({_span(_minus(drop), 3)})"},
    ]


def _freshness_line(table: Table) -> str:
    drop, again = _loss_at(table, "1 h"), _loss_at(table, "1 h, retrained")
    return (
        f"Features that are one hour late cost {-drop.value:.4f} AUC ({_span(_minus(drop))}); a model that was trained "
        f"on such late features still lacks {-again.value:.4f} ({_span(_minus(again))}). Ten seconds cost "
        f"{-_loss_at(table, '10 s').value:.4f}."
    )


def _loss_at(table: Table, label: str) -> Interval:
    row = next(each for each in table.rows if each.label == label)
    return (row.gain or {})["auc"]


def _example_line(report: Report) -> str:
    found = report.explained.found
    high, low = (1 / (1 + math.exp(-float(found.raw[row]))) for row in (report.explained.best, report.explained.worst))
    return f"scores {high:.2f} and {low:.2f}."


def _plots(report: Report) -> dict[str, str]:
    models = report.models.rows
    real = [row for row in models if row.trial.model != "constant"]
    found = {
        "models": plots.intervals([(row.label, row.metrics["auc"]) for row in real], "AUC"),
        "models_gauc": plots.intervals([(row.label, row.metrics["gauc"]) for row in real], "GAUC"),
        "calibration": plots.calibration(report.curves),
        "cohorts": plots.intervals([(name, each["auc"]) for name, each in report.cohorts.items()], "AUC"),
        "freshness": plots.by_lag(
            list(LAGS),
            [row.metrics["auc"] for row in report.freshness.rows if row.label in LAGS],
            {"1 h": report.freshness.rows[-1].metrics["auc"]},
            "AUC",
        ),
        "importance": plots.bars(report.explained.importance[:TOP], "mean |contribution| to the raw score"),
        "example": _example_plot(report),
    }
    for table in report.tables:
        gains = [(row.label, row.gain["auc"]) for row in table.rows if row.gain]
        found[table.name] = plots.intervals(gains, "gain in AUC", zero=True)
    return found


def _shown_columns(report: Report) -> dict[str, str]:
    """Column of the two plots -> what it is."""
    explained = report.explained
    names = [name for name, _ in explained.importance[:TOP]]
    names += [each.name for each in explained.found.versus(explained.best, explained.worst, TOP)]
    known = explained.meanings
    return {name: known[name].replace("`", "") for name in dict.fromkeys(names) if name in known}


def _example_plot(report: Report) -> str:
    explained = report.explained
    reasons = explained.found.versus(explained.best, explained.worst, TOP)
    rows = [(f"{each.name}{_values(each.value, each.other)}", each.gap or 0.0) for each in reasons]
    return plots.signed_bars(rows, "difference of contributions")


def _values(value: float, other: float | None) -> str:
    if math.isnan(value) or other is None or math.isnan(other):
        return ""
    return f"  ({_short(value)} / {_short(other)})"


def _short(value: float) -> str:
    """Three digits, or all before the point."""
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _name(metric: str) -> str:
    return {"auc": "AUC", "gauc": "GAUC", "logloss": "log-loss"}.get(metric, metric)


def _minus(each: Interval) -> Interval:
    return Interval(-each.value, -each.high, -each.low, each.level)


def _value(each: Interval, digits: int = 4) -> str:
    return f"{each.value:.{digits}f}" if math.isfinite(each.value) else "–"


def _span(each: Interval, digits: int = 4) -> str:
    if not (math.isfinite(each.low) and math.isfinite(each.high)):
        return "interval unknown"
    return f"{each.low:.{digits}f} to {each.high:.{digits}f}"


def _signed(each: Interval) -> str:
    return f"{each.value:+.4f}"


def _signed_span(each: Interval) -> str:
    return f"{each.low:+.4f} to {each.high:+.4f}" if math.isfinite(each.low) else "interval unknown"


def _sense(each: Interval, lower: bool) -> str:
    """Of a gain: `up` or `down` where it is real."""
    if each.low <= 0 <= each.high:
        return ""
    return "up" if (each.value > 0) != lower else "down"
