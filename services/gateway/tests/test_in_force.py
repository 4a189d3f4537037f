"""Who is answered by what: sticky, in the shares that were decided."""

from typing import Any

import numpy as np
import pytest
from definitions.assembly import RequestContext
from gateway.arms import Arms
from gateway.in_force import CanaryInForce, InForce, ShadowInForce, Treatment
from gateway.model import ActiveModel
from gateway.query import Query
from millrace.decisions.v1 import decisions_pb2 as pb

USERS = range(1, 20_001)
RULES: Any = object()


def model(version: int) -> ActiveModel:
    nothing: Any = None
    return ActiveModel("trees", version, "d", nothing, nothing, nothing, nothing)


def query(user_id: int = 0, session_id: int = 0) -> Query:
    return Query(user_id, np.array([1], np.uint64), 0, RequestContext(), session_id=session_id)


def canary_users(share: float, version: int = 2) -> set[int]:
    in_force = InForce(model(1), RULES, CanaryInForce(model(version), share))
    return {user for user in USERS if in_force.choose(query(user)).arm == "canary"}


def test_a_canary_has_its_share_of_users_and_keeps_them() -> None:
    """1, 5, 25 %: who is in stays in; at 100 % everybody is."""
    one, five, quarter = (canary_users(share) for share in (0.01, 0.05, 0.25))
    assert one < five < quarter
    for users, share in ((one, 0.01), (five, 0.05), (quarter, 0.25)):
        assert share == pytest.approx(len(users) / len(USERS), rel=0.15)
    assert set(USERS) == canary_users(1.0)


def test_the_next_canary_has_other_first_users() -> None:
    """The same few would else try every new version."""
    one, other = canary_users(0.05, version=2), canary_users(0.05, version=3)
    assert 0.0 < len(one & other) / len(one) < 0.15


def test_who_is_in_is_answered_by_the_canary_and_named() -> None:
    """And nobody else; a session stands in for an absent user, and nothing for an absent both."""
    in_force = InForce(model(1), RULES, CanaryInForce(model(2), 0.25))
    for user in range(1, 200):
        for asked in (query(user), query(session_id=user)):
            choice = in_force.choose(asked)
            assert choice.model is not None
            assert (2, "canary") == (choice.model.version, choice.arm) or (1, "") == (choice.model.version, choice.arm)
        assert in_force.choose(query(user)).arm == in_force.choose(query(session_id=user)).arm
    assert "" == InForce(model(1), RULES, CanaryInForce(model(2), 1.0)).choose(query()).arm


def test_an_arm_changes_what_it_says_and_nothing_else() -> None:
    """A model, or rules, or only a name; the arm's own model stands above the canary."""
    state = pb.ServingState()
    for name, layer in (("ranker", "model"), ("caps", "rules"), ("aa", "none")):
        state.experiments.add(name=name, layer=layer).arms.add(name="b", share=1.0)
    wide: Any = object()
    treatments = {("ranker", "b"): Treatment(model=model(3)), ("caps", "b"): Treatment(rules=wide)}
    in_force = InForce(model(1), RULES, CanaryInForce(model(2), 1.0), arms=Arms.of(state), treatments=treatments)
    choice = in_force.choose(query(5))
    assert choice.model is not None
    assert (3, wide, "ranker=b,caps=b,aa=b") == (choice.model.version, choice.rules, choice.arm)

    del state.experiments[0]
    choice = InForce(model(1), RULES, CanaryInForce(model(2), 1.0), arms=Arms.of(state), treatments=treatments).choose(
        query(5)
    )
    assert choice.model is not None
    assert (2, "canary,caps=b,aa=b") == (choice.model.version, choice.arm)


def test_all_versions_that_score_are_known() -> None:
    """Each once: guardrails look at them, and they are kept loaded."""
    one, two, three = (model(version) for version in (1, 2, 3))
    treatments = {("a", "x"): Treatment(one), ("a", "y"): Treatment(None)}
    in_force = InForce(one, RULES, CanaryInForce(two, 0.1), ShadowInForce(three, 1.0), treatments=treatments)
    assert [one, two, three] == in_force.models()
    assert [] == InForce(None, RULES).models()
