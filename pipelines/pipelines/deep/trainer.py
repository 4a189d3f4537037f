"""The training loop: one or many processes, early stop, checkpoints; the result depends on seed and batch alone."""

import copy
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from pipelines.deep.checkpoint import Checkpoints
from pipelines.deep.heads import Heads
from pipelines.deep.inputs import Batch, Inputs
from pipelines.deep.models import RankNet
from pipelines.deep.parallel import World, replicated, total
from pipelines.deep.sampler import Sampler
from pipelines.deep.sharding import ShardedTable
from pipelines.errors import TrainingError


@dataclass(frozen=True)
class Arrays:
    """n rows: features float32 (n, F), ints int64 (n, K), labels float32 (n, heads), weight float32 (n,)."""

    features: npt.NDArray[np.float32]
    ints: npt.NDArray[np.int64]
    labels: npt.NDArray[np.float32]
    weight: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Recipe:
    """How to train. `batch`: rows of all processes together; `patience`: epochs without a better validation loss.

    `drop`: share of codes read as unknown, so that code 0 is trained; `mixed`: bfloat16 where safe, None = on GPUs.
    """

    batch: int = 1024
    epochs: int = 20
    rate: float = 2e-3
    decay: float = 1e-5
    table_decay: float = 1e-3
    patience: int = 2
    drop: float = 0.05
    mixed: bool | None = None


@dataclass
class State:
    """Where a training is: the next step is `step` of `epoch`; what it has seen; the best weights so far."""

    epoch: int = 0
    step: int = 0
    curve: list[float] = field(default_factory=list)
    valid: list[float] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)

    @property
    def worse_for(self) -> int:
        """Epochs since the best validation loss."""
        return len(self.valid) - 1 - int(np.argmin(self.valid)) if self.valid else 0


class Trainer:
    """Trains `net` in place; afterwards it holds the weights of the best validation loss.

    The loss of a step is the mean over the global batch's rows and heads, the same with any number of processes but for
    the order of float32 sums.
    """

    def __init__(
        self,
        net: RankNet,
        heads: Heads,
        fit: Arrays,
        valid: Arrays,
        recipe: Recipe,
        *,
        seed: int = 0,
        world: World | None = None,
        checkpoints: Checkpoints | None = None,
    ) -> None:
        if len(fit) == 0 or len(valid) == 0:
            raise TrainingError("a network needs rows to fit and rows to stop by; load more data")
        self.world = world or World()
        # What the inputs make of a row never changes: done once, not in each epoch.
        self._fit, self._valid = _prepared(net.inputs, fit), _prepared(net.inputs, valid)
        self.net, self.heads, self.recipe = net.to(self.world.device), heads.to(self.world.device), recipe
        self.sampler = Sampler(len(fit), recipe.batch, seed)
        self.checkpoints = checkpoints
        self.state = State()
        sharded = isinstance(net.table, ShardedTable)
        self._table = net.table if sharded else replicated(net.table, self.world)
        self._body = replicated(net.body, self.world)
        groups = [
            {"params": list(net.table.parameters()), "weight_decay": recipe.table_decay},
            {"params": list(net.body.parameters()), "weight_decay": recipe.decay},
        ]
        self._optimizer = torch.optim.AdamW(groups, lr=recipe.rate)
        self._mixed = self.world.device.type == "cuda" if recipe.mixed is None else recipe.mixed

    def run(self) -> State:
        """Train to the end, from the newest checkpoint on if there is one."""
        self._resume()
        state = self.state
        while state.epoch < self.recipe.epochs and state.worse_for < self.recipe.patience:
            self.net.train()
            for step, rows in self.sampler.epoch(state.epoch, state.step):
                state.curve.append(self._learn(rows, self.sampler.random(state.epoch, step)))
                state.step = step + 1
                if self.checkpoints and len(state.curve) % self.checkpoints.every == 0:
                    self.checkpoints.save(len(state.curve), self._snapshot(), self.world)
            state.valid.append(self._validate())
            if state.worse_for == 0:
                state.best = {name: value.clone() for name, value in self.net.state_dict().items()}
            state.epoch, state.step = state.epoch + 1, 0
        self.net.load_state_dict(state.best)
        self.net.eval()
        return state

    def _learn(self, rows: Tensor, random: torch.Generator) -> float:
        """One step on the global batch `rows`; its mean loss."""
        # Codes are dropped before the batch is shared out: the same ones, however many share it.
        batch = self.net.inputs.dropped(self._fit[0].take(rows), self.recipe.drop, random)
        mine = slice(self.world.rank, None, self.world.size)
        labels, weight = self._fit[1][rows[mine]], self._fit[2][rows[mine]]
        loss = self._loss(batch.take(mine), labels, weight) / (len(rows) * labels.shape[1])
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        return float(total(loss, self.world))

    def _loss(self, batch: Batch, labels: Tensor, weight: Tensor) -> Tensor:
        """Summed over rows and heads."""
        device = self.world.device
        batch = batch.to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=self._mixed):
            logits = self._body(batch, self._table(batch.rows))
        return (self.heads.losses(logits.float(), labels.to(device)).sum(1) * weight.to(device)).sum()

    @torch.no_grad()
    def _validate(self) -> float:
        """Mean loss of the validation rows, each looked at by one process."""
        self.net.eval()
        batch, labels, weight = self._valid
        summed = torch.zeros((), device=self.world.device)
        size = self.recipe.batch * 4
        for start in range(0, len(labels), size):
            mine = slice(start + self.world.rank, min(start + size, len(labels)), self.world.size)
            summed += self._loss(batch.take(mine), labels[mine], weight[mine])
        return float(total(summed, self.world)) / labels.numel()

    def _snapshot(self) -> dict[str, Any]:
        cuda = [torch.cuda.get_rng_state(self.world.device)] if self.world.device.type == "cuda" else []
        return {
            "net": self.net.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "sampler": {"epoch": self.state.epoch, "step": self.state.step},
            "state": asdict(self.state),
            "random": [torch.get_rng_state(), *cuda],
        }

    def _resume(self) -> None:
        found = self.checkpoints.load(self.world) if self.checkpoints else None
        if found is None:
            return
        self.net.load_state_dict(found["net"])
        self._optimizer.load_state_dict(found["optimizer"])
        self.state = State(**found["state"])
        torch.set_rng_state(found["random"][0].cpu())
        for cuda in found["random"][1:]:
            torch.cuda.set_rng_state(cuda.cpu(), self.world.device)


def _prepared(inputs: Inputs, arrays: Arrays) -> tuple[Batch, Tensor, Tensor]:
    """(batch, labels, weight) of all rows, on the CPU."""
    features, ints = torch.from_numpy(arrays.features), torch.from_numpy(arrays.ints)
    return inputs(features, ints), torch.from_numpy(arrays.labels), torch.from_numpy(arrays.weight)


def whole(net: RankNet) -> RankNet:
    """`net` with its table in one piece, on the CPU, in every process: for scores and export."""
    if not isinstance(net.table, ShardedTable):
        return net.cpu()
    table = nn.Embedding(net.table.rows, net.table.width, _weight=net.table.whole().cpu())
    return RankNet(copy.deepcopy(net.inputs).cpu(), table, copy.deepcopy(net.body).cpu()).eval()
