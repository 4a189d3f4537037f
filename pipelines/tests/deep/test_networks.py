"""Each network computes what its paper says, reads any row, and learns."""

import numpy as np
import pytest
import torch
from pipelines.deep.heads import Head
from pipelines.deep.inputs import Batch, Columns, Field
from pipelines.deep.models import BODIES, Attention, DeepCross, Dlrm, FactorizationMachine, Shape, build
from pipelines.deep.rankers import Plan, fit_network
from pipelines.deep.trainer import Recipe
from pipelines.evaluation.metrics import auc
from torch import Tensor, nn

from .small_world import World

pytestmark = pytest.mark.deep

COLUMNS = Columns(2, 3, (0, 1), (Field("a", (0,), 5, "a"), Field("b", (1, 2), 4, "b")))


@pytest.fixture
def batch() -> Batch:
    """Two rows; the second knows neither of b's codes."""
    random = torch.Generator().manual_seed(1)
    known = torch.tensor([[True, True, True], [True, False, False]])
    return Batch(torch.randn(2, 2, generator=random), torch.zeros(2, 3, dtype=torch.int64), known, torch.zeros(2, 0))


def vectors(width: int) -> Tensor:
    return torch.randn(2, 3, width, generator=torch.Generator().manual_seed(2))


def pooled(found: Tensor) -> Tensor:
    """By hand: b's mean over known codes, or its first slot, where code 0 lies, if none is known."""
    b = torch.stack([(found[0, 1] + found[0, 2]) / 2, found[1, 1]])
    return torch.stack([found[:, 0], b], 1)


def test_a_factorization_machine_sums_all_pairs(batch: Batch) -> None:
    """The O(kn) formula equals the double sum over i < j of <v_i, v_j> x_i x_j."""
    shape = Shape(width=3)
    body = FactorizationMachine(COLUMNS, shape, 1)
    found = vectors(body.table_width(shape))

    fields = pooled(found)
    for row in range(2):
        terms = [batch.numbers[row, i] * body.numbers[i] for i in range(2)] + [fields[row, i, :3] for i in range(2)]
        pairs = sum(terms[i] @ terms[j] for i in range(4) for j in range(i + 1, 4))
        linear = body.linear(batch.numbers[row]) + fields[row, :, 3].sum()
        torch.testing.assert_close(linear + pairs, body(batch, found)[row])


def test_dcn_v2_crosses_with_the_first_layer(batch: Batch) -> None:
    """x2 = x0 * (W2 x1 + b2) + x1, x1 = x0 * (W1 x0 + b1) + x0."""
    body = DeepCross(COLUMNS, Shape(width=3, hidden=(4,)), 2)
    found = vectors(3)

    x0 = torch.cat([batch.numbers, pooled(found).flatten(1)], 1)
    w = [(cross.weight, cross.bias) for cross in body.crosses]
    x1 = x0 * (x0 @ w[0][0].T + w[0][1]) + x0
    x2 = x0 * (x1 @ w[1][0].T + w[1][1]) + x1

    torch.testing.assert_close(body.out(torch.cat([x2, body.deep(x0)], 1)), body(batch, found))


def test_dlrm_multiplies_every_pair_once(batch: Batch) -> None:
    """Embeddings and the numbers' vector: three vectors, three products."""
    body = Dlrm(COLUMNS, Shape(width=3, hidden=(4,)), 1)
    found = vectors(3)

    dense, (a, b) = body.bottom(batch.numbers), pooled(found).unbind(1)
    products = torch.stack([(a * dense).sum(1), (b * dense).sum(1), (b * a).sum(1)], 1)

    torch.testing.assert_close(body.out(body.top(torch.cat([dense, products], 1))), body(batch, found))


def test_attention_is_that_of_torch_and_an_empty_history_is_no_nan() -> None:
    """The block's read equals nn.MultiheadAttention with the same weights; unknown items are not read."""
    width, heads, k = 8, 2, 5
    block = Attention(width, heads)
    theirs = nn.MultiheadAttention(width, heads, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([block.query.weight, block.pair.weight]))
        theirs.in_proj_bias.copy_(torch.cat([block.query.bias, block.pair.bias]))
        theirs.out_proj.load_state_dict(block.out.state_dict())
    candidate, history = torch.randn(3, width), torch.randn(3, k, width)
    known = torch.tensor([[True] * 5, [True, False, True, False, False], [False] * 5])

    found = block(candidate, history, known)

    read, _ = theirs(block.norm(candidate)[:2, None], history[:2], history[:2], key_padding_mask=~known[:2])
    asked = torch.cat([candidate[:2] + read[:, 0], candidate[2:]])
    torch.testing.assert_close(asked + block.feed(block.norm_out(asked)), found)
    assert torch.isfinite(found).all()
    changed = history.clone()
    changed[1, 1] += 1
    torch.testing.assert_close(found[1], block(candidate, changed, known)[1])


@pytest.mark.parametrize("name", sorted(BODIES))
def test_any_row_has_a_finite_score(name: str, world: World) -> None:
    """NaN reads as the mean, a code outside its vocabulary as unknown: one bad row never fails its batch."""
    net = build(name, world.columns, world.fit.features, Shape(layers=1)).eval()
    features, ints = torch.from_numpy(world.fit.features[:4]).clone(), torch.from_numpy(world.fit.ints[:4]).clone()
    features[0] = torch.nan
    features[1] = torch.inf
    features[2] = -torch.inf
    ints[0], ints[1], ints[2] = -1, 10**9, 0
    unknown = ints.clone()
    unknown[:2, :10] = 0

    with torch.inference_mode():
        assert torch.isfinite(net(features, ints)).all()
        torch.testing.assert_close(net(features, unknown)[2:], net(features, ints)[2:])
        codes = net.inputs(features, ints).rows
        torch.testing.assert_close(net.inputs(features, unknown).rows, codes)


@pytest.mark.parametrize("name", sorted(BODIES))
def test_every_network_learns_and_is_calibrated(name: str, world: World) -> None:
    """The label is an interaction of a code with a number: no linear model of the columns finds it."""
    plan = Plan(Shape(width=4, hidden=(16,), layers=1), Recipe(batch=250, epochs=6, rate=0.01))

    found = fit_network(name, world.columns, world.fit, world.valid, [Head("label")], plan=plan)
    again = fit_network(name, world.columns, world.fit, world.valid, [Head("label")], plan=plan)

    score = found.score(world.valid.features, world.valid.ints)
    label = world.valid.labels[:, 0]
    assert (auc(label.astype(bool), score) or 0) > 0.75  # logistic regression on one-hot codes and numbers: .699
    assert score.mean() == pytest.approx(label.mean(), abs=1e-3)  # Platt on these rows
    np.testing.assert_array_equal(score, again.score(world.valid.features, world.valid.ints))


def test_code_0_is_trained(world: World) -> None:
    """Share by share of dropped codes: the unknown item's embedding moves, though no fit row has code 0."""
    plan = Plan(Shape(width=4, hidden=(8,), layers=1), Recipe(batch=500, epochs=1))
    net = build("dcn_v2", world.columns, world.fit.features, plan.shape)
    assert (world.fit.ints[:, 0] > 0).all()
    before = net.table.weight[0].detach().clone()

    found = fit_network("dcn_v2", world.columns, world.fit, world.valid, [Head("label")], plan=plan)

    assert (found.net.table.weight[0] != before).all()
