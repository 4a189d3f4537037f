"""The models of one training, on one time split: floors, and those of the use case's ladder."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from definitions.layout import Layout
from definitions.usecase import UseCase

from pipelines.datasets.split import Split
from pipelines.errors import TrainingError
from pipelines.evaluation.metrics import Metrics, evaluate
from pipelines.progress import SILENT, Progress
from pipelines.training import baselines
from pipelines.training.examples import Examples, Log
from pipelines.training.heads import Heads, fit_heads
from pipelines.training.inputs import ALL_GROUPS, Inputs, Ints
from pipelines.training.ranker import RANKERS, Ranker, Rows, TrainData, ranker, train_data

CONSTANT, ITEM_MEAN = "constant", "item_mean"
BY_OBJECTIVE: Final = {
    "cross_entropy": tuple(RANKERS),  # the default: each by its own
    "pairwise": ("xgboost",),
    "lambdarank": ("lambdarank",),
    "in_batch_softmax": ("two_tower",),
}
"""What may be last on the ladder, by the use case's objective; by any other nothing is served."""


@dataclass(frozen=True, eq=False)
class Ladder:
    """Fitted models with the figures of all of them on the test rows, simplest first.

    `model` is the last of the use case's ladder, what rung MODEL serves, `fallback` the one of rung LOCAL_MODEL. `ints`
    int64 (n, K) of all examples: what the graphs take as `int_features`. `heads`: name -> the fallback's model and the
    model's; empty where the label alone is served.
    """

    data: TrainData
    test: Rows
    model: Ranker
    fallback: Ranker
    metrics: dict[str, Metrics]
    ints: Ints
    heads: Heads

    @property
    def inputs(self) -> Inputs:
        """What the models read."""
        return self.data.inputs


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
        layout: of the examples' columns; its use case says which models.
        examples: all rows; features are point in time, so nothing of a row's future is in it.
        split: masks over the rows.
        groups: of the columns that the models may look at.
        log: what the examples were made of, for item-item scores; without it there are none.
        seed, threads: of the trainers.
        progress: is told each model.

    Raises:
        TrainingError: the use case asks for what no bundle can hold, or for a library that is not installed.
    """
    usecase = layout.usecase
    names = ladder_of(usecase, progress)
    data, test = train_data(layout, examples, split, groups=groups, log=log, progress=progress)
    models = {}
    for name in names:
        progress.stage(f"train {name}")
        models[name] = ranker(name)(data, seed=seed, threads=threads, progress=progress)
    rungs = usecase.models.fallback, names[-1]
    heads = fit_heads(usecase, data, names=rungs, seed=seed, threads=threads, progress=progress)
    progress.stage("evaluate")
    base_rate = float(data.fit.label.mean())
    item_mean = baselines.streaming_item_mean(examples.item_id, examples.time_us, examples.label, base_rate)
    scores = {
        CONSTANT: baselines.constant(data.fit.label, len(test)),
        ITEM_MEAN: item_mean[split.test],
        **{name: model.score(test.features, test.ints) for name, model in models.items()},
    }
    metrics = {name: evaluate(test.label, score, test.user_id, seed=seed) for name, score in scores.items()}
    ints = data.inputs.ints_of(layout, examples.user_ints, examples.item_ints)
    return Ladder(data, test, models[names[-1]], models[usecase.models.fallback], metrics, ints, heads)


def ladder_of(usecase: UseCase, progress: Progress = SILENT) -> tuple[str, ...]:
    """The models of the use case that rank candidates, simplest first; the last is served.

    Floors are measured in any case, and what orders the whole catalogue is for `candidates`: `progress` is told.

    Raises:
        TrainingError: no such model is on the ladder, or the last of them does not fit task or objective; the message
            names the field.
    """
    wanted, objective = usecase.models, usecase.objective
    names = tuple(name for name in wanted.ladder if name in RANKERS)
    if usecase.task.type == "regression":
        raise TrainingError(
            f"task.type: a bundle holds scores of what people do, not a regression; python -m pipelines.deep --usecase "
            f"{usecase.name} trains one and tells MAE and RMSE"
        )
    if not names or wanted.fallback not in names:
        raise TrainingError(
            f"models: {', '.join(wanted.ladder)} with fallback {wanted.fallback}: both rungs need a model that ranks "
            f"candidates; use {', '.join(RANKERS)}"
        )
    if names[-1] not in (fitting := BY_OBJECTIVE.get(objective.name, ())):
        asked = f"make {' or '.join(fitting)} the last of models" if fitting else "that is of a regression"
        raise TrainingError(f"objective: {names[-1]} is not trained by {objective.name}; {asked}")
    deep = [name for name in (wanted.fallback, names[-1]) if RANKERS[name].startswith("pipelines.deep.")]
    if usecase.heads and deep:
        raise TrainingError(
            f"models: {deep[0]} trains all heads as one network, whose score is no probability of the label; end the "
            "ladder with lr, lightgbm or xgboost, which have a model for each head, or remove `heads`"
        )
    if others := [name for name in wanted.ladder if name not in (*names, CONSTANT, ITEM_MEAN)]:
        progress.note(f"models: {', '.join(others)} find candidates and rank none; name them under candidates.sources")
    return names
