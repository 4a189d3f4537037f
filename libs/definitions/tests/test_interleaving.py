"""Team-draft interleaving: both rankings fairly, and the same at every call."""

import numpy as np
from definitions.interleaving import team_draft

ONE = np.array([1, 2, 3, 4, 5, 6], np.uint64)
OTHER = np.array([6, 5, 4, 3, 2, 1], np.uint64)


def test_each_team_picks_its_best_that_is_left_and_none_is_ahead_by_more_than_one() -> None:
    """By hand for both coins: 1 6 or 6 1 first, then 2 and 5 in either order, and so on."""
    for request_id in range(50):
        items, teams = team_draft(ONE, OTHER, 4, request_id)

        assert {1, 6} == set(items[:2].tolist())
        assert {2, 5} == set(items[2:].tolist())
        assert [0 if item < 4 else 1 for item in items.tolist()] == teams.tolist()
        ahead = np.cumsum(1 - 2 * teams.astype(int))
        assert np.abs(ahead).max() <= 1


def test_equal_rankings_give_that_ranking_and_chance_shares_the_items() -> None:
    """The list is what people know; who drafted its top is a coin, half of the time each."""
    first = [team_draft(ONE, ONE, 0, request_id) for request_id in range(2_000)]

    assert all(np.array_equal(ONE, items) for items, _ in first)
    assert abs(np.mean([teams[0] for _, teams in first]) - 0.5) < 0.04


def test_a_short_ranking_leaves_the_rest_to_the_other_and_a_repeat_is_the_same() -> None:
    """No item twice, none missing."""
    items, teams = team_draft(ONE[:1], OTHER, 0, 7)

    assert {1, 2, 3, 4, 5, 6} == set(items.tolist())
    assert 1 == (teams == 0).sum()
    assert np.array_equal(items, team_draft(ONE[:1], OTHER, 0, 7)[0])
    assert 0 == len(team_draft(ONE[:0], ONE[:0], 5, 7)[0])
