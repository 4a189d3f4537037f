"""What serves, and how that changes: nothing that a decision does not name is lost."""

import pytest
from definitions.serving_state import (
    Limits,
    StateError,
    deployed,
    loaded_pins,
    next_step,
    rolled_back,
    same,
    scoring_pins,
    with_canary,
    without,
)
from millrace.decisions.v1 import decisions_pb2 as pb


def pin(version: int) -> pb.ModelPin:
    return pb.ModelPin(name="trees", version=version, digest=f"{version:064x}")


def state(version: int, previous: int | None = None, champion: int | None = None) -> pb.ServingState:
    """With rules and an experiment, which no deploy may lose."""
    made = pb.ServingState(pin=pin(version), rules="{}", rules_version=4)
    made.experiments.add(name="layout", layer="page").arms.add(name="b", share=0.5)
    if previous is not None:
        made.previous.CopyFrom(pin(previous))
    if champion is not None:
        made.champion.CopyFrom(pin(champion))
    return made


def test_a_deploy_keeps_everything_else() -> None:
    """Rules and experiments are not the model's."""
    after = deployed(state(1), pin(2))
    assert (2, 1) == (after.pin.version, after.previous.version)
    assert ("{}", 4, ["layout"]) == (after.rules, after.rules_version, [each.name for each in after.experiments])


def test_the_same_version_again_keeps_what_a_rollback_returns_to() -> None:
    """A deploy may be repeated."""
    assert 1 == deployed(state(2, previous=1), pin(2)).previous.version


def test_a_canary_grows_and_becomes_the_pin() -> None:
    """And is no canary any more; the former pin is what a rollback returns to."""
    begun = with_canary(state(1), pin(2), 1, 5)
    grown = with_canary(begun, pin(2), 25, 9)
    assert (2, 25.0, 9) == (grown.canary.pin.version, grown.canary.percent, grown.canary.since_us)
    assert {1, 2} == {each.version for each in scoring_pins(grown)}
    after = deployed(grown, pin(2))
    assert (2, 1, False) == (after.pin.version, after.previous.version, after.HasField("canary"))


@pytest.mark.parametrize(
    ("before", "version", "percent", "says"),
    [
        (pb.ServingState(), 2, 5, "deploy this one to everybody"),
        (state(2), 2, 5, "everybody already"),
        (with_canary(state(1), pin(3), 1, 0), 2, 5, "canary of version 3"),
        (state(1), 2, 100, "100 %"),
        (state(1), 2, 0, "0 %"),
    ],
)
def test_a_canary_that_makes_no_sense_is_refused(
    before: pb.ServingState, version: int, percent: float, says: str
) -> None:
    """With what to do instead."""
    with pytest.raises(StateError, match=says):
        with_canary(before, pin(version), percent, 0)


def test_a_deploy_beside_another_versions_canary_is_refused() -> None:
    """Its users would be moved twice."""
    with pytest.raises(StateError, match="millrace canary stop"):
        deployed(with_canary(state(1), pin(2), 5, 0), pin(3))


def test_a_rollback_and_back() -> None:
    """The champion goes along where it was the pin, and nowhere else."""
    back = rolled_back(state(2, previous=1, champion=2))
    assert (1, 2, 1) == (back.pin.version, back.previous.version, back.champion.version)
    assert 2 == rolled_back(back).pin.version
    assert 9 == rolled_back(state(2, previous=1, champion=9)).champion.version
    with pytest.raises(StateError, match="no former version"):
        rolled_back(state(1))


def test_a_canary_and_an_experiment_on_versions_exclude_each_other() -> None:
    """Some of the control's users would get the canary. Rules alone do not matter; one that is there may widen."""
    before = state(1)
    arm = before.experiments.add(name="model", layer="model").arms.add(name="b", share=0.5)
    assert with_canary(before, pin(2), 5, 0).HasField("canary")
    arm.pin.CopyFrom(pin(3))
    with pytest.raises(StateError, match=r"experiment model compares versions.*millrace experiment stop model"):
        with_canary(before, pin(2), 5, 0)
    before.canary.pin.CopyFrom(pin(2))  # as an older release let it begin
    assert 25 == with_canary(before, pin(2), 25, 0).canary.percent


def test_a_bad_pin_gives_way_for_good() -> None:
    """No rollback returns to it; else two bad versions would take turns for ever."""
    found = without(state(2, previous=1, champion=2), pin(2))
    assert found is not None
    after, kind = found
    assert (1, False, 1) == (after.pin.version, after.HasField("previous"), after.champion.version)
    assert pb.DECISION_KIND_ROLLBACK == kind
    assert without(after, pin(1)) is None
    assert without(after, pin(2)) is None


def test_a_bad_pin_does_not_take_an_innocent_canary_along() -> None:
    """Its users stay in it."""
    before = with_canary(state(2, previous=1), pin(3), 25, 7)
    found = without(before, pin(2))
    assert found is not None
    assert (1, 3) == (found[0].pin.version, found[0].canary.pin.version)


def test_a_bad_canary_shadow_or_arm_ends() -> None:
    """The pin is left alone; a champion that was found bad is what serves."""
    before = with_canary(state(1, champion=2), pin(2), 5, 0)
    before.shadow.pin.CopyFrom(pin(3))
    arm = before.experiments.add(name="model", layer="model").arms.add(name="b", share=0.5)
    arm.pin.CopyFrom(pin(4))
    assert [1, 2, 3, 4] == [each.version for each in loaded_pins(before)]
    kinds = []
    for version in (2, 3, 4):
        found = without(before, pin(version))
        assert found is not None
        kinds.append(found[1])
        assert version not in {each.version for each in scoring_pins(found[0])}
        assert (1, 1 if version == 2 else 2) == (found[0].pin.version, found[0].champion.version)
    assert [pb.DECISION_KIND_CANARY, pb.DECISION_KIND_SHADOW, pb.DECISION_KIND_EXPERIMENT] == kinds


def test_guardrails_have_defaults_and_an_end() -> None:
    """0 is the default, negative means not looked at."""
    assert Limits() == Limits.of(pb.Guardrails())
    assert float("inf") == Limits.of(pb.Guardrails(max_score_psi=-1)).score_psi
    assert 0.5 == Limits.of(pb.Guardrails(max_score_psi=0.5)).score_psi


def test_steps_and_identity() -> None:
    """1, 5, 25, 100; one bundle by name, version and digest, whatever Triton calls it."""
    assert [1, 5, 25, 100] == [next_step(percent) for percent in (0, 1, 10, 25)]
    renamed = pin(1)
    renamed.triton_name = "trees.f2i0"
    assert same(pin(1), renamed)
