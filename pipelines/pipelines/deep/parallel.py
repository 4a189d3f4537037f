"""Several processes as one: the group that `torchrun` made, sums over it, and tensors gathered with gradient."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True)
class World:
    """This process's place among `size`: its rank, and where its tensors live."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0


@dataclass(frozen=True)
class Place:
    """For processes that torchrun did not start: rank among `size`, who meet at `address`, host:port of rank 0."""

    address: str
    rank: int
    size: int


def alone() -> World:
    """One process, on the GPU if there is one."""
    return World(device=torch.device("cuda" if torch.cuda.is_available() else "cpu"))


@contextmanager
def world(place: Place | None = None) -> Iterator[World]:
    """The world that this process was started into: at `place`, or by `torchrun` with others, else alone.

    NCCL and one GPU a process where CUDA is there, else gloo on the CPU.
    """
    if place is None and not dist.is_torchelastic_launched():
        yield alone()
        return
    cuda = torch.cuda.is_available()
    device = torch.device("cpu")
    if cuda:  # Ray shows each actor its own GPU only, torchrun all of the machine's
        device = torch.device("cuda", dist.get_node_local_rank() if place is None else 0)
        torch.cuda.set_device(device)
    backend = "nccl" if cuda else "gloo"
    if place is None:
        dist.init_process_group(backend)
    else:
        dist.init_process_group(backend, init_method=f"tcp://{place.address}", rank=place.rank, world_size=place.size)
    try:
        yield World(dist.get_rank(), dist.get_world_size(), device)
    finally:
        dist.destroy_process_group()


def replicated(module: nn.Module, world: World) -> nn.Module:
    """`module` with its gradients summed over the world: the loss is a sum over rows divided by the global batch."""
    if world.size == 1 or not any(each.requires_grad for each in module.parameters()):
        return module
    copies = DistributedDataParallel(module, forward_sync_buffers=False)
    copies.register_comm_hook(None, _sum_gradients)  # its own way is the mean, wrong where shares differ in rows
    return copies


def _sum_gradients(_: None, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
    future = dist.all_reduce(bucket.buffer(), async_op=True).get_future()
    return future.then(lambda done: done.value()[0])


def total(values: Tensor, world: World) -> Tensor:
    """Sum of `values` over all processes, the same in each; no gradient."""
    summed = values.detach().clone()
    if world.size > 1:
        dist.all_reduce(summed)
    return summed


def counts_of(n: int, world: World) -> list[int]:
    """How many rows each process holds, by rank."""
    if world.size == 1:
        return [n]
    counts = [torch.zeros(1, dtype=torch.int64, device=world.device) for _ in range(world.size)]
    dist.all_gather(counts, torch.tensor([n], device=world.device))
    return [int(count) for count in counts]


def gather(rows: Tensor, world: World) -> Tensor:
    """The rows (n_r, d) of all processes in order of rank, (sum of n_r, d); shares may differ. Carries gradients.

    In-batch softmax needs it: each process scores its users against every process's items, and an item's gradient is
    the sum of what all of them say. Without the gradient each would learn from its own negatives only.
    """
    if world.size == 1:
        return rows
    gathered: Tensor = _Gather.apply(rows, world)
    return gathered


class _Gather(torch.autograd.Function):
    """all_gather of uneven shares: padded to the longest on the way, never in the result."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, world: World) -> Tensor:
        counts = counts_of(len(rows), world)
        ctx.start, ctx.n = sum(counts[: world.rank]), len(rows)
        padded = rows.new_zeros((max(counts), *rows.shape[1:]))
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        summed = gradients[0].contiguous()
        dist.all_reduce(summed)
        return summed[ctx.start : ctx.start + ctx.n], None
