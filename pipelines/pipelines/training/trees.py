"""Gradient boosting: LightGBM, seeded, stopped early on validation rows."""

from dataclasses import dataclass
from pathlib import Path

import lightgbm
import numpy as np
import numpy.typing as npt

from pipelines.export.graphs_trees import export_trees
from pipelines.progress import Progress
from pipelines.training.encoding import Encoder, fit_encoder
from pipelines.training.linear import fit_calibration, sigmoid
from pipelines.training.ranker import TrainData

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


@dataclass(frozen=True, eq=False)
class TreeRanker:
    """A TreeModel of what an encoder makes of the inputs."""

    encoder: Encoder
    model: TreeModel
    name: str = "lightgbm"

    def score(self, features: Matrix, ints: npt.NDArray[np.int64]) -> Vector:
        """Probabilities, float64 (n,)."""
        return self.model.score(self.encoder.expand(features, ints))

    def export(self, path: Path) -> None:
        """One graph, as `Ranker` says."""
        export_trees(self.model, self.encoder, path)


def fit(data: TrainData, *, seed: int, threads: int, progress: Progress) -> TreeRanker:
    """LightGBM with log-loss, stopped early and calibrated on the validation rows."""
    del progress  # seconds
    encoder = fit_encoder(data)
    valid = encoder.rows(data.valid)
    rows, later = (encoder.rows(data.fit), data.fit.label), (valid, data.valid.label)
    model = fit_trees(rows, later, encoder.names, seed=seed, threads=threads)
    return TreeRanker(encoder, model.calibrated(*fit_calibration(model.logits(valid), data.valid.label)))


def fit_trees(
    fit: tuple[Matrix, npt.NDArray[np.int64]],
    valid: tuple[Matrix, npt.NDArray[np.int64]],
    names: tuple[str, ...],
    *,
    seed: int = 0,
    threads: int = 1,
) -> TreeModel:
    """Boosted trees on `fit`, as many as validation log-loss asks for.

    Args:
        fit: features float32 (n, F) and labels 0/1 (n,).
        valid: later rows, used for early stopping only.
        names: the F column names, for importances.
        seed: of bagging and feature sampling; the same seed and threads give the same trees.
        threads: of LightGBM.
    """
    parameters = {**PARAMETERS, "seed": seed, "num_threads": threads}
    rows = lightgbm.Dataset(fit[0], fit[1], feature_name=list(names), params=parameters, free_raw_data=True)
    later = lightgbm.Dataset(valid[0], valid[1], reference=rows, params=parameters)
    stop = lightgbm.early_stopping(PATIENCE, verbose=False)
    booster = lightgbm.train(parameters, rows, MAX_TREES, valid_sets=[later], callbacks=[stop])
    return TreeModel(booster, booster.best_iteration)
