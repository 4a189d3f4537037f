"""Gradient boosting: XGBoost, seeded, stopped early on validation rows."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xgboost

from pipelines.export.graphs_xgb import export_xgb
from pipelines.progress import Progress
from pipelines.training.encoded import EncodedRanker
from pipelines.training.encoding import Encoder, fit_encoder
from pipelines.training.linear import fit_calibration, sigmoid
from pipelines.training.ranker import Rows, TrainData

Matrix = npt.NDArray[np.float32]
Vector = npt.NDArray[np.float64]

MAX_TREES = 1000
PATIENCE = 50
PARAMETERS = {
    "objective": "binary:logistic",
    "eval_metric": "logloss",
    "base_score": 0.5,  # logit 0: the margin is the trees' sum, the calibration adds the rest
    "learning_rate": 0.05,
    "max_depth": 6,
    "min_child_weight": 20,
    "subsample": 0.8,
    "colsample_bytree": 0.7,
    "reg_lambda": 5.0,
    "tree_method": "hist",
    "verbosity": 0,
}
PAIRWISE = {
    **PARAMETERS,
    "objective": "rank:pairwise",
    "eval_metric": "ndcg@10",
    "base_score": 0.0,  # the margin's own: the graph adds up trees only
}


@dataclass(frozen=True, eq=False)
class XgbModel:
    """score = sigmoid(slope * margin(x) + shift); every tree of `booster` counts."""

    booster: xgboost.Booster
    slope: float = 1.0
    shift: float = 0.0

    def logits(self, x: Matrix) -> Vector:
        """float64 (n,) of float32 (n, M)."""
        margin = self.booster.predict(xgboost.DMatrix(x), output_margin=True)
        return self.slope * np.asarray(margin, np.float64) + self.shift

    def score(self, x: Matrix) -> Vector:
        """Probabilities, float64 (n,)."""
        return sigmoid(self.logits(x))

    def calibrated(self, slope: float, shift: float) -> "XgbModel":
        """The same model with its logits mapped to slope * logit + shift."""
        return replace(self, slope=self.slope * slope, shift=self.shift * slope + shift)


@dataclass(frozen=True, eq=False)
class XgbRanker(EncodedRanker[XgbModel]):
    """An XgbModel of what an encoder makes of the inputs."""

    name: str = "xgboost"

    def export(self, path: Path) -> None:
        """One graph, as `Ranker` says."""
        export_xgb(self.model, self.encoder, path)


def fit(
    data: TrainData, *, seed: int, threads: int, progress: Progress, parameters: Mapping[str, Any] | None = None
) -> XgbRanker:
    """XGBoost with log-loss, stopped early and calibrated on the validation rows.

    Where the use case's objective is `pairwise`, it orders each list (request, or session) by RankNet's loss (Burges et
    al., ICML 2005); Platt's mapping of its scores on the validation rows stands for probabilities then.
    """
    del progress  # seconds
    encoder = fit_encoder(data)
    pairwise = data.layout.usecase.objective.name == "pairwise"
    rows, later = (_matrix(encoder, part, by_list=pairwise) for part in (data.fit, data.valid))
    chosen = parameters or (PAIRWISE if pairwise else PARAMETERS)
    model = boost(rows, later, chosen, seed=seed, threads=threads)
    logits = model.logits(encoder.rows(data.valid))
    return XgbRanker(encoder, model.calibrated(*fit_calibration(logits, data.valid.label)))


def _matrix(encoder: Encoder, rows: Rows, *, by_list: bool) -> xgboost.DMatrix:
    """`by_list`: rows of one list side by side, without weights, which XGBoost takes of whole lists only."""
    if not by_list:
        return xgboost.DMatrix(encoder.rows(rows), rows.label, weight=rows.weight)
    order = np.argsort(rows.session, kind="stable")
    sizes = np.unique(rows.session, return_counts=True)[1]
    return xgboost.DMatrix(encoder.rows(rows)[order], rows.label[order], group=sizes)


def boost(
    fit: xgboost.DMatrix, valid: xgboost.DMatrix, parameters: Mapping[str, Any], *, seed: int, threads: int
) -> XgbModel:
    """Trees on `fit`, cut at the one that was best on `valid`: a raw Booster would go on past it."""
    booster = xgboost.train(
        {**parameters, "seed": seed, "nthread": threads},
        fit,
        MAX_TREES,
        evals=[(valid, "valid")],
        early_stopping_rounds=PATIENCE,
        verbose_eval=False,
    )
    return XgbModel(booster[: booster.best_iteration + 1])
