"""What a network's outputs mean: one head for each label, its loss, and how heads make one score."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

Objective = Literal["cross_entropy", "mse", "mae"]


@dataclass(frozen=True)
class Head:
    """One label. `weight`: in the score (like 5, hide -20); all heads count alike in the loss."""

    name: str
    objective: Objective = "cross_entropy"
    weight: float = 1.0


class Heads(nn.Module):
    """Logits (n, heads) -> loss of training, predictions, and the one score.

    A probability is sigmoid(slope * logit + shift), calibrated; a value is mean + deviation * logit, of the fit labels.
    `weights` are data: they may change without training (`definitions.heads`).
    """

    def __init__(self, heads: Sequence[Head], labels: Tensor) -> None:
        super().__init__()
        self.heads = tuple(heads)
        values = torch.tensor([head.objective != "cross_entropy" for head in heads])
        mean, deviation = labels.mean(0), labels.std(0, correction=0).clamp(min=1e-6)
        self.register_buffer("values", values)
        self.register_buffer("slope", torch.where(values, deviation, 1.0))
        self.register_buffer("shift", torch.where(values, mean, 0.0))
        self.register_buffer("weights", torch.tensor([[head.weight] for head in heads], dtype=torch.float32))

    def calibrate(self, head: int, slope: float, shift: float) -> None:
        """A probability's logits are mapped to slope * logit + shift from now on, beyond what they were before."""
        self.slope[head] *= slope
        self.shift[head] = self.shift[head] * slope + shift

    def losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """float32 (n, heads): log-loss; for values the squared or absolute error in deviations of the label."""
        columns = []
        for i, head in enumerate(self.heads):
            logit, label = logits[:, i], labels[:, i]
            if head.objective == "cross_entropy":
                columns.append(functional.binary_cross_entropy_with_logits(logit, label, reduction="none"))
                continue
            error = logit - (label - self.shift[i]) / self.slope[i]
            columns.append(error.square() if head.objective == "mse" else error.abs())
        return torch.stack(columns, 1)

    def forward(self, logits: Tensor) -> Tensor:
        """Predictions (n, heads): probabilities, or values in the label's unit."""
        scaled = logits * self.slope + self.shift
        return torch.where(self.values, scaled, torch.sigmoid(scaled))

    def score(self, predictions: Tensor) -> Tensor:
        """(n, 1): the prediction of a single head; of several the sum by `weights`."""
        if len(self.heads) == 1:
            return predictions
        return predictions @ self.weights
