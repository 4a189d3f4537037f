"""Gradient boosting: LightGBM, seeded, stopped early on validation rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import lightgbm
import numpy as np
import numpy.typing as npt

from pipelines.export.graphs_trees import export_trees
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
    "objective": "binary",
    "metric": "binary_logloss",
    "learning_rate": 0.05,
    "num_leaves": 31,
    "min_data_in_leaf": 100,
    "feature_fraction": 0.7,
    "bagging_fraction": 0.8,
    "bagging_freq": 1,
    "lambda_l2": 5.0,
    "max_bin": 255,
    "deterministic": True,
    "force_row_wise": True,
    "verbosity": -1,
}
RANKING = {
    **PARAMETERS,
    "objective": "lambdarank",
    "metric": "ndcg",
    "eval_at": [10],
    "lambdarank_truncation_level": 50,
}


@dataclass(frozen=True)
class TreeModel:
    """score = sigmoid(slope * raw(features) + shift), raw = the sum of the first `trees` trees."""

    booster: lightgbm.Booster
    trees: int
    slope: float = 1.0
    shift: float = 0.0

    def raw(self, features: Matrix) -> Vector:
        """Sum of leaf values, float64 (n,), for float32 (n, F)."""
        raw = self.booster.predict(features, num_iteration=self.trees, raw_score=True)
        return np.asarray(raw, np.float64)

    def logits(self, features: Matrix) -> Vector:
        """float64 (n,)."""
        return self.slope * self.raw(features) + self.shift

    def score(self, features: Matrix) -> Vector:
        """Probabilities, float64 (n,)."""
        return sigmoid(self.logits(features))

    def calibrated(self, slope: float, shift: float) -> "TreeModel":
        """The same model with its logits mapped to slope * logit + shift."""
        return TreeModel(self.booster, self.trees, self.slope * slope, self.shift * slope + shift)


class Sample(NamedTuple):
    """x float32 (n, M), label int64 (n,), weight float32 (n,), and the sizes of consecutive lists, for LambdaRank."""

    x: Matrix
    label: npt.NDArray[np.int64]
    weight: npt.NDArray[np.float32] | None = None
    lists: npt.NDArray[np.int64] | None = None


@dataclass(frozen=True, eq=False)
class TreeRanker(EncodedRanker[TreeModel]):
    """A TreeModel of what an encoder makes of the inputs."""

    name: str = "lightgbm"

    def export(self, path: Path) -> None:
        """One graph, as `Ranker` says."""
        export_trees(self.model, self.encoder, path)


def fit(
    data: TrainData, *, seed: int, threads: int, progress: Progress, parameters: Mapping[str, Any] = PARAMETERS
) -> TreeRanker:
    """LightGBM with log-loss, stopped early and calibrated on the validation rows."""
    del progress  # seconds
    encoder = fit_encoder(data, native=True)
    valid = encoder.rows(data.valid)
    rows = Sample(encoder.rows(data.fit), data.fit.label, data.fit.weight)
    later = Sample(valid, data.valid.label, data.valid.weight)
    model = fit_trees(rows, later, encoder.names, parameters, seed=seed, threads=threads, native=encoder.native)
    return TreeRanker(encoder, model.calibrated(*fit_calibration(model.logits(valid), data.valid.label)))


def fit_lambdarank(
    data: TrainData, *, seed: int, threads: int, progress: Progress, parameters: Mapping[str, Any] = RANKING
) -> TreeRanker:
    """LightGBM that orders each list (request, or session) by LambdaRank (Burges, MSR-TR-2010-82).

    It has no probabilities of its own: Platt's mapping of its scores on the validation rows stands for them.
    """
    del progress
    encoder = fit_encoder(data, native=True)
    rows, later = (_by_list(encoder, part) for part in (data.fit, data.valid))
    model = fit_trees(rows, later, encoder.names, parameters, seed=seed, threads=threads, native=encoder.native)
    slope, shift = fit_calibration(model.logits(later.x), later.label)
    return TreeRanker(encoder, model.calibrated(slope, shift), "lambdarank")


def _by_list(encoder: Encoder, rows: Rows) -> Sample:
    """Rows of one list side by side, as the objective wants them."""
    order = np.argsort(rows.session, kind="stable")
    sizes = np.unique(rows.session, return_counts=True)[1]
    return Sample(encoder.rows(rows)[order], rows.label[order], rows.weight[order], sizes)


def fit_trees(
    fit: Sample | tuple[Matrix, npt.NDArray[np.int64]],
    valid: Sample | tuple[Matrix, npt.NDArray[np.int64]],
    names: Sequence[str],
    parameters: Mapping[str, Any] = PARAMETERS,
    *,
    seed: int = 0,
    threads: int = 1,
    native: Sequence[int] = (),
) -> TreeModel:
    """Boosted trees on `fit`, as many as the metric on `valid` asks for.

    Args:
        fit: rows to learn from.
        valid: later rows, used for early stopping only.
        names: the M column names, for importances.
        parameters: of LightGBM.
        seed: of bagging and feature sampling; the same seed and threads give the same trees.
        threads: of LightGBM.
        native: places of columns that hold codes.
    """
    settings = {**parameters, "seed": seed, "num_threads": threads}
    fit, valid = Sample(*fit), Sample(*valid)
    common: dict[str, Any] = {"params": settings, "categorical_feature": list(native)}
    rows = lightgbm.Dataset(
        fit.x, fit.label, weight=fit.weight, group=fit.lists, feature_name=list(names), free_raw_data=True, **common
    )
    later = lightgbm.Dataset(valid.x, valid.label, weight=valid.weight, group=valid.lists, reference=rows, **common)
    stop = lightgbm.early_stopping(PATIENCE, verbose=False)
    booster = lightgbm.train(settings, rows, MAX_TREES, valid_sets=[later], callbacks=[stop])
    return TreeModel(booster, booster.best_iteration)
