"""`millrace evaluate --report`: everything that is known about the models of a use case, on one page for everybody."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from definitions.reference import meanings

from pipelines.evaluation.ablation import (
    LAGS,
    MODEL_TITLES,
    Alternative,
    Table,
    answer,
    compared,
    freshness,
    questions,
)
from pipelines.evaluation.calibration import Curve, curve
from pipelines.evaluation.cohorts import COHORT_METRICS, by_cohort, cohort_masks
from pipelines.evaluation.intervals import Interval
from pipelines.evaluation.metrics import evaluate
from pipelines.evaluation.study import FLOORS, Study, Trial
from pipelines.explain import Contributions, contributions
from pipelines.explain.rankers import reference_row
from pipelines.gate.judge import HIGHER_IS_BETTER, MAX_LOSS
from pipelines.progress import Progress

MODELS = ("lr", "lightgbm", "xgboost", "lambdarank")  # always tried; the use case's ladder is added
EXPLAINED_ROWS = 2000
LOWER_IS_BETTER = frozenset({"logloss", "normalised_ce", "ece", "mae", "rmse"})


@dataclass(frozen=True, eq=False)
class Explained:
    """What the best model leans on, and one user's best against its worst row. `meanings`: column -> what it is."""

    method: str
    meanings: Mapping[str, str]
    importance: list[tuple[str, float]]
    found: Contributions
    best: int
    worst: int


@dataclass(frozen=True, eq=False)
class Report:
    """All figures of a page. `off_policy`, `retrieval`: None where there is nothing to say, and then why."""

    usecase: str
    source: str
    licence: str
    primary: str
    rows: Mapping[str, int]
    users: int
    base_rate: float
    test_from_us: int
    test_to_us: int
    models: Table
    best: Alternative
    curves: Mapping[str, Curve]
    cohorts: Mapping[str, Mapping[str, Interval]]
    cohort_rows: Mapping[str, int]
    tables: tuple[Table, ...]
    freshness: Table
    explained: Explained
    retrieval: Mapping[str, Mapping[str, float]] | None
    off_policy: Mapping[str, Any] | str
    skipped: tuple[str, ...]
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """The figures, for `--json`."""
        return {
            "dataset": self.source,
            "rows": dict(self.rows),
            "base_rate": self.base_rate,
            "best": self.best.trial.model,
            "models": {each.trial.model: _figures(each) for each in self.models.rows},
            "cohorts": {
                name: {metric: each.as_dict() for metric, each in metrics.items()}
                for name, metrics in self.cohorts.items()
            },
            "ablations": {
                table.name: {each.label: _figures(each) for each in table.rows}
                for table in (*self.tables, self.freshness)
            },
            "retrieval": self.retrieval,
            "off_policy": self.off_policy,
            "skipped": list(self.skipped),
            "seconds": round(self.seconds, 2),
        }


def build_report(
    study: Study,
    *,
    licence: str,
    models: Sequence[str] | None = None,
    retrievers: Sequence[str] = (),
    off_policy: Mapping[str, Any] | str,
    progress: Progress,
) -> Report:
    """Train and measure whatever is not kept yet; some minutes on 2 cores the first time.

    Args:
        study: data, split, and where scores are kept.
        licence: of the data.
        models: those compared; None takes MODELS and the use case's ladder.
        retrievers: models of `pipelines.retrieval.ladder` whose lists are measured too, over all interactions.
        off_policy: estimates, or why there are none.
        progress: is told each trial.

    Raises:
        TrainingError: too little data, or a model whose library is not installed.
    """
    began = time.monotonic()
    progress.stage("build examples")
    study.prepare()
    names = tuple(models or dict.fromkeys((*MODELS, *(each for each in study.usecase.models.ladder))))
    asked = list(questions(study))
    progress.stage("train and compare", len(names) + sum(len(each.trials) for each in asked) + len(LAGS) + 3)
    study.told = progress
    trials = [Trial(name, study.groups) for name in (*FLOORS, *(name for name in names if name not in FLOORS))]
    floor = study.scores(trials[1])
    rows = tuple(
        compared(study, MODEL_TITLES[trial.model], trial, study.scores(trial), None if trial.model in FLOORS else floor)
        for trial in trials
    )
    primary = study.usecase.task.primary
    best = _chosen(study, rows[len(FLOORS) :])
    title = "The models" if len(study.groups) == 1 else "The models, on all groups of features"
    table = Table("models", title, "Which model is best?", "Gains are against the item mean.", rows)
    tables = tuple(answer(study, each) for each in asked)
    late = freshness(study)
    scores = study.scores(best.trial)
    split, examples = study.split, study.examples
    past = split.fit | split.valid
    masks = cohort_masks(
        examples.user_id[past], examples.item_id[past], study.users, examples.item_id[split.test],
        codes=study.context_codes(),
    )  # fmt: skip
    shown = dict.fromkeys([best.trial.model, "lr", "item_mean"])
    times = examples.time_us[split.test]
    return Report(
        usecase=study.usecase.name,
        source=study.log.source,
        licence=licence,
        primary=primary,
        rows={part: int(getattr(split, part).sum()) for part in ("fit", "valid", "test")},
        users=len(np.unique(study.users)),
        base_rate=float(study.labels.mean()),
        test_from_us=int(times.min()),
        test_to_us=int(times.max()),
        models=table,
        best=best,
        curves={
            row.label: curve(study.labels, study.scores(row.trial), study.users)
            for row in rows
            if row.trial.model in shown
        },
        cohorts=by_cohort(masks, study.labels, scores, study.users, COHORT_METRICS),
        cohort_rows={name: int(mask.sum()) for name, mask in masks.items()},
        tables=tables,
        freshness=late,
        explained=_explained(study, best.trial),
        retrieval=study.retrieval(retrievers) if retrievers else None,
        off_policy=off_policy,
        skipped=tuple(name for name in study.usecase.models.ladder if name not in (*names, *FLOORS)),
        seconds=time.monotonic() - began,
    )


def _chosen(study: Study, rows: Sequence[Alternative]) -> Alternative:
    """By the validation rows, as the gate will see it: the best by the primary metric of those that lose no more of a
    guard than the gate allows to the model that is best by that guard.
    """
    valid, task = study.split.valid, study.usecase.task
    label, users = study.examples.label[valid], study.examples.user_id[valid]

    def measured(row: Alternative) -> dict[str, float]:
        """Larger is better, whatever the metric."""
        found = evaluate(label, study.valid_scores(row.trial), users).as_dict()
        return {
            name: (-math.inf if (value := found[name]) is None else -value if name in LOWER_IS_BETTER else value)
            for name in (task.primary, *(guard for guard in task.guards if guard in HIGHER_IS_BETTER))
        }

    found = [measured(row) for row in rows]
    best = {name: max(each[name] for each in found) for name in found[0]}
    fair = [i for i, each in enumerate(found) if all(each[n] >= best[n] - MAX_LOSS for n in best if n != task.primary)]
    return rows[max(fair or range(len(rows)), key=lambda i: found[i][task.primary])]


def _explained(study: Study, trial: Trial) -> Explained:
    """Over evenly spread test rows; the example is the user with most of them, best against worst item."""
    fitted = study.fitted(trial)
    test, fit = fitted.test, fitted.data.fit
    places = np.linspace(0, len(test) - 1, min(EXPLAINED_ROWS, len(test))).astype(np.int64)
    inputs, reference = fitted.data.inputs, reference_row(fit.features, fit.ints)
    found = contributions(
        fitted.ranker, test.features[places], test.ints[places], inputs=inputs, reference=reference
    ).by_feature()
    users, counts = np.unique(test.user_id[places], return_counts=True)
    own = np.flatnonzero(test.user_id[places] == users[np.argmax(counts)])
    raw = found.raw[own]
    kinds = {"lr": "coefficient times value", "lightgbm": "exact SHAP", "lambdarank": "exact SHAP"}
    kinds |= {"xgboost": "exact SHAP", "lr_one_hot": "coefficients", "lr_hashed": "coefficients"}
    return Explained(
        method=kinds.get(trial.model, "integrated gradients"),
        meanings=meanings(study.layout),
        importance=found.importance(),
        found=found,
        best=int(own[np.argmax(raw)]),
        worst=int(own[np.argmin(raw)]),
    )


def _figures(row: Alternative) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, each in row.metrics.items():
        told = each.as_dict()
        found |= {name: told["value"], f"{name}_lo": told["low"], f"{name}_hi": told["high"]}
    for name, each in (row.gain or {}).items():
        found[f"{name}_gain"] = each.as_dict()
    return found


def day(time_us: int) -> str:
    """2026-01-31, UTC."""
    return datetime.fromtimestamp(time_us / 1e6, UTC).date().isoformat()
