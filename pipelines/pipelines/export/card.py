"""What a bundle tells people: the model card, and the baseline that drift is measured against."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
from bundle import Manifest

DRIFT_BINS = 20


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


def write_card(
    manifest: Manifest, licence: str, rows: dict[str, int], top: Sequence[tuple[str, float]], path: Path
) -> None:
    """The model card, Markdown.

    Args:
        manifest: of the bundle; metrics and parity are read from it.
        licence: of the data.
        rows: part of the time split -> examples in it.
        top: most used columns and their share of the gain.
        path: to write.
    """
    metrics = [
        "| model | AUC | log-loss | GAUC | NDCG@10 | mean score |",
        "|---|---|---|---|---|---|",
        *(
            f"| {name} | {_number(m['auc'])} | {_number(m['logloss'])} | {_number(m['gauc'])} "
            f"| {_number(m['ndcg_at_10'])} | {_number(m['mean_score'])} |"
            for name, m in manifest.metrics.items()
        ),
    ]
    base_rate = next(iter(manifest.metrics.values()))["base_rate"]
    lines = [
        f"# {manifest.name}, version {manifest.version}",
        "",
        f"Ranks for the use case `{manifest.usecase}`: `model.onnx` is gradient boosting (LightGBM), `fallback.onnx` "
        "logistic regression on the same columns. A score is the probability that the event is positive.",
        "",
        "## Data",
        f"`{manifest.dataset}`; {', '.join(f'{part} {n} rows' for part, n in rows.items())}, split by time, equal "
        f"times never apart. Fitted and validated on {_day(manifest.window.from_us)} to {_day(manifest.window.to_us)}; "
        f"sha256 of the rows {manifest.data_hash[:16]}. {licence}",
        "",
        f"## Quality on the test rows (later than all others; base rate {_number(base_rate)})",
        *metrics,
        "",
        f"Exported against framework: {', '.join(f'{key} {value:.3g}' for key, value in manifest.parity.items())}.",
        "",
        "## What it looks at",
        *(f"- `{name}`: {share:.1%} of the gain" for name, share in top),
        "",
        "## Limits",
        "- People and items without history get the same columns as everyone, near their priors: expect less there.",
        "- Scores are calibrated (Platt, on the validation rows) for the mixture of that time, not for later ones.",
        "- Trained on what people chose to act on; what they were never shown is not in the data.",
        f"- Code {manifest.commit}, seeds {', '.join(map(str, manifest.seeds))}. Unsigned: for development only.",
        "",
    ]
    path.write_text("\n".join(lines), encoding="utf-8")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _day(time_us: int) -> str:
    return datetime.fromtimestamp(time_us / 1e6, UTC).date().isoformat()
