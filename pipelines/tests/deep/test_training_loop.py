"""The loop in one process: every row once an epoch, killed anywhere and resumed, the same to the last bit."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pipelines.deep.checkpoint import Checkpoints
from pipelines.deep.heads import Head
from pipelines.deep.models import Shape
from pipelines.deep.parallel import World as Processes
from pipelines.deep.rankers import DeepRanker, Plan, fit_network
from pipelines.deep.sampler import Sampler
from pipelines.deep.trainer import Recipe
from pipelines.errors import TrainingError
from pipelines.evaluation.metrics import auc

from .small_world import World

pytestmark = pytest.mark.deep

PLAN = Plan(Shape(width=4, hidden=(16,), layers=1), Recipe(batch=600, epochs=3, rate=0.01))
STEPS = 3 * 9  # 5,000 rows


def test_an_epoch_is_every_row_once_whatever_the_shares() -> None:
    """The last batch is short and is not filled up; each epoch has an order of its own."""
    sampler = Sampler(rows=1_003, batch=100, seed=4)
    batches = [rows for _, rows in sampler.epoch(2)]

    assert [100] * 10 + [3] == [len(rows) for rows in batches]
    assert sampler.steps == 11
    assert list(range(1_003)) == sorted(torch.cat(batches).tolist())
    shares = [batches[-1][rank::4] for rank in range(4)]
    assert [1, 1, 1, 0] == [len(share) for share in shares]
    assert not torch.equal(batches[0], next(iter(sampler.epoch(3)))[1])
    for (step, rows), expected in zip(sampler.epoch(2, from_step=9), batches[9:], strict=True):
        assert step in (9, 10)
        assert torch.equal(expected, rows)


class Killed(Exception):
    """What stands in for the end of the process."""


@dataclass(frozen=True)
class Fatal(Checkpoints):
    """Dies at one step: before its checkpoint is whole, or just after."""

    at: int = 0
    half_written: bool = False

    def save(self, step: int, state: dict[str, Any], world: Processes) -> None:
        if step == self.at and self.half_written:
            (self.folder / f".{step:010d}").mkdir(parents=True)
            (self.folder / f".{step:010d}" / "0.pt").write_bytes(b"half")
            raise Killed
        super().save(step, state, world)
        if step == self.at:
            raise Killed


@pytest.fixture
def train(world: World) -> Callable[[Checkpoints | None], DeepRanker]:
    def run(checkpoints: Checkpoints | None = None) -> DeepRanker:
        return fit_network(
            "dcn_v2", world.columns, world.fit, world.valid, [Head("label")], plan=PLAN, checkpoints=checkpoints
        )

    return run


@pytest.mark.parametrize("half_written", [False, True])
@pytest.mark.parametrize("at", [2, 10, 26])
def test_a_killed_training_resumes_to_the_same_bits(
    at: int, half_written: bool, train: Callable[..., DeepRanker], tmp_path: Path
) -> None:
    """In the first epoch, in the second after a validation, in the last; with a checkpoint half written or whole."""
    whole = train()
    with pytest.raises(Killed):
        train(Fatal(tmp_path, 2, "one", at, half_written))

    resumed = train(Checkpoints(tmp_path, 2, "one"))

    assert whole.state.curve == resumed.state.curve
    assert STEPS == len(resumed.state.curve)
    assert whole.state.valid == resumed.state.valid
    for name, value in whole.net.state_dict().items():
        assert torch.equal(value, resumed.net.state_dict()[name]), name
    assert 2 == len(list(tmp_path.glob("[0-9]*")))


def test_checkpoints_of_another_training_are_refused(train: Callable[..., DeepRanker], tmp_path: Path) -> None:
    """Another plan, or another number of processes: nothing is mixed up."""
    with pytest.raises(Killed):
        train(Fatal(tmp_path, 2, "one", 4))

    with pytest.raises(TrainingError, match=r"another training \(one\)"):
        train(Checkpoints(tmp_path, 2, "two"))
    (tmp_path / "0000000004" / "1.pt").write_bytes(b"")
    with pytest.raises(TrainingError, match="another number of processes than 1"):
        train(Checkpoints(tmp_path, 2, "one"))


def test_training_stops_early_with_the_best_weights(world: World) -> None:
    """A rate that overshoots: the validation loss ends worse than its best, and the best is what is kept."""
    plan = Plan(Shape(width=16, hidden=(64,), layers=1), Recipe(batch=100, epochs=30, rate=0.02, patience=2))
    found = fit_network("dcn_v2", world.columns, world.fit, world.valid, [Head("label")], plan=plan)

    valid = found.state.valid
    assert len(valid) < 30
    assert len(valid) - 3 == int(np.argmin(valid))
    probability = found.score(world.valid.features, world.valid.ints)
    label = world.valid.labels[:, 0]
    loss = -np.mean(np.where(label == 1, np.log(probability), np.log1p(-probability)))
    assert loss <= min(valid) + 1e-4  # calibration can only help on these rows


def test_mixed_precision_learns_the_same(world: World) -> None:
    """bfloat16 where autocast says so, as GPUs do by default: as good to .005 AUC, weights float32."""
    label = world.valid.labels[:, 0].astype(bool)
    found = []
    for mixed in (False, True):
        recipe = Recipe(batch=250, epochs=4, rate=0.01, mixed=mixed)
        plan = Plan(PLAN.shape, recipe)
        ranker = fit_network("dcn_v2", world.columns, world.fit, world.valid, [Head("label")], plan=plan)
        assert {torch.float32} == {weight.dtype for weight in ranker.net.parameters()}
        found.append((ranker, auc(label, ranker.score(world.valid.features, world.valid.ints)) or 0))
    assert found[0][1] == pytest.approx(found[1][1], abs=0.005)
    assert found[0][0].state.curve != found[1][0].state.curve


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU in this machine")
def test_a_gpu_learns_what_the_cpu_learns(world: World, train: Callable[..., DeepRanker]) -> None:
    """Trained there, scored here."""
    score = train().score(world.valid.features, world.valid.ints)

    assert (auc(world.valid.labels[:, 0].astype(bool), score) or 0) > 0.8
