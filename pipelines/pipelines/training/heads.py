"""One model for each head of a use case: what people do beside the label, weighed when served."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from definitions.usecase import UseCase

from pipelines.errors import TrainingError
from pipelines.progress import Progress
from pipelines.training.ranker import Ranker, Rows, TrainData, ranker

LEAST = 10  # positives, and negatives, that a head needs among fit and among validation rows
Heads = Mapping[str, tuple[Ranker, Ranker]]
"""Name of a head -> the fallback's model of it, and the served one's; in the use case's order."""


def fit_heads(
    usecase: UseCase, data: TrainData, *, names: tuple[str, str], seed: int, threads: int, progress: Progress
) -> Heads:
    """The probability of each head, by the models `names` of fallback and served rung.

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
    for head, part in parts.items():
        progress.stage(f"train head {head}")
        fallback, model = (ranker(name)(part, seed=seed, threads=threads, progress=progress) for name in names)
        found[head] = fallback, model
    return found


def _of_head(usecase: UseCase, data: TrainData, name: str) -> TrainData:
    if usecase.heads[name].value is not None:
        raise TrainingError(f"heads.{name} predicts a value, which python -m pipelines.deep does")
    return replace(data, fit=_labelled(data.fit, name), valid=_labelled(data.valid, name))


def _labelled(rows: Rows, name: str) -> Rows:
    label = (rows.heads[name] > 0).astype(np.int64)
    positive = int(label.sum())
    if min(positive, len(label) - positive) < LEAST:
        raise TrainingError(f"heads.{name} has {positive} positives of {len(label)} rows, {LEAST} of each are needed")
    return replace(rows, label=label)
