"""Contributions add up to the raw score, are those of the framework, and come from the bundle's graph alone."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import xgboost
from bundle import Bundle, Golden, Manifest, OnnxScorer, TrainingWindow, load_bundle, write_bundle
from bundle.contributions import Contributions, logit
from bundle.shapley import Block, blocks_of, shapley
from definitions.events import EventColumns
from definitions.item_snapshot import ItemSnapshot
from definitions.layout import layout_of
from definitions.usecase import UseCase
from definitions.user_state import UserTable
from millrace.events.v1 import events_pb2 as pb
from pipelines.evaluation.metrics import auc
from pipelines.explain import GraphExplainer, contributions
from pipelines.explain.importance import permutation_importance
from pipelines.explain.rankers import reference_row
from pipelines.explain.served import explain_items
from pipelines.training.encoding import Encoder, Native, OneHot
from pipelines.training.inputs import CodeColumn, Inputs
from pipelines.training.linear import LinearRanker, fit_linear, sigmoid
from pipelines.training.ranker import Ranker
from pipelines.training.trees import TreeRanker, fit_trees
from pipelines.training.xgb import PARAMETERS as XGB
from pipelines.training.xgb import XgbRanker, boost

Matrix = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
NAMES = ("tail", "flat", "noise", "signal")
INT_NAMES = ("genre_0", "genre_1")


def world(n: int, seed: int) -> tuple[Matrix, Ints, Ints]:
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n, 4)).astype(np.float32)
    features[:, 0] = rng.lognormal(1, 2, n)
    features[:, 1] = 5
    ints = rng.choice(np.array([0, 1, 2, 3]), (n, 2))
    raw = np.log1p(features[:, 0]) - 2 + 1.5 * features[:, 3] + 2 * (ints == 2).any(axis=1) - 1
    return features, ints, (raw + rng.logistic(size=n) > 0).astype(np.int64)


@pytest.fixture(scope="module")
def inputs() -> Inputs:
    genre = CodeColumn("genre", np.array([0, 1]), 4)
    return Inputs(NAMES, np.arange(4), INT_NAMES, {}, (genre,), None, None)


@pytest.fixture(scope="module", params=["lr", "lightgbm", "native", "xgboost"])
def ranker(request: pytest.FixtureRequest, inputs: Inputs) -> Ranker:
    """Calibrated: the contributions are those of the score that is served."""
    places = np.array([0, 1])
    group = Native("genre", places) if request.param == "native" else OneHot("genre", places, np.array([1, 2, 3]))
    encoder = Encoder(inputs, (group,))
    (fit, y), (valid, z) = ((encoder.expand(f, i), labels) for f, i, labels in (world(3000, 0), world(600, 1)))
    if request.param == "lr":
        return LinearRanker(encoder, fit_linear((fit, y), (valid, z), numbers=4).calibrated(1.1, -0.05))
    if request.param == "xgboost":
        rows, later = xgboost.DMatrix(fit, y), xgboost.DMatrix(valid, z)
        return XgbRanker(encoder, boost(rows, later, XGB, seed=0, threads=1).calibrated(0.9, 0.1))
    model = fit_trees((fit, y), (valid, z), encoder.names, native=encoder.native)
    return TreeRanker(encoder, model.calibrated(0.9, 0.1))


def test_contributions_sum_to_the_raw_score(ranker: Ranker, inputs: Inputs) -> None:
    """Base and columns together are the logit of the served probability, row by row."""
    features, ints, _ = world(200, 2)
    found = contributions(ranker, features, ints, inputs=inputs, reference=reference_row(features, ints))

    np.testing.assert_allclose(
        sigmoid(found.raw), ranker.score(features, ints), atol=1e-9 if ranker.name != "xgboost" else 1e-5
    )
    np.testing.assert_allclose(found.by_feature().raw, found.raw, atol=1e-9)
    assert (*NAMES, "genre") == found.by_feature().names
    assert "signal" == max(found.importance(), key=lambda each: each[1] if each[0] in ("noise", "signal") else 0)[0]
    assert (found.contributions[:, NAMES.index("flat")] == found.contributions[0, NAMES.index("flat")]).all()


def test_the_graph_alone_gives_the_same(ranker: Ranker, inputs: Inputs, tmp_path: Path) -> None:
    """From the bundle: same columns, same contributions, to float32."""
    features, ints, _ = world(200, 2)
    folder = tmp_path / "bundle"
    ranker.export(tmp_path / "model.onnx")
    scores = OnnxScorer(tmp_path / "model.onnx").score(features, ints)
    Golden(features, ints, scores, scores).save(tmp_path / "golden.npz")
    manifest = Manifest(
        name="films", version=1, usecase="films", revision=1, layout_hash=1, feature_names=NAMES, int_names=INT_NAMES,
        window=TrainingWindow(from_us=0, to_us=1), commit="unknown", seeds=(0,), dataset="none", data_hash="00",
        metrics={}, parity={}, created_us=1,
    )  # fmt: skip
    model = tmp_path / "model.onnx"
    write_bundle(folder, manifest, {"model.onnx": model, "fallback.onnx": model, "golden.npz": tmp_path / "golden.npz"})
    explainer = GraphExplainer(load_bundle(folder))
    found = explainer.contributions(features, ints)
    own = contributions(ranker, features, ints, inputs=inputs, reference=reference_row(features, ints))

    assert ("coefficients" if ranker.name == "lr" else "tree SHAP") == explainer.method
    assert own.names == found.names
    np.testing.assert_allclose(found.contributions, own.contributions, atol=2e-5)
    np.testing.assert_allclose(found.base, own.base, atol=2e-5)
    np.testing.assert_allclose(sigmoid(found.raw), scores, atol=1e-5)


def test_shapley_values_of_a_black_box(inputs: Inputs) -> None:
    """Additive model: each block's value is its own term exactly; an interaction is shared half and half."""
    rng = np.random.default_rng(3)
    features, ints = rng.normal(size=(20, 4)).astype(np.float32), rng.integers(0, 3, (20, 2))

    def score(floats: Matrix, codes: Ints) -> npt.NDArray[np.float64]:
        added = 0.5 * floats[:, 0] + (codes == 2).any(axis=1)
        return sigmoid(added.astype(np.float64) + floats[:, 2].astype(np.float64) * floats[:, 3])

    reference = (np.zeros(4, np.float32), np.zeros(2, np.int64))
    found = shapley(score, features, ints, reference, blocks_of(NAMES, INT_NAMES), permutations=3)
    terms = dict(zip(found.names, found.contributions.T, strict=True))

    np.testing.assert_allclose(found.raw, logit(score(features, ints)), atol=1e-9)
    np.testing.assert_allclose(terms["tail"], 0.5 * features[:, 0], atol=1e-6)
    np.testing.assert_allclose(terms["genre"], (ints == 2).any(axis=1), atol=1e-6)
    np.testing.assert_allclose(terms["flat"], 0, atol=1e-9)
    np.testing.assert_allclose(terms["noise"], features[:, 2] * features[:, 3] / 2, atol=1e-6)
    np.testing.assert_allclose(terms["signal"], terms["noise"], atol=1e-6)


def test_a_history_is_one_block() -> None:
    """Ids and values of a user's newest items say nothing apart."""
    blocks = blocks_of(("a",), ("u_ids_0", "u_ids_1", "u_values_0", "g"), history=("u_ids_0", "u_ids_1", "u_values_0"))

    assert {"a": ([0], []), "history": ([], [0, 1, 2]), "g": ([], [3])} == {
        name: (block.floats.tolist(), block.ints.tolist()) for name, block in blocks.items()
    }


def test_permutation_importance_names_what_the_model_leans_on(ranker: Ranker) -> None:
    """The signal's loss is real, by its interval; the column that never changes loses exactly nothing."""
    features, ints, labels = world(1500, 4)
    users = np.arange(1500) // 10
    blocks = {name: Block(np.array([place]), np.empty(0, np.intp)) for place, name in enumerate(NAMES)}
    found = permutation_importance(ranker.score, features, ints, labels, users, blocks)

    assert found["signal"].low > 0.05
    assert (0.0, 0.0) == (found["flat"].low, found["flat"].high)
    assert found["noise"].high < 0.02
    assert (auc(labels, ranker.score(features, ints)) or 0) > found["signal"].value


def test_why_one_item_lies_above_another() -> None:
    """The gaps are sorted by size and sum to the difference of the raw scores."""
    found = Contributions(
        ("a", "g=1", "g=2"),
        np.array([[1, 0, 1], [2, 1, 0]], np.float32),
        np.array([[0.5, 0.0, 0.3], [0.4, -0.9, 0.0]]),
        np.array([0.1, 0.1]),
    )
    gaps = found.by_feature().versus(0, 1)

    assert ["g", "a"] == [each.name for each in gaps]
    assert found.raw[0] - found.raw[1] == pytest.approx(sum(each.gap or 0 for each in gaps))
    assert (1.0, 2.0) == (gaps[1].value, gaps[1].other)


def test_served_items_are_explained_as_the_gateway_sees_them(
    films: UseCase, make_bundle: Callable[..., Bundle]
) -> None:
    """From row and snapshot: best first, the column that the model reads and nothing else; an unknown user is told."""
    layout = layout_of(films)
    events = EventColumns.of(1, event_id=[1], user_id=[7], item_id=[501], action=[1], value=[5.0], event_time_us=[1])
    users, items = UserTable(layout), ItemSnapshot(layout)
    users.fold(events)
    for item, year in ((501, 3), (502, 8)):
        items.put_item(pb.Item(id=item, attributes={"year": pb.AttributeValue(number=year)}))
    bundle = make_bundle(layout, {"i_year": 0.1, "u_rated_all": 0.3})

    told = explain_items(layout, bundle, users.row(7, 1), items, [501, 502], 1000).as_dict(3)
    stranger = explain_items(layout, bundle, None, items, [501], 1000).as_dict(3)

    assert [502, 501] == [each["item_id"] for each in told["items"]]
    assert [0.8 + 0.3, 0.3 + 0.3] == pytest.approx([each["raw"] for each in told["items"]], abs=1e-5)
    assert {"i_year", "u_rated_all"} <= {each["name"] for each in told["items"][0]["features"]}
    assert "i_year" == told["above"]["features"][0]["name"]
    assert 0.5 == pytest.approx(told["above"]["features"][0]["gap"], abs=1e-5)
    assert (True, False, None) == (told["known_user"], stranger["known_user"], stranger["above"])
    assert "NaN" not in json.dumps(told)
