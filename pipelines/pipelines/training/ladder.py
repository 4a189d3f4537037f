"""The models of one training, on one time split: floors, logistic regression, gradient boosting."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from bundle import IntInputs
from definitions.layout import Layout

from pipelines.datasets.split import Split
from pipelines.evaluation.metrics import Metrics, evaluate
from pipelines.progress import SILENT, Progress
from pipelines.training import baselines
from pipelines.training.encoding import Encoder, fit_encoder
from pipelines.training.examples import Examples
from pipelines.training.linear import LinearModel, fit_calibration, fit_linear
from pipelines.training.trees import TreeModel, fit_trees

CONSTANT, ITEM_MEAN, LINEAR, TREES = "constant", "item_mean", "lr", "lightgbm"


@dataclass(frozen=True)
class Ladder:
    """Fitted models with their figures on the test rows, simplest first."""

    encoder: Encoder
    linear: LinearModel
    trees: TreeModel
    metrics: dict[str, Metrics]
    ints: npt.NDArray[np.int64] | None
    """int64 (n, K) of all examples: what the graphs take as `int_features`."""


def fit_ladder(
    layout: Layout, examples: Examples, split: Split, *, seed: int = 0, threads: int = 1, progress: Progress = SILENT
) -> Ladder:
    """Fit on `split.fit`; choose, stop early and calibrate on `split.valid`; measure on `split.test`.

    Args:
        layout: of the examples' columns.
        examples: all rows; features are point in time, so nothing of a row's future is in it.
        split: masks over the rows.
        seed, threads: of the trainers.
        progress: is told each model.
    """
    fit, valid, test = split.fit, split.valid, split.test
    encoder = fit_encoder(layout, examples.user_ints[fit], examples.item_ints[fit])
    picked = IntInputs(encoder.int_names, layout.user_int_names, layout.item_int_names, {})
    ints = picked(examples.user_ints, examples.item_ints)
    x = encoder.expand(examples.features, ints)
    rows, later = (x[fit], examples.label[fit]), (x[valid], examples.label[valid])

    progress.stage("train logistic regression")
    linear = fit_linear(rows, later, numbers=examples.features.shape[1], seed=seed)
    linear = linear.calibrated(*fit_calibration(linear.logits(later[0]), later[1]))
    progress.stage("train LightGBM")
    trees = fit_trees(rows, later, encoder.names, seed=seed, threads=threads)
    trees = trees.calibrated(*fit_calibration(trees.logits(later[0]), later[1]))

    progress.stage("evaluate")
    base_rate = float(examples.label[fit].mean())
    item_mean = baselines.streaming_item_mean(examples.item_id, examples.time_us, examples.label, base_rate)
    scores = {
        CONSTANT: baselines.constant(examples.label[fit], int(test.sum())),
        ITEM_MEAN: item_mean[test],
        LINEAR: linear.score(x[test]),
        TREES: trees.score(x[test]),
    }
    labels, users = examples.label[test], examples.user_id[test]
    metrics = {name: evaluate(labels, score, users, seed=seed) for name, score in scores.items()}
    return Ladder(encoder, linear, trees, metrics, ints)
