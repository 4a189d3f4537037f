"""The networks: FM, DCN-v2, DLRM and a sequence ranker, each a body on the same inputs and one table of embeddings."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipelines.deep.inputs import Batch, Columns, Inputs, Matrix
from pipelines.deep.parallel import World
from pipelines.deep.sharding import SHARD_BYTES, ShardedTable, table_rows
from pipelines.errors import TrainingError


@dataclass(frozen=True)
class Shape:
    """Sizes of a network. `width`: of an embedding; `hidden`: of each layer of an MLP; `layers`: crosses or blocks."""

    width: int = 8
    hidden: tuple[int, ...] = (64, 32)
    layers: int = 2
    attention_heads: int = 2


class Body(nn.Module):
    """From a batch and its embeddings to logits: float32 (n, K, table_width) -> (n, heads)."""

    def __init__(self, columns: Columns, shape: Shape, heads: int) -> None:
        super().__init__()
        self.columns, self.shape, self.heads = columns, shape, heads

    @staticmethod
    def table_width(shape: Shape) -> int:
        """Columns of the table of embeddings."""
        return shape.width

    def fields(self, vectors: Tensor, known: Tensor) -> Tensor:
        """(n, fields, width): the mean over a field's known codes, or the vector of "unknown" where it has none."""
        pooled, start = [], 0
        for width in self.columns.widths:
            part = vectors[:, start : start + width]
            if width > 1:
                weight = known[:, start : start + width].to(part.dtype)
                first = torch.zeros_like(weight)
                first[:, 0] = 1
                weight = torch.where(weight.sum(1, keepdim=True) > 0, weight, first)
                part = (part * (weight / weight.sum(1, keepdim=True)).unsqueeze(2)).sum(1, keepdim=True)
            pooled.append(part)
            start += width
        return torch.cat(pooled, 1) if pooled else vectors[:, :0]

    def flat(self, batch: Batch, vectors: Tensor) -> Tensor:
        """(n, numbers + fields * width): numbers and fields side by side."""
        return torch.cat([batch.numbers, self.fields(vectors, batch.known).flatten(1)], 1)

    @property
    def flat_width(self) -> int:
        """Of `flat`."""
        return len(self.columns.numbers) + len(self.columns.fields) * self.shape.width


class FactorizationMachine(Body):
    """Linear terms plus all products of pairs, factorised: sum over i < j of <v_i, v_j> x_i x_j (Rendle, ICDM 2010).

    A number's vector is scaled by the number; a code's is its embedding, whose last columns are its linear weights.
    """

    def __init__(self, columns: Columns, shape: Shape, heads: int) -> None:
        super().__init__(columns, shape, heads)
        if heads != 1:
            raise TrainingError("fm has one head; take dcn_v2, dlrm or sequence for several")
        self.numbers = nn.Parameter(torch.randn(len(columns.numbers), shape.width) * 0.01)
        self.linear = nn.Linear(len(columns.numbers), 1)

    @staticmethod
    def table_width(shape: Shape) -> int:
        """The factors and the linear weight."""
        return shape.width + 1

    def forward(self, batch: Batch, vectors: Tensor) -> Tensor:
        """Logits (n, 1)."""
        fields = self.fields(vectors, batch.known)
        factors = fields[:, :, :-1]
        total = batch.numbers @ self.numbers + factors.sum(1)
        squares = batch.numbers.square() @ self.numbers.square() + factors.square().sum(1)
        pairs = 0.5 * (total.square() - squares).sum(1, keepdim=True)
        return self.linear(batch.numbers) + fields[:, :, -1].sum(1, keepdim=True) + pairs


class DeepCross(Body):
    """DCN-v2, stacked in parallel: x_{l+1} = x_0 * (W_l x_l + b_l) + x_l beside an MLP (Wang et al., WWW 2021)."""

    def __init__(self, columns: Columns, shape: Shape, heads: int) -> None:
        super().__init__(columns, shape, heads)
        width = self.flat_width
        self.crosses = nn.ModuleList(nn.Linear(width, width) for _ in range(shape.layers))
        self.deep = mlp(width, shape.hidden)
        self.out = nn.Linear(width + shape.hidden[-1], heads)

    def forward(self, batch: Batch, vectors: Tensor) -> Tensor:
        """Logits (n, heads)."""
        first = self.flat(batch, vectors)
        crossed = first
        for cross in self.crosses:
            crossed = first * cross(crossed) + crossed
        return self.out(torch.cat([crossed, self.deep(first)], 1))


class Dlrm(Body):
    """Dot products of all pairs of embeddings and of the numbers' MLP, then an MLP (Naumov et al., 2019)."""

    def __init__(self, columns: Columns, shape: Shape, heads: int) -> None:
        super().__init__(columns, shape, heads)
        vectors = len(columns.fields) + 1
        self.bottom = mlp(len(columns.numbers), (*shape.hidden, shape.width))
        self.top = mlp(shape.width + vectors * (vectors - 1) // 2, shape.hidden)
        self.out = nn.Linear(shape.hidden[-1], heads)
        self.register_buffer("pairs", torch.tril_indices(vectors, vectors, -1), persistent=False)

    def forward(self, batch: Batch, vectors: Tensor) -> Tensor:
        """Logits (n, heads)."""
        dense = self.bottom(batch.numbers)
        every = torch.cat([dense.unsqueeze(1), self.fields(vectors, batch.known)], 1)
        products = every @ every.transpose(1, 2)
        return self.out(self.top(torch.cat([dense, products[:, self.pairs[0], self.pairs[1]]], 1)))


class Attention(nn.Module):
    """One block of ours: the candidate asks the history (Vaswani et al., 2017), then feeds forward; both residual.

    Norms are before, as in pre-LN transformers; an empty history leaves the candidate as it is.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not divisible by {heads} attention heads")
        self.heads = heads
        self.norm, self.norm_out = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.pair = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        self.feed = nn.Sequential(nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width))

    def forward(self, candidate: Tensor, history: Tensor, known: Tensor) -> Tensor:
        """candidate (n, d), history (n, k, d), known bool (n, k) -> (n, d)."""
        _, k, width = history.shape
        query = self.query(self.norm(candidate)).reshape(-1, 1, self.heads, width // self.heads).transpose(1, 2)
        pair = self.pair(history).reshape(-1, k, 2, self.heads, width // self.heads)
        keys, values = pair[:, :, 0].transpose(1, 2), pair[:, :, 1].transpose(1, 2)
        # A finite mask: a row that is masked altogether would be NaN by -inf. What it then reads is multiplied by 0.
        mask = torch.where(known, 0.0, -1e9).to(query.dtype).reshape(-1, 1, 1, k)
        read = functional.scaled_dot_product_attention(query, keys, values, attn_mask=mask)
        read = self.out(read.transpose(1, 2).reshape(-1, width)) * known.any(1, keepdim=True).to(query.dtype)
        asked = candidate + read
        return asked + self.feed(self.norm_out(asked))


class SequenceRanker(Body):
    """The candidate attends to the user's last k items, each known by its embedding, value and place; then an MLP."""

    def __init__(self, columns: Columns, shape: Shape, heads: int) -> None:
        super().__init__(columns, shape, heads)
        if columns.history is None:
            raise TrainingError(
                "sequence needs a history: add a history_score feature to the use case, train with group history"
            )
        names = [field.name for field in columns.fields]
        self.k = len(columns.history.ids.places)
        self.candidate = names.index(columns.candidate) if columns.candidate else None
        self.places = nn.Parameter(torch.randn(self.k, shape.width) * 0.01)
        self.value = nn.Linear(1, shape.width)
        self.ask = nn.Linear(self.flat_width, shape.width)
        self.blocks = nn.ModuleList(Attention(shape.width, shape.attention_heads) for _ in range(shape.layers))
        self.deep = mlp(self.flat_width + shape.width, shape.hidden)
        self.out = nn.Linear(shape.hidden[-1], heads)

    def forward(self, batch: Batch, vectors: Tensor) -> Tensor:
        """Logits (n, heads)."""
        start = sum(self.columns.widths)
        known = batch.known[:, start:]
        history = vectors[:, start:] + self.value(batch.values.unsqueeze(2)) + self.places
        flat = self.flat(batch, vectors)
        asked = self.ask(flat)
        if self.candidate is not None:
            asked = asked + self.fields(vectors, batch.known)[:, self.candidate]
        for block in self.blocks:
            asked = block(asked, history, known)
        return self.out(self.deep(torch.cat([flat, asked], 1)))


BODIES: Mapping[str, type[Body]] = {
    "fm": FactorizationMachine,
    "dcn_v2": DeepCross,
    "dlrm": Dlrm,
    "sequence": SequenceRanker,
}


class RankNet(nn.Module):
    """Inputs, one table of embeddings, a body: `features` float32 (n, F), `int_features` int64 (n, K) -> (n, heads).

    `table` may be any module that maps int64 rows to vectors, such as `sharding.ShardedTable`.
    """

    def __init__(self, inputs: Inputs, table: nn.Module, body: Body) -> None:
        super().__init__()
        self.inputs, self.table, self.body = inputs, table, body

    def forward(self, features: Tensor, int_features: Tensor) -> Tensor:
        """Logits."""
        batch = self.inputs(features, int_features)
        return self.body(batch, self.table(batch.rows))


def build(
    name: str,
    columns: Columns,
    features: Matrix,
    shape: Shape,
    *,
    heads: int = 1,
    seed: int = 0,
    world: World | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> RankNet:
    """A new network, its weights the same for any number of processes.

    Args:
        name: of BODIES.
        columns: what it reads.
        features: float32 (n, F) of the fit rows, for the scaling.
        shape: its sizes.
        heads: how many outputs.
        seed: of the first weights.
        world: the processes that train it together; None = this one alone.
        shard_bytes: a table from this size on is sharded over the world.

    Raises:
        TrainingError: the body cannot read these columns, or has one head.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        body = BODIES[name](columns, shape, heads)
    width = body.table_width(shape)
    table: nn.Module
    if world is not None and world.size > 1 and 4 * width * columns.rows >= shard_bytes:
        table = ShardedTable(columns.rows, width, world, seed)
    else:
        table = nn.Embedding(columns.rows, width, _weight=table_rows(columns.rows, width, seed))
    return RankNet(Inputs(columns, features), table, body)


def mlp(width: int, hidden: tuple[int, ...]) -> nn.Sequential:
    """Linear layers with SiLU after each.

    Not ReLU: at its kink a rounding error switches a row's gradient on or off, which Adam makes a step of full size,
    and several processes leave the loss curve of one (docs/adr/0033-deep-models-by-torch.md).
    """
    layers: list[nn.Module] = []
    for size in hidden:
        layers += [nn.Linear(width, size), nn.SiLU()]
        width = size
    return nn.Sequential(*layers)
