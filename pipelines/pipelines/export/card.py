"""What a bundle tells people: the model card, and the baseline that drift is measured against."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
from bundle import Manifest

from pipelines.evaluation.ablation import MODEL_TITLES
from pipelines.evaluation.calibration import Curve, curve
from pipelines.evaluation.cohorts import ALL, COHORT_METRICS, by_cohort, cohort_masks
from pipelines.evaluation.intervals import Interval

DRIFT_BINS = 20

Ids = npt.NDArray[np.uint64]


def write_reference(features: npt.NDArray[np.float32], names: Sequence[str], path: Path) -> None:
    """The drift baseline of the fit rows: for each column the bins between its quantiles, and their shares.

    Columns `feature`, `bin`, `low` (inclusive), `high` (exclusive; the last is +inf), `share`, `rows`. A column with
    few values gets one bin a value.
    """
    rows = []
    for column, name in enumerate(names):
        values = features[:, column].astype(np.float64)
        inner = np.unique(np.quantile(values, np.linspace(0, 1, DRIFT_BINS + 1)[1:-1], method="higher"))
        counts = np.bincount(np.searchsorted(inner, values, side="right"), minlength=len(inner) + 1)
        edges = np.r_[-np.inf, inner, np.inf]
        rows += [
            {
                "feature": name,
                "bin": place,
                "low": float(edges[place]),
                "high": float(edges[place + 1]),
                "share": float(count / len(values)),
                "rows": len(values),
            }
            for place, count in enumerate(counts.tolist())
        ]
    pl.DataFrame(rows).write_parquet(path)


@dataclass(frozen=True, eq=False)
class Quality:
    """Of the served model on the test rows: cohort -> metric -> interval (all rows first), rows of each cohort, and how
    its probabilities came true.
    """

    cohorts: Mapping[str, Mapping[str, Interval]]
    rows: Mapping[str, int]
    curve: Curve


def quality_of(
    label: npt.NDArray[np.int64],
    scores: npt.NDArray[np.floating],
    users: Ids,
    items: Ids,
    past: tuple[Ids, Ids],
    *,
    seed: int = 0,
) -> Quality:
    """Measure test rows: label, scores, users, items (n,); `past`: users and items of the rows trained on."""
    score = np.asarray(scores, np.float64)
    masks = cohort_masks(*past, users, items)
    return Quality(
        by_cohort(masks, label, score, users, COHORT_METRICS, seed=seed),
        {ALL: len(label), **{name: int(mask.sum()) for name, mask in masks.items()}},
        curve(label, score, users, bins=5, seed=seed),
    )


def _title(model: str | None) -> str:
    return MODEL_TITLES.get(model or "", model or "unknown")


def write_card(
    manifest: Manifest,
    licence: str,
    rows: dict[str, int],
    top: Sequence[tuple[str, float]],
    path: Path,
    quality: Quality | None = None,
) -> None:
    """The model card, Markdown, for people who decide about the model (Mitchell et al., Model Cards, FAT* 2019).

    Args:
        manifest: of the bundle; metrics and parity are read from it.
        licence: of the data; empty where nobody said one.
        rows: part of the time split -> examples in it.
        top: columns that move the score most, and their share of all that moves it.
        path: to write.
        quality: by cohort, with intervals; None where nobody measured it.
    """
    base_rate = next(iter(manifest.metrics.values()))["base_rate"]
    lines = [
        f"# {manifest.name}, version {manifest.version}",
        "",
        "## Purpose",
        f"Orders items for a user of the use case `{manifest.usecase}`. A score is the probability that the event is "
        f"positive. `model.onnx` is {_title(manifest.model)}; `fallback.onnx`, {_title(manifest.fallback)} on the same "
        "columns, answers where the model server does not. Not meant for decisions about people.",
        "",
        "## Verdict",
        *_verdict(manifest),
        "",
        "## Data",
        f"`{manifest.dataset}`; {', '.join(f'{part} {n} rows' for part, n in rows.items())}, split by time, equal "
        f"times never apart. Fitted and validated on {_day(manifest.window.from_us)} to {_day(manifest.window.to_us)}; "
        f"sha256 of the rows {manifest.data_hash[:16]}.",
        "",
        f"Licence of the data: {licence or 'unknown: nobody said one; ask whoever owns the events.'}",
        "",
        f"## Quality on the test rows (later than all others; base rate {_number(base_rate)})",
        "| model | AUC | log-loss | GAUC | NDCG@10 | mean score |",
        "|---|---|---|---|---|---|",
        *(
            f"| {name} | {_number(m['auc'])} | {_number(m['logloss'])} | {_number(m['gauc'])} "
            f"| {_number(m['ndcg_at_10'])} | {_number(m['mean_score'])} |"
            for name, m in manifest.metrics.items()
        ),
        "",
        *(_by_cohort(quality) if quality else []),
        f"Exported against framework: {', '.join(f'{key} {value:.3g}' for key, value in manifest.parity.items())}.",
        "",
        "## What it looks at",
        "Shares of the mean size of all contributions to the raw score, on test rows.",
        "",
        *(f"- `{name}`: {share:.1%}" for name, share in top),
        "",
        "## Limits",
        "- People and items without history get the same columns as everyone, near their priors: expect less there.",
        "- Scores are calibrated (Platt, on the validation rows) for the mixture of that time, not for later ones.",
        "- Trained on what people chose to act on; what they were never shown is not in the data.",
        f"- Code {manifest.commit}, seeds {', '.join(map(str, manifest.seeds))}.",
        "",
    ]
    path.write_text("\n".join(lines), encoding="utf-8")


def _verdict(manifest: Manifest) -> list[str]:
    """What is known when the bundle is sealed; the gate speaks later, and elsewhere."""
    leaks = manifest.leaks or {}
    checked = ", ".join(f"{name} {'held' if held else 'FAILED'}" for name, held in leaks.items())
    return [
        "A challenger: trained, not yet judged. Whether it may serve is the gate's verdict (`millrace promote`), which "
        "is an event on the topic `decisions`: this file is sealed with the bundle.",
        "",
        f"Checks for knowledge of the future, at training: {checked or 'none were run'}.",
    ]


def _by_cohort(quality: Quality) -> list[str]:
    found = quality.curve
    worst = int(np.argmax(np.abs(found.score - found.rate)))
    return [
        "By cohort, the served model with 95 % intervals over users. Cold users have no row before the test rows; head "
        "items are the most frequent, which make up half of the rows before.",
        "",
        "| cohort | rows | AUC | GAUC | log-loss | mean score / mean label |",
        "|---|---|---|---|---|---|",
        *(
            f"| {name} | {quality.rows[name]:,} | {' | '.join(_interval(each[metric]) for metric in COHORT_METRICS)} |"
            for name, each in quality.cohorts.items()
        ),
        "",
        "## Calibration",
        "| promised | came true | 95 % interval | rows |",
        "|---|---|---|---|",
        *(
            f"| {score:.3f} | {rate:.3f} | {low:.3f} to {high:.3f} | {n:,} |"
            for score, rate, low, high, n in zip(
                found.score, found.rate, found.low, found.high, found.rows.tolist(), strict=True
            )
        ),
        "",
        f"Furthest off: {found.score[worst]:.3f} promised, {found.rate[worst]:.3f} came true.",
        "",
    ]


def _interval(each: Interval) -> str:
    if not (math.isfinite(each.low) and math.isfinite(each.high)):
        return _number(each.value if math.isfinite(each.value) else None)
    return f"{each.value:.4f} ({each.low:.4f} to {each.high:.4f})"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _day(time_us: int) -> str:
    return datetime.fromtimestamp(time_us / 1e6, UTC).date().isoformat()
