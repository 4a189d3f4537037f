"""Heads mean what their objective says, and the graph scores as the network does."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from bundle import OnnxScorer
from bundle.admission import check_graph
from definitions.heads import combined
from definitions.learning import Head as HeadSpec
from definitions.learning import Objective
from definitions.usecase import UseCase
from pipelines.deep.explain import gradients
from pipelines.deep.heads import Head, Heads
from pipelines.deep.inputs import Columns
from pipelines.deep.models import BODIES, Shape
from pipelines.deep.rankers import DeepRanker, Plan, arrays_of, fit_network, heads_of
from pipelines.deep.trainer import Arrays, Recipe
from pipelines.export.parity import compare, unstable
from pipelines.training.ranker import Rows

from .small_world import World

pytestmark = pytest.mark.deep

PLAN = Plan(Shape(width=4, hidden=(16,), layers=1), Recipe(batch=250, epochs=3, rate=0.01))
HEADS = [Head("like", weight=5.0), Head("hide", weight=-20.0), Head("seconds", objective="mse", weight=0.1)]


def trained(world: World, name: str) -> DeepRanker:
    return fit_network(name, world.columns, world.fit, world.valid, [Head("label")], plan=PLAN)


def strange_rows(world: World) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """50,000 rows of the world's, every ninth with NaN, unknown or impossible codes."""
    places = np.random.default_rng(0).integers(0, len(world.fit), 50_000)
    features, ints = world.fit.features[places], world.fit.ints[places]
    features[::9, 1] = np.nan
    ints[1::9, :4] = 0
    ints[2::9, 0] = 10**12
    ints[3::9, 5] = -1
    return features, ints


@pytest.mark.parametrize("name", sorted(BODIES))
def test_the_graph_scores_as_the_network(name: str, world: World, tmp_path: Path) -> None:
    """One admitted file, within 1e-5 and no pair turned round, the same bits for any number of rows."""
    ranker = trained(world, name)
    ranker.export(tmp_path / "model.onnx")

    assert ["model.onnx"] == [path.name for path in tmp_path.iterdir()]  # no weights beside it
    check_graph(tmp_path / "model.onnx")
    scorer = OnnxScorer(tmp_path / "model.onnx")
    features, ints = strange_rows(world)
    reference = ranker.score(features, ints)
    compare(name, reference, scorer.score(features, ints), np.arange(50_000, dtype=np.uint64) // 100)
    assert {} == unstable(scorer.score, features[:2_000], ints[:2_000])


def test_a_network_without_codes_has_a_graph_without_them(world: World, tmp_path: Path) -> None:
    """A use case with numbers only."""
    columns = Columns(4, 0, (0, 2))
    parts = [Arrays(a.features, a.ints[:, :0], a.labels, a.weight) for a in (world.fit, world.valid)]
    ranker = fit_network("dcn_v2", columns, *parts, [Head("label")], plan=PLAN)

    ranker.export(tmp_path / "model.onnx")

    scorer = OnnxScorer(tmp_path / "model.onnx")
    assert 0 == scorer.int_columns
    found = scorer.score(world.valid.features)
    np.testing.assert_allclose(ranker.score(parts[1].features, parts[1].ints), found, atol=1e-5)


@pytest.fixture(scope="module")
def reactions(world: World) -> tuple[Arrays, Arrays]:
    """Likes are the label; hides are rare and its opposite; seconds follow the third number."""

    def part(rows: Arrays) -> Arrays:
        random = np.random.default_rng(len(rows))
        hide = (rows.labels[:, 0] == 0) & (random.random(len(rows)) < 0.2)
        seconds = 30 + 20 * rows.features[:, 2] + random.normal(size=len(rows))
        labels = np.stack([rows.labels[:, 0], hide, seconds], 1).astype(np.float32)
        return Arrays(rows.features, rows.ints, labels, rows.weight)

    return part(world.fit), part(world.valid)


def test_heads_are_learnt_apart_and_weighted_into_one_score(
    world: World, reactions: tuple[Arrays, Arrays], tmp_path: Path
) -> None:
    """The graph gives each head's predictions beside the score: weights change without a training."""
    fit, valid = reactions
    ranker = fit_network("dcn_v2", world.columns, fit, valid, HEADS, plan=PLAN)

    found = ranker.predict(valid.features, valid.ints)
    error = np.abs(found[:, 2] - valid.labels[:, 2]).mean()
    assert error < 0.5 * np.abs(valid.labels[:, 2] - fit.labels[:, 2].mean()).mean()
    for head in (0, 1):
        assert found[:, head].mean() == pytest.approx(valid.labels[:, head].mean(), abs=1e-3)
    assert np.corrcoef(found[:, 0], found[:, 1])[0, 1] < -0.5

    ranker.export(tmp_path / "model.onnx")
    check_graph(tmp_path / "model.onnx")
    graph = OnnxScorer(tmp_path / "model.onnx")
    predictions = graph.predictions(valid.features, valid.ints)
    np.testing.assert_allclose(found, predictions, rtol=1e-5, atol=1e-4)
    trained = np.array([head.weight for head in HEADS], np.float32)
    np.testing.assert_allclose(
        combined(predictions, trained), graph.score(valid.features, valid.ints), rtol=1e-5, atol=1e-4
    )


def test_heads_are_those_of_the_use_case(films: UseCase, world: World) -> None:
    """The label alone; a regression's value; several named heads with the weights of the YAML, each its own labels."""
    n = len(world.fit)
    zero = np.zeros(n, np.int64)
    ids = zero.astype(np.uint64)
    value = world.fit.features[:, 0]
    own = {"like": value * 2, "seconds": value * 3}
    rows = Rows(
        features=world.fit.features, ints=world.fit.ints, history=value[:, None], label=zero + 1,
        weight=world.fit.weight, value=value, heads=own, user_id=ids, item_id=ids, time_us=zero, session=zero,
    )  # fmt: skip
    regression = films.model_copy(update={"objective": Objective(name="mae")})
    specs = {"like": HeadSpec(weight=5), "seconds": HeadSpec(weight=-0.5, value="rate")}
    several = films.model_copy(update={"heads": specs})

    assert [Head("label")] == heads_of(films)
    assert [Head("value", "mae")] == heads_of(regression)
    assert [Head("like", weight=5.0), Head("seconds", "mse", -0.5)] == heads_of(several)
    np.testing.assert_array_equal(np.ones((n, 1)), arrays_of(rows, heads_of(films)).labels)
    np.testing.assert_array_equal(value[:, None], arrays_of(rows, heads_of(regression)).labels)
    np.testing.assert_array_equal(np.stack([value * 2, value * 3], 1), arrays_of(rows, heads_of(several)).labels)


@pytest.mark.parametrize("objective", ["mse", "mae"])
def test_a_regression_predicts_in_the_labels_own_unit(
    objective: str, world: World, reactions: tuple[Arrays, Arrays]
) -> None:
    """The squared error finds the mean, the absolute one the median: of skewed labels they differ."""
    fit, valid = (Arrays(rows.features, rows.ints, np.exp(rows.labels[:, 2:] / 30), rows.weight) for rows in reactions)
    head = Head("watched", objective=objective)  # type: ignore[arg-type]
    ranker = fit_network("dlrm", world.columns, fit, valid, [head], plan=PLAN)

    error = ranker.score(valid.features, valid.ints) - valid.labels[:, 0]
    constant = fit.labels.mean() if objective == "mse" else np.median(fit.labels)
    plain = valid.labels[:, 0] - constant
    measure = np.square if objective == "mse" else np.abs
    assert measure(error).mean() < 0.35 * measure(plain).mean()


def test_losses_are_those_of_the_objectives() -> None:
    """Values count in deviations of the label, so that heads of any unit weigh alike."""
    labels = torch.tensor([[1.0, 10.0, 10.0], [0.0, 30.0, 30.0]])
    heads = Heads([Head("a"), Head("b", "mse"), Head("c", "mae")], labels)  # mean 20, deviation 10

    found = heads.losses(torch.tensor([[0.0, 1.0, 1.0], [2.0, 1.0, -1.0]]), labels)

    expected = [[np.log(2), 4.0, 2.0], [np.log1p(np.exp(2.0)), 0.0, 2.0]]
    np.testing.assert_allclose(expected, found.numpy(), rtol=1e-6)


@pytest.mark.parametrize("name", sorted(BODIES))
def test_gradients_add_up_to_the_difference_of_the_logits(name: str, world: World) -> None:
    """Completeness; a column that no network reads gets nothing."""
    ranker = trained(world, name)
    rows = (world.valid.features[:20], world.valid.ints[:20])
    nothing = (world.fit.features.mean(0), np.zeros(world.columns.ints, np.int64))

    features, ints, explained = gradients(ranker, rows, nothing, steps=256)

    np.testing.assert_allclose(explained, features.sum(1) + ints.sum(1), atol=0.02)
    assert np.abs(explained).max() > 0.5
    assert 0 == np.abs(ints[:, 10:]).max()  # the history's values count at its ids
