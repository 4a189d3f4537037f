"""Explain: of a user now, of an answer that is remembered; what each value adds and how old it is; shed first."""

import asyncio
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import onnx
import pytest
from bundle import Bundle, Golden, Manifest, OnnxScorer, TrainingWindow, load_bundle, write_bundle
from definitions.assembly import RequestContext
from gateway.bundle_explainer import BundleExplainer
from gateway.errors import DeadlineTooShort, InvalidRequest, NotRemembered, Overloaded
from gateway.explaining import MAX_WAITING, Asked, Explained, Explaining, Recent, kinds_of
from gateway.metrics import Metrics
from gateway.query import Query
from gateway.servicer import RankingServicer
from millrace.ranking.v1 import ranking_pb2 as pb
from millrace.ranking.v1 import ranking_pb2_grpc
from onnx import TensorProto, helper, numpy_helper
from servicekit.kit import Kit

USER = 7
SECOND_US = 1_000_000


@pytest.fixture
def bundle(world: Any, tmp_path: Path) -> Bundle:
    """score = logistic(u_rated_all - 0.5 i_rated_all); the golden rows' mean is 0."""
    names = world.layout.feature_names
    weights = np.array([[{"u_rated_all": 1.0, "i_rated_all": -0.5}.get(name, 0.0)] for name in names], np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["features", "w"], ["logit"]), helper.make_node("Sigmoid", ["logit"], ["score"])],
        "linear",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, [None, len(names)])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, [None, 1])],
        [numpy_helper.from_array(weights, "w")],
    )
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    features = np.zeros((2, len(names)), np.float32)
    scores = OnnxScorer(path).score(features)
    Golden(features, np.empty((2, 0), np.int64), scores, scores).save(tmp_path / "golden.npz")
    manifest = Manifest(
        name="trees", version=3, usecase="tiny", revision=1, layout_hash=world.layout.layout_hash, feature_names=names,
        window=TrainingWindow(from_us=0, to_us=1), commit="unknown", seeds=(0,), dataset="none", data_hash="00",
        metrics={}, parity={}, created_us=1,
    )  # fmt: skip
    files = {"model.onnx": path, "fallback.onnx": path, "golden.npz": tmp_path / "golden.npz"}
    write_bundle(tmp_path / "bundle", manifest, files)
    return load_bundle(tmp_path / "bundle")


class Stand:
    """A world whose model can be explained, and what remembers its answers."""

    def __init__(self, world: Any, bundle: Bundle) -> None:
        self.world, self.recent, self.busy = world, Recent(), False
        world.active = replace(world.active, explain=BundleExplainer(bundle))
        world.rows.rows[USER] = world.row_of(USER, rated=[4, 5])  # the newest a second ago
        self.explaining = Explaining(self.recent, world.ranker, lambda: self.busy)

    def explain(self, *items: int, request_id: int = 0, user_id: int = USER, top: int = 0, s: float = 2.0) -> Explained:
        query = Query(0 if request_id else user_id, np.array(items, np.uint64), 0, RequestContext())
        return asyncio.run(self.explaining.explain(Asked(request_id, query, top), s))

    def rank(self, *items: int, limit: int = 0) -> int:
        ranking = self.world.rank(*items, limit=limit)
        self.recent.add(self.world.sink.shown[-1])
        return int(ranking.request_id)


@pytest.fixture
def stand(world: Any, bundle: Bundle) -> Any:
    made = Stand(world, bundle)
    yield made
    made.explaining.close()


def of(explained: Explained, item: int) -> dict[str, tuple[float, float, int]]:
    """Feature -> value, what it adds, age."""
    row = explained.item_ids.tolist().index(item)
    found = explained.found
    columns = zip(found.names, found.values[row], found.contributions[row], explained.ages_us[row], strict=True)
    return {name: (float(value), float(adds), int(age)) for name, value, adds, age in columns}


def test_what_each_feature_adds_and_how_old_it_is(stand: Stand) -> None:
    """The user rated two items, the newest a second ago; item 3 was rated three times, a thousand seconds ago."""
    found = stand.explain(3, 8)

    of_3 = of(found, 3)
    assert (2.0, pytest.approx(2.0, abs=1e-5), SECOND_US) == of_3["u_rated_all"]
    assert (3.0, pytest.approx(-1.5, abs=1e-5), 1_000 * SECOND_US) == of_3["i_rated_all"]
    assert {"u_rated_all": "user", "i_rated_all": "item", "history": "user"} == kinds_of(stand.world.layout)
    np.testing.assert_allclose(found.found.raw, [2 - 1.5, 2 - 4.0], atol=1e-5)
    np.testing.assert_allclose(found.scores, 1 / (1 + np.exp(-found.found.raw)), atol=1e-6)
    assert (2, "trees") == (found.row.interactions_offset if found.row else None, found.model.name)


def test_a_stranger_has_no_history_to_be_old(stand: Stand) -> None:
    """Without a row values are defaults of no age."""
    found = stand.explain(3, user_id=99)
    assert (0.0, pytest.approx(0, abs=1e-9), -1) == of(found, 3)["u_rated_all"]
    assert found.row is None


def test_an_answer_is_explained_by_what_ranked_it(stand: Stand) -> None:
    """Whatever has happened since: another row, another model."""
    request = stand.rank(1, 2, 3, limit=2)
    world = stand.world
    world.rows.rows[USER] = world.row_of(USER, rated=[4, 5, 6, 7])
    before, world.active = world.active, None

    found = stand.explain(request_id=request)

    assert (world.sink.shown[0].item_ids.tolist(), [1, 2, 0]) == (found.item_ids.tolist(), found.positions.tolist())
    assert (2.0, SECOND_US) == (of(found, 3)["u_rated_all"][0], of(found, 3)["u_rated_all"][2])
    assert before.explain is found.model.explain
    assert [1] == stand.explain(1, request_id=request).item_ids.tolist()


def test_what_is_not_remembered_is_said(stand: Stand) -> None:
    """An id that never was, a rung without a model, no deployed model, an item that was no candidate."""
    with pytest.raises(NotRemembered, match="millrace explain --request 5"):
        stand.explain(request_id=5)
    request = stand.rank(1, 2)
    with pytest.raises(InvalidRequest, match=r"item_ids\[1\]: 9 was no candidate"):
        stand.explain(1, 9, request_id=request)
    stand.world.active = None
    with pytest.raises(NotRemembered, match="rung POPULAR"):
        stand.explain(request_id=stand.rank(1))
    with pytest.raises(NotRemembered, match="no model is deployed"):
        stand.explain(1)


@pytest.mark.parametrize(
    ("items", "more", "said"),
    [
        ((), {}, "item_ids: empty"),
        (tuple(range(1, 22)), {}, "at most 20"),
        ((0,), {}, r"item_ids\[0\]: 0 means absent"),
    ],
)
def test_a_wrong_question_names_its_field(stand: Stand, items: tuple[int, ...], more: Any, said: str) -> None:
    """As everywhere."""
    with pytest.raises(InvalidRequest, match=said):
        stand.explain(*items, **more)


@pytest.mark.parametrize("bound", ["most", "most_bytes"])
def test_only_the_last_answers_are_remembered(world: Any, bound: str) -> None:
    """By number and by size."""
    for item in (1, 2, 3):
        world.rank(item)
    shown = world.sink.shown
    recent = Recent(**{bound: 2 if bound == "most" else 2 * shown[0].size})
    for place, each in enumerate(shown):
        recent.add(each._replace(ranking=each.ranking._replace(request_id=place + 1)))
    assert [False, True, True] == [recent.get(request) is not None for request in (1, 2, 3)]


async def test_explanations_are_shed_first_and_never_outlive_their_budget(stand: Stand) -> None:
    """A busy process refuses; one that hangs costs its caller the budget, and others wait behind it, a few."""
    gate = threading.Event()
    explain = stand.world.active.explain

    def slow(*args: Any) -> Any:
        gate.wait(5.0)
        return explain(*args)

    stand.world.active = replace(stand.world.active, explain=slow)
    asked = Asked(0, Query(USER, np.array([1], np.uint64), 0, RequestContext()), 0)
    waiting = [asyncio.create_task(stand.explaining.explain(asked, 5.0)) for _ in range(MAX_WAITING - 1)]
    try:
        with pytest.raises(DeadlineTooShort, match="not explained within 20 ms"):
            await stand.explaining.explain(asked, 0.02)
        with pytest.raises(Overloaded):
            await stand.explaining.explain(asked, 5.0)
    finally:
        gate.set()
        await asyncio.gather(*waiting)
    stand.busy = True
    with pytest.raises(Overloaded):
        await stand.explaining.explain(asked, 5.0)


def test_a_short_budget_takes_fewer_permutations(bundle: Bundle) -> None:
    """At least one pair, whose sums are exact; sixteen where there is time."""
    explain = BundleExplainer(bundle)
    features = np.ones((20, len(bundle.manifest.feature_names)), np.float32)
    assert "16 pairs" in explain(features, None, {}, 60.0, False)[1].method
    scores, found = explain(features, None, {}, 0.0, True)
    assert "1 pairs" in found.method
    np.testing.assert_allclose(1 / (1 + np.exp(-found.raw)), scores, atol=1e-6)


@pytest.fixture
async def stub(stand: Stand, kit: Kit, serving: Any) -> AsyncIterator[Any]:
    servicer = RankingServicer(
        {"tiny": stand.world.ranker()},
        ceiling_s=0.3,
        metrics=Metrics(kit.registry),
        explaining={"tiny": stand.explaining},
    )
    async with serving(servicer) as opened:
        yield ranking_pb2_grpc.RankingServiceStub(opened)


async def test_the_message_has_all_that_the_contract_promises(stub: Any) -> None:
    """Features by what they move; what `top` leaves out in one number; absent values and ages absent."""
    request = pb.ExplainRequest(usecase="tiny", user_id=USER, item_ids=[8, 3])
    whole = await stub.Explain(request, timeout=2.0)
    request.top = 1
    top = await stub.Explain(request, timeout=2.0)

    assert [3, 8] == [item.item_id for item in whole.items]
    item = whole.items[1]
    assert item.raw == pytest.approx(whole.base + sum(each.contribution for each in item.features))
    assert ["i_rated_all", "u_rated_all"] == [each.name for each in item.features[:2]]
    by_name = {each.name: each for each in item.features}
    assert (8.0, 1_000 * SECOND_US) == (by_name["i_rated_all"].value, by_name["i_rated_all"].age_us)
    [only] = top.items[1].features
    assert only.contribution + top.items[1].rest == pytest.approx(item.raw - whole.base)
    assert ("d" * 64, 3, 2) == (whole.model_digest, whole.model_version, whole.row.interactions_offset)


async def test_errors_have_their_status(stub: Any) -> None:
    """A forgotten answer is NOT_FOUND; a use case of others is the caller's mistake."""
    for request, code in (
        (pb.ExplainRequest(usecase="tiny", request_id=9), grpc.StatusCode.NOT_FOUND),
        (pb.ExplainRequest(usecase="other", request_id=9), grpc.StatusCode.INVALID_ARGUMENT),
        (pb.ExplainRequest(usecase="tiny", request_id=9, user_id=1), grpc.StatusCode.INVALID_ARGUMENT),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await stub.Explain(request, timeout=2.0)
        assert code == raised.value.code()
