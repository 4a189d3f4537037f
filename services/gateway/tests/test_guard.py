"""A bad version is taken back by a decision, once, and never in a way that makes things worse."""

from typing import Any

import numpy as np
import pytest
from gateway.guard import AGAIN_S, BAD, COMPARE_EVERY, Guard
from gateway.in_force import CanaryInForce, InForce, ShadowInForce
from gateway.model import ActiveModel
from millrace.decisions.v1 import decisions_pb2 as pb
from servicekit.errors import LogUnavailable

RULES: Any = None


def pin(version: int) -> pb.ModelPin:
    return pb.ModelPin(name="trees", version=version, digest=f"{version}")


def model(version: int) -> ActiveModel:
    nothing: Any = None
    return ActiveModel("trees", version, f"{version}", nothing, nothing, nothing, nothing)


class Rig:
    """A guard over version 2, with 1 to return to, a canary 3 and a shadow 4."""

    def __init__(self) -> None:
        self.pin, self.canary, self.shadow = model(2), model(3), model(4)
        self.in_force = InForce(self.pin, RULES, CanaryInForce(self.canary, 0.25), ShadowInForce(self.shadow, 1.0))
        self.state = pb.ServingState(pin=pin(2), previous=pin(1), canary=pb.Canary(pin=pin(3), percent=25))
        self.state.shadow.pin.CopyFrom(pin(4))
        self.revision = 7
        self.published: list[pb.Decision] = []
        self.counted: list[str] = []
        self.log_is_there = True
        self.now = 100.0
        self.guard = Guard(
            "movies",
            in_force=lambda: self.in_force,
            newest=lambda: pb.Decision(state=self.state, revision=self.revision),
            announce=self._announce,
            count=self.counted.append,
            now=lambda: self.now,
        )

    async def _announce(self, decision: pb.Decision) -> None:
        if not self.log_is_there:
            raise LogUnavailable("no broker")
        self.published.append(decision)

    async def looks(self, times: int = COMPARE_EVERY) -> None:
        for _ in range(times):
            await self.guard.look()


@pytest.fixture
def rig() -> Rig:
    return Rig()


def strike(bad: ActiveModel, times: int = 3) -> None:
    for _ in range(times):
        bad.health.failed("bad_scores")


async def test_three_strikes_take_the_pin_back(rig: Rig) -> None:
    """At the next look, once however often it looks; no rollback returns to it, and the canary stays."""
    strike(rig.pin, 2)
    await rig.looks()
    assert [] == rig.published
    strike(rig.pin, 1)
    await rig.looks(1)
    await rig.looks()
    (decision,) = rig.published
    assert (pb.DECISION_KIND_ROLLBACK, "gateway", "movies") == (decision.kind, decision.actor, decision.usecase)
    assert f"version 2: {BAD}" in decision.reason
    state = decision.state
    assert (1, False, 3) == (state.pin.version, state.HasField("previous"), state.canary.pin.version)
    assert ["taken_back"] == rig.counted


@pytest.mark.parametrize(("which", "gone"), [("canary", "canary"), ("shadow", "shadow")])
async def test_three_strikes_end_a_canary_or_a_shadow(rig: Rig, which: str, gone: str) -> None:
    """And nothing else."""
    strike(getattr(rig, which))
    await rig.looks(1)
    state = rig.published[0].state
    assert (False, 2) == (state.HasField(gone), state.pin.version)


async def test_a_canary_that_does_worse_than_the_pin_is_taken_back(rig: Rig) -> None:
    """The guardrails themselves are tested apart."""
    for k in range(100):
        rig.pin.health.scored(rig.pin.health.now(), np.ones(1, np.float32))
        if k % 2:
            rig.canary.health.scored(rig.canary.health.now(), np.ones(1, np.float32))
        else:
            rig.canary.health.failed("error")
    await rig.looks(COMPARE_EVERY - 1)
    assert [] == rig.published
    await rig.looks(1)
    assert rig.published[0].reason.startswith("taken back by itself: version 3: errors: 50 of 100")
    assert pb.DECISION_KIND_CANARY == rig.published[0].kind


async def test_what_cannot_be_replaced_is_an_alarm_only(rig: Rig) -> None:
    """Answering by a bad version's fallback is better than by no model; said once every few seconds."""
    rig.state.ClearField("previous")
    strike(rig.pin)
    await rig.looks()
    assert (["nothing_to_return_to"], []) == (rig.counted, rig.published)


async def test_another_gateway_was_first(rig: Rig) -> None:
    """Its decision is the newest, and not yet in force here."""
    rig.state = pb.ServingState(pin=pin(1))
    strike(rig.pin)
    await rig.looks()
    assert ([], []) == (rig.counted, rig.published)


async def test_a_decision_that_another_overtook_is_made_again(rig: Rig) -> None:
    """At the next look, from what the other decided; each says which one it was made from."""
    strike(rig.pin)
    await rig.looks(1)
    rig.revision += 1
    rig.state.rules = "{}"
    await rig.looks()
    assert [(8, ""), (9, "{}")] == [(each.revision, each.state.rules) for each in rig.published]
    assert {1} == {each.state.pin.version for each in rig.published}


async def test_while_kafka_is_away_it_is_tried_again(rig: Rig) -> None:
    """The ladder answers meanwhile."""
    rig.log_is_there = False
    strike(rig.pin)
    await rig.looks()
    assert ["unpublished"] == rig.counted
    rig.log_is_there = True
    rig.now += AGAIN_S
    await rig.looks(1)
    assert ["unpublished", "taken_back"] == rig.counted


async def test_before_anything_answers_there_is_nothing_to_watch(rig: Rig) -> None:
    """At the start."""
    rig.in_force = None  # type: ignore[assignment]
    await rig.looks()
    assert [] == rig.published
