"""A shadow scores copies after the answer: logged, never shown, and the first thing to be shed."""

import asyncio
from typing import Any

import numpy as np
import pytest
from bundle import IntInputs
from gateway.errors import Unavailable
from gateway.impressions import encode
from gateway.in_force import InForce, ShadowInForce
from gateway.model import ActiveModel
from gateway.query import Rung, Shown
from gateway.shadow import MAX_IN_FLIGHT, TRIALS, Shadowing, tried_out
from millrace.events.v1 import events_pb2 as pb


class Scorer:
    """Waits until it is let go, then scores the rows 0, 10, 20 ... or raises."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.calls = 0
        self.raises: Unavailable | None = None
        self.nan_from: int | None = None

    async def score(self, features: np.ndarray, ints: np.ndarray | None, budget_s: float) -> np.ndarray:
        self.calls += 1
        await self.go.wait()
        if self.raises is not None:
            raise self.raises
        scores = np.arange(len(features), dtype=np.float32) * 10
        if self.nan_from is not None and self.calls >= self.nan_from:
            scores[-1] = np.nan
        return scores


class Rig:
    """A shadow of version 9 in front of the world's sink."""

    def __init__(self, world: Any, share: float = 1.0) -> None:
        self.world, self.scorer, self.local = world, Scorer(), Scorer()
        ints = IntInputs((), world.layout.user_int_names, world.layout.item_int_names, {})
        self.model = ActiveModel("trees", 9, "e" * 64, self.scorer, self.local, ints, world.layout)
        self.counted: list[str] = []
        self.busy = False
        in_force = InForce(world.active, world.rules_of(), shadow=ShadowInForce(self.model, share))
        self.shadowing = Shadowing(world.sink, lambda: in_force, busy=lambda: self.busy, count=self.counted.append)

    async def settle(self) -> None:
        for _ in range(200):
            if not self.shadowing._in_flight:
                return
            await asyncio.sleep(0.001)


@pytest.fixture
def shown(world: Any) -> Shown:
    """One answered request of items 1 to 4, best first."""
    world.rank(1, 2, 3, 4, limit=2)
    return world.sink.shown.pop()


async def test_what_was_answered_is_scored_again_and_logged_apart(make_world: Any, shown: Shown) -> None:
    """By the same inputs; all candidates with all scores, none of them shown."""
    rig = Rig(make_world())
    rig.shadowing.offer(shown)
    assert [shown] == rig.world.sink.shown  # the answer's own impression does not wait
    rig.scorer.go.set()
    await rig.settle()

    _, copy = rig.world.sink.shown
    assert (["scored"], "shadow:9", 9, rig.model) == (
        rig.counted, copy.ranking.arm, copy.ranking.model_version, copy.model,
    )  # fmt: skip
    message = pb.Impression.FromString(b"".join(encode(copy, "tiny", full=True)))
    assert message.request_id == shown.ranking.request_id
    assert [0] * 4 == list(message.positions)
    assert [0.0] * 4 == list(message.propensities)
    assert {1: 0.0, 2: 10.0, 3: 20.0, 4: 30.0} == dict(zip(message.item_ids, message.scores, strict=True))
    assert 1 == rig.model.health.calls(60)[0]


async def test_at_most_four_are_under_way_and_none_while_busy(make_world: Any, shown: Shown) -> None:
    """The rest is shed, and the impressions of the answers go on."""
    rig = Rig(make_world())
    for _ in range(MAX_IN_FLIGHT + 3):
        rig.shadowing.offer(shown)
    assert ["shed"] * 3 == rig.counted
    rig.scorer.go.set()
    await rig.settle()
    assert MAX_IN_FLIGHT == rig.scorer.calls
    rig.busy = True
    rig.shadowing.offer(shown)
    assert "shed" == rig.counted[-1]
    assert MAX_IN_FLIGHT + 4 == sum(each is shown for each in rig.world.sink.shown)


async def test_a_share_of_zero_a_lower_rung_and_no_shadow_score_nothing(make_world: Any, shown: Shown) -> None:
    """What a fallback answered says nothing about the model."""

    rig = Rig(make_world(), share=0.0)
    rig.shadowing.offer(shown)
    low = shown._replace(ranking=shown.ranking._replace(rung=Rung.POPULAR))
    Rig(make_world()).shadowing.offer(low)
    none = InForce(None, rig.world.rules_of())
    Shadowing(rig.world.sink, lambda: none, busy=lambda: False, count=rig.counted.append).offer(shown)
    assert ([], 0) == (rig.counted, rig.scorer.calls)


async def test_a_shadow_that_fails_is_counted_and_struck(make_world: Any, shown: Shown) -> None:
    """Three bad answers take it back as any version."""
    rig = Rig(make_world())
    rig.scorer.go.set()
    rig.scorer.nan_from = 1
    for _ in range(3):
        rig.shadowing.offer(shown)
        await rig.settle()
    assert (["failed"] * 3, True) == (rig.counted, rig.model.health.struck_out)


async def test_a_new_version_is_tried_by_the_last_requests(make_world: Any, shown: Shown) -> None:
    """Until it is warm; its fallback too."""
    rig = Rig(make_world())
    rig.scorer.go.set()
    rig.local.go.set()
    await tried_out(rig.model, [shown, shown])
    assert (TRIALS, 1) == (rig.scorer.calls, rig.local.calls)
    assert (0, 0) == rig.model.health.calls(60)


@pytest.mark.parametrize("which", ["scorer", "local"])
async def test_a_new_version_that_scores_badly_is_found(make_world: Any, shown: Shown, which: str) -> None:
    """Also if only now and then."""
    rig = Rig(make_world())
    rig.scorer.go.set()
    rig.local.go.set()
    getattr(rig, which).nan_from = 20 if which == "scorer" else 1
    with pytest.raises(Unavailable, match="bad_scores"):
        await tried_out(rig.model, [shown])


async def test_only_the_newest_requests_are_kept(make_world: Any, shown: Shown) -> None:
    """Memory is bounded."""
    rig = Rig(make_world(), share=0.0)
    for _ in range(100):
        rig.shadowing.offer(shown)
    assert 16 == len(rig.shadowing.recent)
