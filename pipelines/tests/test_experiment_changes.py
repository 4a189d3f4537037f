"""How experiments begin, grow and end in a serving state."""

import pytest
from definitions.assignment import Split
from millrace.decisions.v1 import decisions_pb2 as pb
from pipelines.errors import BadInputError
from pipelines.experiments.changes import ArmSpec, grown, started, stopped

USERS = range(1, 4_001)
PIN = pb.ModelPin(name="movies", version=7, digest="d7")


def begin(
    state: pb.ServingState, name: str, *arms: ArmSpec, layer: str = "model", now_us: int = 100
) -> pb.ServingState:
    return started(
        state, name, arms, layer=layer, control="control", primary="reward_per_user", planned_users=1_000, now_us=now_us
    )


def halves(share: float, **options: object) -> tuple[ArmSpec, ArmSpec]:
    return ArmSpec("new", share, **options), ArmSpec("control", share)  # type: ignore[arg-type]


def members(state: pb.ServingState, name: str) -> dict[int, str]:
    split = Split.of(next(each for each in state.experiments if each.name == name))
    return {user: split.arms[arm] for user in USERS if (arm := split.arm(user)) is not None}


def test_experiments_of_a_layer_share_no_user_and_none_moves_when_another_comes_grows_or_ends() -> None:
    """Each owns its places; a layer that is full says so, and another layer has everybody again."""
    state = begin(pb.ServingState(pin=PIN), "one", *halves(0.1))
    state = begin(state, "two", *halves(0.2))
    one, two = members(state, "one"), members(state, "two")
    assert not set(one) & set(two)

    state = grown(state, "one", {"new": 0.2, "control": 0.2}, 200)
    assert two == members(state, "two")
    assert one.items() <= members(state, "one").items()
    with pytest.raises(BadInputError, match=r"layer model: .* free, not .*; one, two have"):
        begin(state, "three", *halves(0.2))
    elsewhere = begin(state, "three", *halves(0.5), layer="rules")
    assert len(USERS) == len(members(elsewhere, "three"))
    state = stopped(state, "one")
    assert two == members(state, "two")
    assert PIN == state.pin


def test_arms_that_grow_alike_keep_everybody_and_go_on_counting() -> None:
    """Who is in stays where it was, and what was counted still counts."""
    before = begin(pb.ServingState(), "one", *halves(0.05))
    after = grown(before, "one", {"new": 0.25, "control": 0.25}, 999)

    assert 100 == after.experiments[0].since_us
    assert members(before, "one").items() <= members(after, "one").items()
    assert abs(len(members(after, "one")) / len(USERS) - 0.5) < 0.03


def test_a_first_arm_that_grows_alone_keeps_its_members_but_counting_begins_anew() -> None:
    """Some of the others come over, so what they did before belongs to another arm."""
    before = begin(pb.ServingState(), "one", ArmSpec("new", 0.1), ArmSpec("control", 0.9))
    after = grown(before, "one", {"new": 0.5, "control": 0.5}, 999)

    stayed = {user for user, arm in members(before, "one").items() if arm == "new"}
    assert stayed <= {user for user, arm in members(after, "one").items() if arm == "new"}
    assert 999 == after.experiments[0].since_us


def test_shrinking_gives_places_back() -> None:
    """Lowest places stay; the rest is free for others."""
    state = begin(pb.ServingState(), "one", *halves(0.5))
    small = grown(state, "one", {"new": 0.1, "control": 0.1}, 200)

    assert members(small, "one").items() <= members(state, "one").items()
    assert len(members(begin(small, "two", *halves(0.4)), "two")) > 0.75 * len(USERS)


@pytest.mark.parametrize(
    ("arms", "said"),
    [
        ((ArmSpec("new", 0.5), ArmSpec("other", 0.5)), "--control 'control' is none of its arms"),
        ((ArmSpec("control", 0.5),), "at least two arms"),
        ((ArmSpec("new", 0.7), ArmSpec("control", 0.7)), "add up to 1.4"),
        ((ArmSpec("new", 0.0), ArmSpec("control", 0.7)), "arm new has share 0"),
        ((ArmSpec("a,b", 0.1), ArmSpec("control", 0.1)), "arm 'a,b': begin with a letter"),
    ],
    ids=["control", "one", "sum", "zero", "name"],
)
def test_what_is_no_experiment_is_refused(arms: tuple[ArmSpec, ...], said: str) -> None:
    """Bad input, and the remedy."""
    with pytest.raises(BadInputError, match=said):
        begin(pb.ServingState(), "one", *arms)


def test_two_layers_may_not_change_the_same_thing_nor_an_experiment_a_model_under_a_canary() -> None:
    """A user in both would be in neither; a canary would be part of the control."""
    state = begin(pb.ServingState(), "one", *halves(0.1, pin=PIN))
    with pytest.raises(BadInputError, match="one changes the model too, in layer model"):
        begin(state, "two", *halves(0.1, pin=PIN), layer="other")
    assert 2 == len(begin(state, "two", *halves(0.1, rules="{}"), layer="other").experiments)
    canary = pb.ServingState(canary=pb.Canary(pin=PIN, percent=5))
    with pytest.raises(BadInputError, match="canary of version 7 is under way"):
        begin(canary, "one", *halves(0.1, pin=PIN))


def test_what_does_not_run_is_named() -> None:
    """And what does."""
    state = begin(pb.ServingState(), "one", *halves(0.1))
    with pytest.raises(BadInputError, match="experiment 'two' does not run; running: one"):
        stopped(state, "two")
    with pytest.raises(BadInputError, match="runs already"):
        begin(state, "one", *halves(0.1))
    with pytest.raises(BadInputError, match="arm 'x': one has new, control"):
        grown(state, "one", {"x": 0.5}, 0)
