"""Two-tower training: in-batch softmax with the logQ correction (Yi et al., Sampling-Bias-Corrected Neural Modeling for
Large Corpus Item Recommendations, RecSys 2019).
"""

from dataclasses import dataclass
from typing import Final, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, embedding_bag

from pipelines.errors import TrainingError
from pipelines.retrieval.interactions import Csr
from pipelines.retrieval.towers import TwoTower

Places = npt.NDArray[np.int64]
SPREAD: Final = 0.1  # of the first weights: scores start near 0, where the softmax is fair


@dataclass(frozen=True)
class Recipe:
    """What validation chose on ML-100K, seed 0 (pipelines/README.md)."""

    width: int = 64
    epochs: int = 12
    batch: int = 1024
    rate: float = 0.003
    decay: float = 0.3
    dropout: float = 0.5
    """Share of a history's items that are left out in training, another share each time."""
    logq: bool = True
    """False only to show what is lost."""


RECIPE = Recipe()


@dataclass(frozen=True, eq=False)
class Pairs:
    """Training pairs: what a user did before, and the item that is to be found.

    `contexts` csr (c, items) of ones: histories. `context` int64 (n,): the row of each pair; `item` int64 (n,): its
    positive. A positive that is in its own history is taken out of it, so no pair sees its answer.
    """

    contexts: Csr
    context: Places
    item: Places

    @classmethod
    def of(cls, interactions: Csr) -> Self:
        """Every cell of csr (users, items) once, the user's other items as its history."""
        rows = interactions.tocsr()
        return cls(rows, np.repeat(np.arange(rows.shape[0]), np.diff(rows.indptr)), rows.indices.astype(np.int64))


class Towers(nn.Module):
    """Both towers."""

    def __init__(self, items: int, width: int) -> None:
        super().__init__()
        self.history = nn.Parameter(torch.randn(items, width) * SPREAD)
        self.items = nn.Parameter(torch.randn(items, width) * SPREAD)
        self.bias = nn.Parameter(torch.zeros(width))

    def user(self, bags: "Bags") -> Tensor:
        """float32 (b, width)."""
        total = embedding_bag(bags.items, self.history, bags.offsets, mode="sum", per_sample_weights=bags.weights)
        own = bags.own_weight[:, None] * self.history[bags.positive]
        return (total[bags.context] - own) / bags.count.clamp(min=1).sqrt()[:, None] + self.bias


@dataclass(frozen=True, eq=False)
class Bags:
    """The histories of one batch of b pairs, each distinct one summed once.

    `items`, `weights` (z,): history items and what each counts for; `offsets` (c,): where each history begins;
    `context` (b,): which of them a pair has; `positive` (b,): its item; `own_weight` (b,): what that counts for in
    its own history; `count` (b,): other items in the history.
    """

    items: Tensor
    weights: Tensor
    offsets: Tensor
    context: Tensor
    positive: Tensor
    own_weight: Tensor
    count: Tensor


class Batches:
    """Draws `Bags` with dropout: an item is left out with probability p, what stays counts 1 / (1 - p)."""

    def __init__(self, pairs: Pairs, dropout: float) -> None:
        self._pairs, self._dropout = pairs, dropout
        rows = pairs.contexts.tocsr()
        rows.sort_indices()
        self._begin, self._items = rows.indptr.astype(np.int64), rows.indices.astype(np.int64)
        width = rows.shape[1]
        cells = np.repeat(np.arange(rows.shape[0]), np.diff(rows.indptr)) * width + self._items
        wanted = pairs.context * width + pairs.item
        found = np.minimum(np.searchsorted(cells, wanted), max(len(cells) - 1, 0))
        inside = cells[found] == wanted if len(cells) else np.zeros(len(wanted), bool)
        self._own = np.where(inside, found - self._begin[pairs.context], -1)

    def draw(self, chosen: Places, rng: np.random.Generator) -> Bags:
        """Of the pairs at places int64 (b,)."""
        contexts, which = np.unique(self._pairs.context[chosen], return_inverse=True)
        length = self._begin[contexts + 1] - self._begin[contexts]
        offsets = np.cumsum(length) - length
        items = self._items[np.repeat(self._begin[contexts] - offsets, length) + np.arange(length.sum())]
        kept = (rng.random(len(items)) >= self._dropout) / (1 - self._dropout)
        own = self._own[chosen]
        inside = own >= 0
        own_weight = np.zeros(len(chosen))
        own_weight[inside] = kept[offsets[which[inside]] + own[inside]]
        return Bags(
            items=torch.from_numpy(items),
            weights=torch.from_numpy(kept.astype(np.float32)),
            offsets=torch.from_numpy(offsets),
            context=torch.from_numpy(which),
            positive=torch.from_numpy(self._pairs.item[chosen]),
            own_weight=torch.from_numpy(own_weight.astype(np.float32)),
            count=torch.from_numpy((length[which] - inside).astype(np.float32)),
        )


def in_batch_logits(scores: Tensor, items: Tensor, log_q: Tensor | None) -> Tensor:
    """Logits of the in-batch softmax: row = user, column = item of each pair of the batch, positives on the diagonal.

    An item is a negative as often as it is drawn, q(item): log q is subtracted, else popular items are pushed down.
    Copies of a row's own positive are no negatives and are masked.

    Args:
        scores: float32 (b, b), user . item.
        items: int64 (b,).
        log_q: float32 (b,), log of the probability that a pair drawn for the batch has the item; None leaves it out.
    """
    logits = scores if log_q is None else scores - log_q[None, :]
    copies = (items[None, :] == items[:, None]) & ~torch.eye(len(items), dtype=torch.bool)
    return logits.masked_fill(copies, -torch.inf)


def train_towers(pairs: Pairs, recipe: Recipe = RECIPE, *, seed: int = 0) -> TwoTower:
    """Fit both towers on one thread; the same seed gives the same bits.

    Args:
        pairs: histories and positives, as places in the catalogue.
        recipe: sizes and rates.
        seed: of weights, batches and dropout.

    Raises:
        TrainingError: fewer than two pairs, or the loss is not finite.
    """
    n, items = len(pairs.item), pairs.contexts.shape[1]
    if n < 2:
        raise TrainingError(f"{n} pairs have no in-batch negatives; load more data")
    rng = np.random.default_rng(seed)
    share = np.bincount(pairs.item, minlength=items) / n
    log_q = torch.from_numpy(
        np.log(np.maximum(share, 1 / n)).astype(np.float32)
    )  # an item without a pair is never drawn
    batches = Batches(pairs, recipe.dropout)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            towers = Towers(items, recipe.width)
        optimizer = torch.optim.AdamW(towers.parameters(), lr=recipe.rate, weight_decay=recipe.decay)
        for _ in range(recipe.epochs):
            for chosen in np.array_split(rng.permutation(n), max(n // recipe.batch, 1)):
                bags = batches.draw(chosen, rng)
                scores = towers.user(bags) @ towers.items[bags.positive].T
                logits = in_batch_logits(scores, bags.positive, log_q[bags.positive] if recipe.logq else None)
                loss = cross_entropy(logits, torch.arange(len(chosen)))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            if not torch.isfinite(loss):
                raise TrainingError("the two-tower loss is not finite; lower `rate`")
    finally:
        torch.set_num_threads(threads)
    history, item, bias = (each.detach().numpy().copy() for each in (towers.history, towers.items, towers.bias))
    return TwoTower(history, item, bias)


def fit_two_tower(interactions: Csr, *, seed: int = 0, recipe: Recipe = RECIPE) -> TwoTower:
    """Of csr (users, items) of ones; see `train_towers`."""
    return train_towers(Pairs.of(interactions), recipe, seed=seed)
