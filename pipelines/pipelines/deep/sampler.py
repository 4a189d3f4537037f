"""Which rows make which batch: a pure function of seed, epoch and step, the same for any number of processes."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sampler:
    """Global batches of `batch` of `rows` rows, in a new order each epoch, every row once; the last may be shorter.

    A process's share is every `size`-th row of a batch from its rank on: no row twice, none made up.
    """

    rows: int
    batch: int
    seed: int

    @property
    def steps(self) -> int:
        """Of one epoch."""
        return -(-self.rows // self.batch)

    def epoch(self, epoch: int, from_step: int = 0) -> Iterator[tuple[int, Tensor]]:
        """(step, rows int64 of the global batch) from a step on."""
        random = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        order = torch.randperm(self.rows, generator=random)
        for step in range(from_step, self.steps):
            yield step, order[step * self.batch : (step + 1) * self.batch]

    def random(self, epoch: int, step: int) -> torch.Generator:
        """Of what is drawn for one global batch: each process draws all of it and takes its share."""
        return torch.Generator().manual_seed((self.seed * 1_000_003 + epoch) * 1_000_003 + step + 1)
