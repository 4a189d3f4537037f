"""Who is in which arm: even, independent, and steady while experiments grow, come and go."""

import numpy as np
import pytest
import xxhash
from definitions.assignment import Split, assigned, free_segments, place
from millrace.decisions.v1 import decisions_pb2 as pb

USERS = np.arange(1, 20_001, dtype=np.uint64)


def split(name: str, segments: list[tuple[float, float]], layer: str = "model", **shares: float) -> Split:
    return Split.of(
        pb.Experiment(
            name=name,
            layer=layer,
            arms=[pb.Arm(name=arm, share=share) for arm, share in shares.items()],
            segments=[pb.Segment(begin=begin, end=end) for begin, end in segments],
        )
    )


def test_the_place_of_an_id_never_changes() -> None:
    """Logged arms are recomputed from it: another hash would break every running experiment."""
    digest = xxhash.xxh3_64_intdigest(b"model\0" + bytes(7) + b"*")

    assert (digest >> 11) / 2**53 == place("model", 42)
    assert 0.0 <= place("model", 2**64 - 1) < 1.0


def test_arms_get_their_shares_and_layers_are_independent() -> None:
    """Chi-square of the 2 x 2 table under 10.8 (p > .001), with ids that follow one another."""
    one = assigned(split("a", [(0, 0.5)], treatment=0.25, control=0.25), USERS)
    two = assigned(split("b", [(0, 1)], layer="rules", treatment=0.5, control=0.5), USERS)

    assert abs((one >= 0).mean() - 0.5) < 0.015
    assert abs((one == 0).mean() - 0.25) < 0.015
    table = np.array([[np.sum((one == i) & (two == j)) for j in (0, 1)] for i in (0, 1)])
    expected = table.sum(1, keepdims=True) * table.sum(0) / table.sum()
    assert ((table - expected) ** 2 / expected).sum() < 10.8


def test_experiments_that_follow_one_another_on_the_same_users_do_not_share_arms() -> None:
    """What the first one did to its treatment is spread over both arms of the second."""
    first = assigned(split("first", [(0, 1)], treatment=0.5, control=0.5), USERS)
    second = assigned(split("second", [(0, 1)], treatment=0.5, control=0.5), USERS)

    assert abs(np.corrcoef(first, second)[0, 1]) < 0.03


def test_all_arms_growing_alike_keeps_every_member_in_its_arm() -> None:
    """From 10 % to 60 %: who was in treatment stays there, and so does control."""
    before = assigned(split("a", [(0, 0.1)], treatment=0.05, control=0.05), USERS)
    after = assigned(split("a", [(0, 0.1), (0.3, 0.8)], treatment=0.3, control=0.3), USERS)

    inside = before >= 0
    assert np.array_equal(before[inside], after[inside])


def test_the_first_arm_growing_alone_keeps_its_members() -> None:
    """Only control loses some."""
    before = assigned(split("a", [(0, 1)], treatment=0.1, control=0.9), USERS)
    after = assigned(split("a", [(0, 1)], treatment=0.4, control=0.6), USERS)

    assert (after[before == 0] == 0).all()
    assert abs((after == 0).mean() - 0.4) < 0.015


def test_a_neighbour_that_ends_moves_nobody() -> None:
    """Places belong to their experiment: a sum over those that run would have shifted it."""
    two = split("b", [(0.2, 0.6)], treatment=0.2, control=0.2)

    alone = assigned(two, USERS)
    beside = assigned(split("a", [(0, 0.2)], treatment=0.1, control=0.1), USERS)
    assert not ((alone >= 0) & (beside >= 0)).any()
    assert abs((alone >= 0).mean() - 0.4) < 0.015


def test_the_absent_user_is_in_no_arm() -> None:
    """All anonymous calls in one arm would be a mismatch of samples by themselves."""
    assert split("a", [(0, 1)], treatment=0.5, control=0.5).arm(0) is None


def test_free_places_are_found_lowest_first() -> None:
    """Around what others have, and a layer that is full says how much there is."""
    found = free_segments([(0.1, 0.2), (0.5, 1.0)], 0.2)
    assert [0.0, 0.1, 0.2, 0.3] == pytest.approx([end for segment in found for end in segment])
    assert ((0.0, 1.0),) == free_segments([], 1.0)
    with pytest.raises(ValueError, match=r"0\.3 of the layer is free, not 0\.4"):
        free_segments([(0.0, 0.7)], 0.4)
