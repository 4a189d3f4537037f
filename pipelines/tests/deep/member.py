"""Started by torchrun in test_distributed: two processes do what one does, and say so in one JSON object."""

import json
import sys
from pathlib import Path

import torch
from pipelines.deep.checkpoint import Checkpoints
from pipelines.deep.heads import Head
from pipelines.deep.parallel import World, gather, total, world
from pipelines.deep.rankers import fit_network
from pipelines.deep.sharding import SHARD_BYTES, ShardedTable, table_rows
from small_world import PLAN, small_world  # beside this file: torchrun starts it as a script
from torch import Tensor, nn
from torch.nn import functional

ROWS, WIDTH = 11, 3


def softmax(users: Tensor, items: Tensor, first: int) -> Tensor:
    """Summed in-batch softmax of the users whose positives start at `first` among all items."""
    return functional.cross_entropy(users @ items.T, torch.arange(first, first + len(users)), reduction="sum")


def check_gather(here: World) -> None:
    """Uneven shares, one of them empty: the gradients are those of one process that holds the whole batch."""
    random = torch.Generator().manual_seed(0)
    whole_users, whole_items = (torch.randn(5, 4, generator=random).requires_grad_() for _ in range(2))
    softmax(whole_users, whole_items, 0).backward()
    for cut in (3, 5):
        start, end = (0, cut) if here.first else (cut, 5)
        users = whole_users.detach()[start:end].clone().requires_grad_()
        items = whole_items.detach()[start:end].clone().requires_grad_()
        everything = gather(items, here)
        assert torch.equal(everything, whole_items)
        softmax(users, everything, start).backward()
        torch.testing.assert_close(items.grad, whole_items.grad[start:end])
        torch.testing.assert_close(users.grad, whole_users.grad[start:end])


def check_table(here: World) -> None:
    """Looked up, learnt and put together again, as one nn.Embedding; one process's batch is empty."""
    sharded = ShardedTable(ROWS, WIDTH, here, seed=3)
    plain = nn.Embedding(ROWS, WIDTH, _weight=table_rows(ROWS, WIDTH, 3))
    assert len(sharded.weight) == (6 if here.first else 5)
    assert torch.equal(sharded.whole(), plain.weight)
    rows = torch.tensor([[10, 0, 3], [3, 3, 7]])
    factor = torch.randn(2, 3, WIDTH, generator=torch.Generator().manual_seed(1))
    (plain(rows) * factor).sum().backward()
    for mine in (slice(here.rank, None, here.size), slice(0, 2 if here.first else 0)):
        sharded.zero_grad()
        found = sharded(rows[mine])
        assert torch.equal(found, plain(rows[mine]))
        (found * factor[mine]).sum().backward()
        torch.testing.assert_close(sharded.weight.grad, plain.weight.grad[here.rank :: here.size])


def train(here: World, shard_bytes: int = SHARD_BYTES, checkpoints: Path | None = None) -> dict[str, object]:
    """60 steps, the same in each process."""
    rows = small_world()
    kept = None if checkpoints is None else Checkpoints(checkpoints, 3, "small world")
    found = fit_network(
        "dcn_v2", rows.columns, rows.fit, rows.valid, [Head("label")],
        plan=PLAN, world=here, shard_bytes=shard_bytes, checkpoints=kept,
    )  # fmt: skip
    score = found.score(rows.valid.features, rows.valid.ints)
    return {"curve": found.state.curve, "valid": found.state.valid, "score": score.tolist()}


def main() -> None:
    """Without arguments all checks; with a folder one training of a sharded table with checkpoints there."""
    with world() as here:
        assert 2 == here.size
        if sys.argv[1:]:
            found = train(here, 0, Path(sys.argv[1]))
        else:
            assert 3.0 == float(total(torch.tensor(here.rank + 1.0), here))
            check_gather(here)
            check_table(here)
            found = {"copies": train(here), "sharded": train(here, 0)}
        if here.first:
            sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
