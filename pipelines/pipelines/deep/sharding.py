"""Embedding tables too large for one process: row r lives in process r modulo the world's size."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pipelines.deep.parallel import World

SHARD_BYTES = 2**30
"""Of a table, from which on it is sharded: a copy a process, its gradient and Adam's two moments are four times it."""


class ShardedTable(nn.Module):
    """A table of `rows` x `width`, of which this process holds rows rank, rank + size, ...

    Each row of a batch is asked of its owner once (all-to-all), and its gradient goes back there. First weights are
    those of a whole table of the same seed. Every process must take part in every call, also with an empty batch.
    """

    def __init__(self, rows: int, width: int, world: World, seed: int) -> None:
        super().__init__()
        self.rows, self.width, self.world = rows, width, world
        self.weight = nn.Parameter(table_rows(rows, width, seed, rank=world.rank, world=world.size))

    def forward(self, rows: Tensor) -> Tensor:
        """int64 of any shape -> float32 (..., width)."""
        wanted, places = torch.unique(rows, return_inverse=True)
        owner = wanted % self.world.size
        order = torch.argsort(owner, stable=True)
        sent = torch.bincount(owner, minlength=self.world.size)
        received = torch.empty_like(sent)
        dist.all_to_all_single(received, sent)
        asked = wanted.new_empty(int(received.sum()))
        give, take = received.tolist(), sent.tolist()
        dist.all_to_all_single(asked, wanted[order], give, take)
        found = _Exchange.apply(self.weight[asked // self.world.size], take, give)
        back = torch.empty_like(order)
        back[order] = torch.arange(len(order), device=order.device)
        vectors: Tensor = found[back][places.reshape(-1)]
        return vectors.reshape(*rows.shape, self.width)

    def whole(self) -> Tensor:
        """The table (rows, width) in one piece, in every process: for export and for scoring."""
        longest = -(-self.rows // self.world.size)
        padded = self.weight.new_zeros((longest, self.width))
        padded[: len(self.weight)] = self.weight.detach()
        parts = [torch.empty_like(padded) for _ in range(self.world.size)]
        dist.all_gather(parts, padded)
        return torch.stack(parts, 1).reshape(-1, self.width)[: self.rows]


_CHUNK = 65_536


def table_rows(rows: int, width: int, seed: int, *, rank: int = 0, world: int = 1) -> Tensor:
    """First weights of the table's rows `rank`, `rank + world`, ...: float32, the same whatever `world` is."""
    parts = []
    for chunk, start in enumerate(range(0, rows, _CHUNK)):
        random = torch.Generator().manual_seed(seed * 1_000_003 + chunk)
        drawn = torch.randn(min(_CHUNK, rows - start), width, generator=random) * 0.05
        parts.append(drawn[(rank - start) % world :: world])
    return torch.cat(parts) if parts else torch.empty(0, width)


class _Exchange(torch.autograd.Function):
    """Vectors back to who asked for them; their gradients the same way round."""

    @staticmethod
    def forward(ctx: Any, vectors: Tensor, take: list[int], give: list[int]) -> Tensor:
        ctx.take, ctx.give = take, give
        out = vectors.new_empty((sum(take), vectors.shape[1]))
        dist.all_to_all_single(out, vectors.contiguous(), take, give)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        gradient = gradients[0].contiguous()
        out = gradient.new_empty((sum(ctx.give), gradient.shape[1]))
        dist.all_to_all_single(out, gradient, ctx.give, ctx.take)
        return out, None, None
