"""One model for each head of a use case: what people do beside the label, weighed when served."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from definitions.usecase import UseCase

from pipelines.errors import TrainingError
from pipelines.progress import Progress
from pipelines.training import linear, trees
from pipelines.training.linear import LinearRanker
from pipelines.training.ranker import Rows, TrainData
from pipelines.training.trees import TreeRanker

LEAST = 10  # positives, and negatives, that a head needs among fit and among validation rows


def fit_heads(
    usecase: UseCase, data: TrainData, *, seed: int, threads: int, progress: Progress
) -> Mapping[str, tuple[LinearRanker, TreeRanker]]:
    """Probability of each head: name -> the fallback's and the model's, in the use case's order.

    Nothing where the use case has no heads; nor where one cannot be had of these models or of this data, which
    `progress` is told: the label alone is served then.
    """
    if not usecase.heads:
        return {}
    try:
        parts = {name: _of_head(usecase, data, name) for name in usecase.heads}
    except TrainingError as exc:
        progress.note(f"served by its label alone: {exc}")
        return {}
    found = {}
    for name, part in parts.items():
        progress.stage(f"train head {name}")
        line = linear.fit(part, seed=seed, threads=threads, progress=progress)
        found[name] = line, trees.fit(part, seed=seed, threads=threads, progress=progress)
    return found


def _of_head(usecase: UseCase, data: TrainData, name: str) -> TrainData:
    if usecase.heads[name].value is not None:
        raise TrainingError(f"heads.{name} predicts a value, which deep models do (millrace train --all)")
    return replace(data, fit=_labelled(data.fit, name), valid=_labelled(data.valid, name))


def _labelled(rows: Rows, name: str) -> Rows:
    label = (rows.heads[name] > 0).astype(np.int64)
    positive = int(label.sum())
    if min(positive, len(label) - positive) < LEAST:
        raise TrainingError(f"heads.{name} has {positive} positives of {len(label)} rows, {LEAST} of each are needed")
    return replace(rows, label=label)
