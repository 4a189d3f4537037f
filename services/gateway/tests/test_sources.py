"""Recommend: several sources merged by quota, what is never shown, pins, diversity and exploration on each rung."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from definitions.candidates import BundleSources
from definitions.records import LogRecord
from gateway.errors import Unavailable
from gateway.ladder import StoredList
from gateway.query import Rung
from millrace.events.v1 import events_pb2 as pb

USER = 7


def ids(*values: int) -> np.ndarray:
    return np.array(values, np.uint64)


class FakeSource:
    """Towers or neighbours: what it finds, in order; `asked` keeps the histories."""

    def __init__(self, *found: int) -> None:
        self.found = ids(*found)
        self.asked: list[list[int]] = []
        self.raises: Unavailable | None = None

    def retrieve(self, history: np.ndarray, limit: int, eligible: Any) -> Any:
        self.asked.append(history.tolist())
        if self.raises is not None:
            raise self.raises
        return SimpleNamespace(item_ids=self.found[eligible(self.found)][:limit])

    def directions(self, item_ids: np.ndarray) -> np.ndarray:
        """Even and odd items point two ways."""
        vectors = np.zeros((len(item_ids), 2), np.float32)
        vectors[np.arange(len(item_ids)), (item_ids % 2).astype(int)] = 1
        return vectors


def reasons(ranking: Any) -> dict[int, str]:
    return dict(zip(ranking.item_ids.tolist(), ranking.reasons, strict=True))


def test_candidates_come_from_each_source_by_its_quota(world: Any) -> None:
    """Each item once, with the source that brought it first, in the answer, the impression and the metrics."""
    world.rows.rows[USER] = world.row_of(USER, rated=[1, 2, 3])
    towers, neighbours = FakeSource(4, 1, 5, 6), FakeSource(5, 4, 7, 6)
    world.deploy(sources=BundleSources(towers, neighbours))
    candidates = {"sources": [{"two_tower": 0.4}, {"neighbours": 0.4}, {"fresh": {"by": "year", "quota": 0.2}}]}
    world.items.largest("year")
    world.items.refresh()

    ranking = world.recommend(limit=5, candidates=candidates | {"limit": 5})

    assert {4: "two_tower", 5: "two_tower", 7: "neighbours", 6: "neighbours", 8: "fresh"} == reasons(ranking)
    assert {"two_tower": 2, "neighbours": 2, "fresh": 1} == world.meter.found
    assert [[3, 2]] == towers.asked == neighbours.asked  # newest first, as many as the layout keeps
    [shown] = world.sink.shown
    assert reasons(ranking) == dict(zip(shown.item_ids.tolist(), shown.reasons, strict=True))


def test_what_sources_cannot_bring_is_filled_with_popular_items(world: Any) -> None:
    """No bundle files, no history, a failing tower, an order by year that is not there yet: never an empty list."""
    towers = FakeSource(1)
    towers.raises = Unavailable("error")
    candidates = {"sources": ["two_tower", "neighbours", {"fresh": {"by": "year"}}], "limit": 6}
    without = world.recommend(limit=3, candidates=candidates)
    world.deploy(sources=BundleSources(towers, FakeSource()))
    failing = world.recommend(limit=3, candidates=candidates)

    assert {"popular"} == set(without.reasons)
    assert without.item_ids.tolist() == failing.item_ids.tolist()
    assert ["two_tower"] == world.meter.failed


def test_popular_by_place_is_the_bundles_and_else_the_live_order(world: Any) -> None:
    """The list of the request's surface and country; somewhere else that of everybody."""

    class Places:
        def retrieve(self, surface: int, country: int, limit: int, eligible: Any) -> np.ndarray:
            return ids(2, 1)[:limit] if (surface, country) == (0, 49) else ids()

    world.deploy(sources=BundleSources(popular=Places()))
    world.context = {"surface": 3, "country": 49}
    candidates = {"sources": [{"popular": {"by": ["country"]}}], "limit": 2}
    assert {1, 2} == set(reasons(world.recommend(limit=2, candidates=candidates)))
    world.context = {"country": 33}
    assert {9, 10} == set(reasons(world.recommend(limit=2, candidates=candidates)))


def test_no_source_brings_what_may_not_be_shown(world: Any) -> None:
    """Seen, excluded, filtered, deleted: whichever source finds it."""
    world.rows.rows[USER] = world.row_of(USER, rated=[1, 2])
    every = FakeSource(*range(1, 11))
    world.deploy(sources=BundleSources(every, every))
    gone = pb.Item(id=9, deleted=True)
    world.items.take_items(0, [LogRecord(9, 1, (9).to_bytes(8, "big"), gone.SerializeToString())])

    ranking = world.recommend(
        limit=10,
        exclude=[4],
        candidates={"sources": ["two_tower", "neighbours"]},
        filters=[{"by": "year", "at_most": 1995}, {"by": "genre", "none_of": [1]}],
    )

    assert {5} == set(reasons(ranking))


def test_filters_read_the_requests_time_and_place(world: Any) -> None:
    """`now` in days since the epoch, and the request's own code; an item that lacks the attribute passes."""
    unsaid = pb.Item(id=11)
    world.items.take_items(0, [LogRecord(11, 1, (11).to_bytes(8, "big"), unsaid.SerializeToString())])
    world.items.refresh()
    world.context = {"country": 2}
    past = {"filters": [{"by": "year", "at_least": "now", "unit": "days"}]}  # years are long-past days
    assert {11} == set(reasons(world.recommend(limit=20, **past)))
    here = {"filters": [{"by": "genre", "same_as": "country"}]}
    assert {1, 2, 3, 4, 5, 11} == set(reasons(world.recommend(limit=20, **here)))


def test_a_pin_stands_on_every_rung(world: Any) -> None:
    """Also where the rung brings a list of its own; not for whom it may not be shown to."""
    pin = {"rerank": [{"pin": {"item_id": 1, "position": 2}}], "candidates": {"limit": 3}}
    assert 1 == world.recommend(limit=3, **pin).item_ids[1]
    world.model.raises = world.local.raises = Unavailable("error")
    popular = world.recommend(limit=3, **pin)
    assert (Rung.POPULAR, 1, "pinned") == (popular.rung, popular.item_ids[1], popular.reasons[1])
    world.lists.lists[USER] = StoredList(ids(5, 6, 7), np.array([0.9, 0.8, 0.7], np.float32), "trees", 2)
    nightly = world.recommend(limit=3, **pin)
    assert (Rung.PRECOMPUTED, [5, 1, 6]) == (nightly.rung, nightly.item_ids.tolist())
    assert 1 not in world.recommend(limit=3, exclude=[1], **pin).item_ids


def test_diversity_by_the_bundles_vectors(world: Any) -> None:
    """The best two of a kind do not stand together; without vectors the order is by score."""
    world.model.scores = lambda features: np.linspace(1, 0.5, len(features)).astype(np.float32)
    diverse = {"diversity": {"lambda": 0.5}}
    asked = [10, 8, 6, 3]
    assert [3, 6, 8, 10] == world.rank(*asked, rules=diverse).item_ids.tolist()
    world.deploy(sources=BundleSources(FakeSource()))
    assert [3, 6, 8, 10] == world.rank(*asked).item_ids.tolist()
    assert [4, 7, 6] == world.rank(4, 6, 7, limit=3, rules=diverse).item_ids.tolist()


@pytest.mark.parametrize("model", [True, False])
def test_explored_places_log_their_propensity_on_the_first_two_rungs(world: Any, *, model: bool) -> None:
    """Epsilon over the pool, and 1 - epsilon more for the greedy choice; lower rungs draw nothing."""
    if not model:
        world.model.raises = world.local.raises = Unavailable("error")
    explore = {"exploration": {"epsilon": 0.5, "slots": [2], "among": 4}}
    seen = set()
    for _ in range(40):
        ranking = world.recommend(limit=3, first_id=len(world.sink.shown) * 2**40 + 1, **explore)
        shown = world.sink.shown[-1]
        greedy = ranking.item_ids[1] == 9 if not model else None
        seen.add(int(ranking.item_ids[1]))
        expected = {0.125, 0.625} if model else {1.0}
        assert float(shown.propensities[1]) in expected
        assert [1, 1] == shown.propensities[[0, 2]].tolist()
        assert not shown.propensities[3:].any()
        assert greedy in (None, True)
    assert (len(seen) > 1) is model


class TwoHeads:
    """A graph of two heads: `like` rises with the item's rating count, `hide` too, four times as fast."""

    async def score(self, features: np.ndarray, ints: np.ndarray | None, budget_s: float) -> np.ndarray:
        like = features[:, -1] / 100
        return np.stack([like, 4 * like], axis=1).astype(np.float32)


def test_weights_of_heads_are_data_that_turn_the_list_around(world: Any) -> None:
    """The trained weights put the most rated first; rules that mind `hide` put it last; the scores are the sums."""
    model = replace(world.active, model=TwoHeads(), heads={"like": 5.0, "hide": -1.0})
    world.active = model
    rated = world.layout.feature_names.index("i_rated_all")
    assert rated == len(world.layout.feature_names) - 1
    trained = world.rank(2, 4, 6)
    minded = world.rank(2, 4, 6, rules={"heads": {"hide": -3}})
    assert ([6, 4, 2], [2, 4, 6]) == (trained.item_ids.tolist(), minded.item_ids.tolist())
    assert pytest.approx([0.06, 0.04, 0.02]) == trained.scores.tolist()
    assert pytest.approx([-0.14, -0.28, -0.42]) == minded.scores.tolist()
    assert Rung.MODEL == minded.rung


def test_as_many_predictions_as_heads_or_the_rung_is_left(world: Any) -> None:
    """A graph that gives two columns where the manifest names three is not weighed by guesswork."""
    world.active = replace(world.active, model=TwoHeads(), heads={"like": 1.0, "share": 1.0, "hide": 1.0})
    assert Rung.LOCAL_MODEL == world.rank(2, 4).rung
    assert [("MODEL", "bad_scores")] == world.meter.left
