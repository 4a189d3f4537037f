"""The deep models behind the common interface: `pipelines.training.ranker.RANKERS` names these functions."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from definitions.usecase import UseCase

from pipelines.deep import export
from pipelines.deep.checkpoint import Checkpoints
from pipelines.deep.heads import Head, Heads
from pipelines.deep.inputs import Columns, Field, History
from pipelines.deep.models import RankNet, Shape, build
from pipelines.deep.parallel import World, alone
from pipelines.deep.sharding import SHARD_BYTES
from pipelines.deep.trainer import Arrays, Recipe, State, Trainer, whole
from pipelines.progress import Progress
from pipelines.training.inputs import Inputs
from pipelines.training.linear import fit_calibration
from pipelines.training.ranker import Rows, TrainData

_SCORED_AT_ONCE = 8192
LABEL, VALUE = "label", "value"
"""Heads of a use case that names none: of a classification, of a regression."""


@dataclass(frozen=True)
class Plan:
    """Sizes and recipe of one model; what validation chose on ML-100K (pipelines/README.md)."""

    shape: Shape
    recipe: Recipe


PLANS = {
    "fm": Plan(Shape(), Recipe()),
    "dcn_v2": Plan(Shape(), Recipe()),
    "dlrm": Plan(Shape(), Recipe()),
    "sequence": Plan(Shape(), Recipe()),
}


@dataclass(frozen=True, eq=False)
class DeepRanker:
    """A trained network and its heads. `state`: the loss of each step, and of the validation rows after each epoch."""

    name: str
    net: RankNet
    heads: Heads
    state: State

    def predict(self, features: npt.NDArray[np.float32], ints: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Each head's prediction, float64 (n, heads)."""
        parts = [np.empty((0, len(self.heads.heads)))]
        with torch.inference_mode():
            for start in range(0, len(features), _SCORED_AT_ONCE):
                part = slice(start, start + _SCORED_AT_ONCE)
                logits = self.net(torch.from_numpy(features[part]), torch.from_numpy(ints[part]))
                parts.append(self.heads(logits).numpy().astype(np.float64))
        return np.concatenate(parts)

    def score(self, features: npt.NDArray[np.float32], ints: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """float64 (n,): the prediction of a single head, of several the sum by their weights."""
        predictions = torch.from_numpy(self.predict(features, ints)).float()
        out: npt.NDArray[np.float64] = self.heads.score(predictions)[:, 0].numpy().astype(np.float64)
        return out

    def export(self, path: Path) -> None:
        """Write the graph."""
        export.export(self.net, self.heads, path)


def fm(data: TrainData, *, seed: int, threads: int, progress: Progress) -> DeepRanker:
    """Factorization machine."""
    return _fit("fm", data, seed, threads, progress)


def dcn_v2(data: TrainData, *, seed: int, threads: int, progress: Progress) -> DeepRanker:
    """Deep and cross network, second version."""
    return _fit("dcn_v2", data, seed, threads, progress)


def dlrm(data: TrainData, *, seed: int, threads: int, progress: Progress) -> DeepRanker:
    """Deep learning recommendation model."""
    return _fit("dlrm", data, seed, threads, progress)


def sequence(data: TrainData, *, seed: int, threads: int, progress: Progress) -> DeepRanker:
    """Attention of the candidate over the user's last items."""
    return _fit("sequence", data, seed, threads, progress)


def _fit(name: str, data: TrainData, seed: int, threads: int, progress: Progress) -> DeepRanker:
    progress.stage(f"train {name}")
    columns = columns_of(data.inputs, history=name == "sequence")
    heads = heads_of(data.layout.usecase)
    fit, valid = arrays_of(data.fit, heads), arrays_of(data.valid, heads)
    return fit_network(name, columns, fit, valid, heads, seed=seed, threads=threads)


def heads_of(usecase: UseCase) -> list[Head]:
    """What the use case wants predicted: its `heads`, or its regression's value, or its label."""
    if usecase.heads:
        return [
            Head(name, "cross_entropy" if head.value is None else "mse", head.weight)
            for name, head in usecase.heads.items()
        ]
    if usecase.objective.name == "mse" or usecase.objective.name == "mae":
        return [Head(VALUE, usecase.objective.name)]
    return [Head(LABEL)]


def fit_network(
    name: str,
    columns: Columns,
    fit: Arrays,
    valid: Arrays,
    heads: Sequence[Head],
    *,
    plan: Plan | None = None,
    seed: int = 0,
    threads: int = 1,
    world: World | None = None,
    shard_bytes: int = SHARD_BYTES,
    checkpoints: Checkpoints | None = None,
) -> DeepRanker:
    """Train one network and calibrate its probabilities on the validation rows; the same in every process of `world`.

    Args:
        name: of `models.BODIES`.
        columns: what it reads of features and ints.
        fit: rows for the weights; valid: later rows, for the early stop and the calibration; all in each process.
        heads: one for each column of the labels.
        plan: sizes and recipe; None takes those of PLANS.
        seed, threads: the same ones give the same network.
        world: the processes that train together; None = this one alone, on the GPU if there is one.
        shard_bytes: a table from this size on is sharded over the world.
        checkpoints: where the training resumes if it was killed; None writes none.
    """
    plan, world = plan or PLANS[name], world or alone()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        net = build(
            name, columns, fit.features, plan.shape, heads=len(heads), seed=seed, world=world, shard_bytes=shard_bytes
        )
        meaning = Heads(heads, torch.from_numpy(fit.labels))
        trainer = Trainer(net, meaning, fit, valid, plan.recipe, seed=seed, world=world, checkpoints=checkpoints)
        state = trainer.run()
        ranker = DeepRanker(name, whole(net), meaning.cpu(), state)
        _calibrate(ranker, valid)
        return ranker
    finally:
        torch.set_num_threads(before)


def _calibrate(ranker: DeepRanker, valid: Arrays) -> None:
    """Platt's slope and shift of each probability."""
    probability = ranker.predict(valid.features, valid.ints)
    for i, head in enumerate(ranker.heads.heads):
        label = valid.labels[:, i]
        if head.objective == "cross_entropy" and label.min() < label.max():
            logits = np.log(probability[:, i]) - np.log1p(-probability[:, i])
            ranker.heads.calibrate(i, *fit_calibration(logits, label.astype(np.int64)))


def columns_of(inputs: Inputs, *, history: bool) -> Columns:
    """What networks read of a training's inputs; the user's newest items only with `history`."""
    fields = [Field(code.name, _places(code.places), code.size, code.name) for code in inputs.codes]
    candidate = None
    if inputs.item is not None:
        candidate = inputs.item.name
        fields.append(Field(candidate, _places(inputs.item.places), inputs.item.size, candidate))
    found = None
    if history and inputs.history is not None:
        past = inputs.history
        ids = Field(past.name, _places(past.ids), past.size, candidate or past.name)
        found = History(ids, _places(past.values))
    return Columns(
        features=len(inputs.feature_names),
        ints=len(inputs.int_names),
        numbers=_places(inputs.floats),
        fields=tuple(fields),
        history=found,
        candidate=candidate if found else None,
    )


def _places(places: npt.NDArray[np.int64]) -> tuple[int, ...]:
    return tuple(int(place) for place in places)


def arrays_of(rows: Rows, heads: Sequence[Head]) -> Arrays:
    """Rows with a column of labels for each head."""
    own = {LABEL: rows.label.astype(np.float32), VALUE: rows.value, **rows.heads}
    labels = np.stack([own[head.name] for head in heads], 1)
    return Arrays(rows.features, rows.ints, labels, rows.weight)
