"""The models of one training, on one time split: floors, logistic regression, gradient boosting."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from definitions.layout import Layout

from pipelines.datasets.split import Split
from pipelines.evaluation.metrics import Metrics, evaluate
from pipelines.progress import SILENT, Progress
from pipelines.training import baselines, linear, trees
from pipelines.training.examples import Examples, Log
from pipelines.training.heads import fit_heads
from pipelines.training.inputs import ALL_GROUPS, Inputs, Ints
from pipelines.training.linear import LinearRanker
from pipelines.training.ranker import train_data
from pipelines.training.trees import TreeRanker

CONSTANT, ITEM_MEAN, LINEAR, TREES = "constant", "item_mean", "lr", "lightgbm"


@dataclass(frozen=True, eq=False)
class Ladder:
    """Fitted models with their figures on the test rows, simplest first."""

    inputs: Inputs
    linear: LinearRanker
    trees: TreeRanker
    metrics: dict[str, Metrics]
    ints: Ints
    """int64 (n, K) of all examples: what the graphs take as `int_features`."""
    heads: Mapping[str, tuple[LinearRanker, TreeRanker]]
    """Of the use case; empty where the label alone is served."""


def fit_ladder(
    layout: Layout,
    examples: Examples,
    split: Split,
    *,
    groups: Collection[str] = ALL_GROUPS,
    log: Log | None = None,
    seed: int = 0,
    threads: int = 1,
    progress: Progress = SILENT,
) -> Ladder:
    """Fit on `split.fit`; choose, stop early and calibrate on `split.valid`; measure on `split.test`.

    Args:
        layout: of the examples' columns.
        examples: all rows; features are point in time, so nothing of a row's future is in it.
        split: masks over the rows.
        groups: of the columns that the models may look at.
        log: what the examples were made of, for item-item scores; without it there are none.
        seed, threads: of the trainers.
        progress: is told each model.
    """
    data, test = train_data(layout, examples, split, groups=groups, log=log, progress=progress)
    progress.stage("train logistic regression")
    line = linear.fit(data, seed=seed, threads=threads, progress=progress)
    progress.stage("train LightGBM")
    boosted = trees.fit(data, seed=seed, threads=threads, progress=progress)

    heads = fit_heads(layout.usecase, data, seed=seed, threads=threads, progress=progress)
    progress.stage("evaluate")
    base_rate = float(data.fit.label.mean())
    item_mean = baselines.streaming_item_mean(examples.item_id, examples.time_us, examples.label, base_rate)
    scores = {
        CONSTANT: baselines.constant(data.fit.label, len(test)),
        ITEM_MEAN: item_mean[split.test],
        LINEAR: line.score(test.features, test.ints),
        TREES: boosted.score(test.features, test.ints),
    }
    metrics = {name: evaluate(test.label, score, test.user_id, seed=seed) for name, score in scores.items()}
    ints = data.inputs.ints_of(layout, examples.user_ints, examples.item_ints)
    return Ladder(data.inputs, line, boosted, metrics, ints, heads)
