"""Lists that two rankings drafted: both are asked, whose each item is is told, and a failure costs nothing."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from definitions.assignment import INTERLEAVED
from definitions.rules import Rules
from definitions.serving_rules import ServingRules
from gateway.arms import Arms
from gateway.errors import BundleRefused, Unavailable
from gateway.in_force import InForce, Treatment
from gateway.model import Partner
from gateway.query import Query, Rung
from gateway.switch import _drafting
from millrace.decisions.v1 import decisions_pb2 as pb

EXPERIMENT = pb.Experiment(
    name="duel",
    layer="model",
    arms=[pb.Arm(name="new", share=0.5), pb.Arm(name="control", share=0.5)],
    control="control",
    interleaved=True,
)


def duel(world: Any, scorer: Any) -> None:
    """The world's model against one that `scorer` is."""
    world.partner = Partner(("control", "new"), replace(world.active, model=scorer, version=4), world.rules_of())


def test_a_list_is_drafted_by_both_models_and_says_whose_each_item_is(world: Any) -> None:
    """The own model prefers high ids, the other one low ones; what is not shown keeps the own order."""
    other = type(world.model)(world.clock)
    other.scores = lambda features: -np.arange(len(features), dtype=np.float32)
    duel(world, other)

    answer = world.rank(*range(1, 9), limit=4)

    assert {1, 2, 7, 8} == set(answer.item_ids.tolist())
    assert {"requested@control": {7, 8}, "requested@new": {1, 2}} == {
        reason: {int(item) for item, its in zip(answer.item_ids, answer.reasons, strict=True) if its == reason}
        for reason in set(answer.reasons)
    }
    shown = world.sink.shown[-1]
    assert [6, 5, 4, 3] == shown.item_ids[4:].tolist()
    assert [0.5, 1.0, 0.5, 1.0] == shown.propensities[:4].tolist()
    assert answer.model_version == 3


@pytest.mark.parametrize("fails", ["raises", "late"])
def test_where_the_other_model_does_not_answer_the_list_is_the_own_and_nobodys(world: Any, fails: str) -> None:
    """It counts for neither side; the answer is as good as without the experiment."""
    other = type(world.model)(world.clock)
    other.raises = Unavailable("transport") if fails == "raises" else None
    other.takes_s = 9.0 if fails == "late" else 0.0
    duel(world, other)

    answer = world.rank(*range(1, 9), limit=3)

    assert ([8, 7, 6], ("requested",) * 3, Rung.MODEL) == (answer.item_ids.tolist(), answer.reasons, answer.rung)


def test_rules_alone_need_no_second_scoring(world: Any) -> None:
    """One model, two sets of rules: the model is asked once."""
    rules = ServingRules(Rules.model_validate({"rerank": [{"max_share": {"by": "genre", "share": 0.5}}]}), world.layout)
    world.partner = Partner(("control", "new"), world.active, rules)

    answer = world.rank(*range(1, 9), limit=4)

    assert 1 == len(world.model.budgets)
    assert {"requested@control", "requested@new"} == set(answer.reasons)


def test_everybody_in_the_experiment_is_in_its_one_arm(world: Any) -> None:
    """The control ranks, the other arm is the partner; a third arm is refused."""
    better, rules = replace(world.active, version=4), world.rules_of()
    found = _drafting(EXPERIMENT, {("duel", "new"): Treatment(better), ("duel", "control"): Treatment()})
    state = InForce(world.active, rules, arms=Arms.of(pb.ServingState(experiments=[EXPERIMENT])), treatments=found)

    choice = state.choose(Query(7, np.array([1], np.uint64), 0, None))  # type: ignore[arg-type]

    assert f"duel={INTERLEAVED}" == choice.arm
    assert (world.active, Partner(("control", "new"), better, rules)) == (choice.model, choice.partner)
    third = pb.Experiment()
    third.CopyFrom(EXPERIMENT)
    third.arms.add(name="third", share=0.1)
    with pytest.raises(BundleRefused, match="two arms, not 3"):
        _drafting(third, {})
