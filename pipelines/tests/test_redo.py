"""The audit finds every kind of difference between a record and what its inputs give, and says what it cannot tell."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundle import Bundle
from definitions.impressions import packed
from definitions.layout import layout_of
from definitions.rerank import Reranker
from definitions.rules import Rules
from definitions.usecase import UseCase
from millrace.events.v1 import events_pb2 as pb
from pipelines.errors import BadInputError
from pipelines.explain.logged import explain_decision
from pipelines.redo import publish, run
from pipelines.redo.logged import named
from stores.offline import Lake
from stores.offline.rows import impressions_table

RULES = Rules.parse(
    '{"rerank": [{"max_share": {"by": "genre", "share": 0.5}}], "diversity": {"lambda": 0.7, "by": "genre"},'
    ' "exploration": {"epsilon": 0.5, "slots": [2, 4], "among": 5}}'
)
BEGIN_US = 1_700_000_000_000_000
N, SHOWN = 30, 6

Plant = Callable[[pb.Impression], None]


class World:
    """A gateway's log in miniature: thirty candidates a request, six of them shown."""

    def __init__(self, films: UseCase, make_bundle: Callable[..., Bundle], tmp_path: Path) -> None:
        self.films, self.layout = films, layout_of(films)
        self.bundles, self.lake = tmp_path / "bundles", Lake(tmp_path / "lake", "films")
        weights = dict.fromkeys(self.layout.feature_names, 0.3)
        self.models = {version: make_bundle(self.layout, weights, version) for version in (1, 2)}
        self.logged: list[pb.Impression] = []

    def answer(self, request_id: int, *, version: int = 1, rung: Any = pb.RUNG_MODEL, **set_: Any) -> pb.Impression:
        """What a gateway would log, with some fields set otherwise."""
        rng = np.random.default_rng(request_id)
        ids = rng.choice(np.arange(1, 1000, dtype=np.uint64), N, replace=False)
        features = rng.normal(size=(N, len(self.layout.feature_names))).astype(np.float32)
        codes = rng.integers(0, 5, (N, self.layout.item.code_width)).astype(np.uint32)
        scores = features[:, 0].copy()
        if rung in (pb.RUNG_MODEL, pb.RUNG_LOCAL_MODEL):
            scores = self.models[version].model().score(features)
        unknown = np.arange(N) % 3 == 0 if rung == pb.RUNG_POPULAR else None
        reranker = Reranker.of(RULES, self.layout.item)
        read = codes[:, reranker.columns]
        explore = rung != pb.RUNG_POPULAR
        made = reranker.order(ids, scores, SHOWN, request_id=request_id, codes=read, last=unknown, explore=explore)
        order = made.order
        user, item = len(self.layout.user_int_names), len(self.layout.item_int_names)
        message = pb.Impression(
            request_id=request_id, user_id=3, time_us=BEGIN_US + request_id, usecase="films",
            item_ids=ids[order].tolist(), scores=scores[order].tolist(), propensities=made.propensities.tolist(),
            positions=[place + 1 if place < SHOWN else 0 for place in range(N)], reasons=["popular"] * N,
            features=features[order].tobytes(), int_features=np.zeros(user + N * item, "<i8").tobytes(),
            layout_hash=self.layout.layout_hash, model_name="films", model_version=version, rung=rung,
            model_digest=self.models[version].digest, rules=RULES.to_json(), rule_codes=read[order].tobytes(),
            unknown=None if unknown is None else unknown[order].tolist(), candidates=N,
        )  # fmt: skip
        for name, value in set_.items():
            message.ClearField(name)  # type: ignore[arg-type]
            setattr(message, name, value)
        self.logged.append(message)
        return message

    def redo(self, *request_ids: int, last: int = 100) -> dict[str, Any]:
        """After archiving what was logged."""
        places = [(offset, BEGIN_US + offset) for offset in range(len(self.logged))]
        table = impressions_table("log", 0, places, list(map(packed, self.logged)))
        self.lake.append("impressions", table, app_id="log/films.impressions-0", version=len(self.logged))
        return run(self.films, self.lake, self.bundles, request_ids=request_ids, last=0 if request_ids else last)


@pytest.fixture
def world(films: UseCase, make_bundle: Callable[..., Bundle], tmp_path: Path) -> World:
    return World(films, make_bundle, tmp_path)


def test_every_decision_is_the_same_to_the_bit(world: World, tmp_path: Path) -> None:
    """Two models, diversity, a share, drawn places; a rung without a model has its order made again."""
    for request in range(1, 41):
        rung = {9: pb.RUNG_LOCAL_MODEL, 10: pb.RUNG_POPULAR}.get(request, pb.RUNG_MODEL)
        world.answer(request, version=1 + request % 2, rung=rung)
    assert any(0 < p < 1 for message in world.logged for p in message.propensities)  # something was drawn
    found = world.redo()

    assert (40, 40, 0, 0, True) == tuple(
        found[key] for key in ("decisions", "equal", "mismatched", "unredone", "passed")
    )
    assert (39 * N, 39, 40, 0.0) == tuple(
        found[key] for key in ("scores_compared", "scores_equal", "orders_equal", "worst")
    )
    assert {"MODEL": 38, "LOCAL_MODEL": 1, "POPULAR": 1} == found["rungs"]
    path = publish(found, tmp_path / "reports")
    gauges = (path.parent / "metrics" / "redo-films.prom").read_text()
    assert 'redo_decisions{usecase="films"} 40' in gauges


def score(message: pb.Impression) -> None:
    message.scores[N - 1] = np.nextafter(np.float32(message.scores[N - 1]), np.float32(2)).item()


def feature(message: pb.Impression) -> None:
    message.features = message.features[:4] + b"\x00\x00\x80\x3f" + message.features[8:]


def swap(message: pb.Impression) -> None:
    items, scores, codes = list(message.item_ids), list(message.scores), np.frombuffer(message.rule_codes, "<u4")
    rows = np.frombuffer(message.features, "<f4").reshape(N, -1).copy()
    order = [1, 0, *range(2, N)]
    message.item_ids[:], message.scores[:] = [items[i] for i in order], [scores[i] for i in order]
    message.features, message.rule_codes = rows[order].tobytes(), codes.reshape(N, -1)[order].tobytes()


def propensity(message: pb.Impression) -> None:
    message.propensities[1] = 0.5 * message.propensities[1]


def rules(message: pb.Impression) -> None:
    message.rules = RULES.model_copy(update={"diversity": None, "rerank": ()}).to_json()
    message.rule_codes = b""


def other_draws(message: pb.Impression) -> None:
    message.request_id += 1000  # other draws, same everything


@pytest.mark.parametrize(
    ("plant", "said"),
    [
        (score, r"1 of 30 scores: item \d+ has"),
        (feature, "scores: item"),
        (swap, "order: place 1 has item"),
        (propensity, "propensity: place 2 has"),
        (rules, "order: place"),
        (other_draws, "order: place|propensity: place"),
    ],
)
def test_a_tampered_record_is_found(plant: Plant, said: str, world: World) -> None:
    """One bit of a score, a feature, two places, a propensity, the rules, the draws' key: one record of five, named."""
    for request in range(1, 6):
        world.answer(request)
    plant(world.logged[2])
    found = world.redo()

    assert (5, 4, 1, False) == tuple(found[key] for key in ("decisions", "equal", "mismatched", "passed"))
    [example] = found["examples"]
    assert world.logged[2].request_id == example["request_id"]
    assert any(re.search(said, each) for each in example["differs"])


def test_what_cannot_be_made_again_is_said_and_never_counts_as_equal(world: World) -> None:
    """A bundle that is gone, only the list logged, a record from before rules were, a list drafted by two rankings."""
    world.answer(1, model_digest="f" * 64)
    world.answer(2, candidates=N + 5)
    world.answer(3, rules="", model_digest="", rule_codes=b"", candidates=0)
    world.answer(4)
    drafted = world.answer(5, arm="mix=interleaved")
    drafted.reasons[:] = ["popular@new"] * N
    found = world.redo()

    assert (5, 1, 0, 4, False) == tuple(
        found[key] for key in ("decisions", "equal", "mismatched", "unredone", "passed")
    )
    said = " ".join(found["untold"])
    for part in (
        "no bundle with digest ffffffffffff is in",
        "only the shown items were logged",
        "two rankings",
        "older than that",
    ):
        assert part in said
    assert found["scores_equal"] == 4  # of the oldest too: its bundle is known by name and version


def test_a_changed_bundle_is_refused(world: World) -> None:
    """Every file's hash is checked before it scores."""
    world.answer(1)
    graph = world.bundles / "films" / "1" / "model.onnx"
    graph.write_bytes(graph.read_bytes() + b"\x00")
    found = world.redo()

    assert (0, 1) == (found["equal"], found["unredone"])
    assert "changed since it was written" in next(iter(found["untold"]))


def test_one_request_is_told_in_full_and_an_unknown_one_refused(world: World) -> None:
    """With what was compared; the newest of `last` come first, a record that came twice once, shadows never."""
    for request in (1, 2, 3, 3):
        world.answer(request)
    world.answer(4, arm="shadow:2")
    found = world.redo(2)

    [told] = found["requests"]
    assert (2, True, True, N, SHOWN) == tuple(
        told[key] for key in ("request_id", "scores_equal", "order_equal", "scores_compared", "shown")
    )
    assert 3 == run(world.films, world.lake, world.bundles, last=10)["decisions"]
    with pytest.raises(BadInputError, match="no impression of request 4"):
        run(world.films, world.lake, world.bundles, request_ids=[4])


def test_a_bundle_is_found_by_its_digest_wherever_it_lies(world: World) -> None:
    """Copied back under another name, as an archive of bundles may."""
    world.answer(1)
    (world.bundles / "films" / "1").rename(world.bundles / "films" / "77")
    assert world.redo()["passed"]


def test_a_decision_is_explained_by_its_own_bundle_and_its_rules(world: World) -> None:
    """Contributions add up to the logged score's logit; who stands above another by a rule is told which."""
    world.answer(1)
    world.redo()
    decision = named(world.lake, [1])[1]
    told = explain_decision(decision, world.bundles, world.films, top=100)

    assert decision.item_ids[:SHOWN].tolist() == [item["item_id"] for item in told["items"]]
    for place, item in enumerate(told["items"]):
        raw = told["base"] + sum(feature["contribution"] for feature in item["features"])
        assert raw == pytest.approx(item["raw"], abs=1e-4)
        assert 1 / (1 + np.exp(-item["raw"])) == pytest.approx(decision.scores[place], abs=1e-5)
        assert place + 1 == item["position"]
    best = int(decision.item_ids[np.argmax(decision.scores)])
    assert [1] == [item["place_by_score"] for item in told["items"] if item["item_id"] == best]
    lifted = next(place for place in range(1, SHOWN) if decision.scores[place] < decision.scores[place + 1 :].max())
    above = int(decision.item_ids[lifted])
    passed = int(decision.item_ids[lifted + 1 + int(np.argmax(decision.scores[lifted + 1 :]))])
    pair = explain_decision(decision, world.bundles, world.films, [above, passed], top=3)["above"]
    assert pair["because"] in {"exploration", "diversity", "pins and shares", "rules"}
    assert pair["gap"] < 0  # by score alone it would lie below
    with pytest.raises(BadInputError, match="was no candidate"):
        explain_decision(decision, world.bundles, world.films, [5000], top=3)
    world.answer(2, rung=pb.RUNG_POPULAR)
    world.redo()
    with pytest.raises(BadInputError, match="rung POPULAR: no model scored it"):
        explain_decision(named(world.lake, [2])[2], world.bundles, world.films, top=3)
