"""Which arms a request is in."""

from gateway.arms import Arms
from millrace.decisions.v1 import decisions_pb2 as pb


def experiment(name: str, layer: str, begin: float, end: float, **shares: float) -> pb.Experiment:
    return pb.Experiment(
        name=name,
        layer=layer,
        arms=[pb.Arm(name=arm, share=share) for arm, share in shares.items()],
        segments=[pb.Segment(begin=begin, end=end)],
    )


STATE = pb.ServingState(
    experiments=[
        experiment("mmr", "rules", 0.0, 1.0, treatment=0.5, control=0.5),
        experiment("gbdt", "model", 0.0, 0.4, treatment=0.2, control=0.2),
        experiment("dcn", "model", 0.4, 0.8, treatment=0.1, control=0.3),
    ]
)


def test_a_user_is_in_at_most_one_experiment_of_a_layer_and_in_one_of_every_full_layer() -> None:
    """Experiments of a layer share its users; another layer has them all again."""
    arms = Arms.of(STATE)
    model = 0
    for user in range(1, 5_001):
        found = dict(arms.assign(user, 0))
        assert "mmr" in found
        assert not {"gbdt", "dcn"} <= set(found)
        model += len(found) - 1

    assert abs(model / 5_000 - 0.8) < 0.03


def test_who_is_signed_in_is_known_by_the_user_and_who_is_not_by_the_session() -> None:
    """The session of a known user changes nothing; with neither id nothing would stick, so there is no arm."""
    arms = Arms.of(STATE)

    assert arms.assign(42, 7) == arms.assign(42, 8) == arms.assign(0, 42)
    assert not arms.assign(0, 0)


def test_without_experiments_nobody_is_in_an_arm() -> None:
    """The common case costs nothing."""
    assert not Arms.of(pb.ServingState()).assign(42, 0)


def test_an_arm_without_users_has_none() -> None:
    """Shares of 0 are a way to end an arm, not an error at each request."""
    arms = Arms.of(pb.ServingState(experiments=[experiment("x", "l", 0.0, 1.0, a=0.0, b=1.0)]))

    assert {("x", "b")} == {pair for user in range(1, 500) for pair in arms.assign(user, 0)}
    nobody = Arms.of(pb.ServingState(experiments=[experiment("x", "l", 0.0, 1.0, a=0.0)]))
    assert not [pair for user in range(1, 500) for pair in nobody.assign(user, 0)]
