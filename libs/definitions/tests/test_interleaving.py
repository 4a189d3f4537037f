"""Team-draft interleaving: both rankings fairly, and the same at every call."""

import numpy as np
from definitions.interleaving import interleaved, team_draft
from definitions.rerank import Ordered

ONE = np.array([1, 2, 3, 4, 5, 6], np.uint64)
OTHER = np.array([6, 5, 4, 3, 2, 1], np.uint64)


def test_each_team_picks_its_best_that_is_left_and_none_is_ahead_by_more_than_one() -> None:
    """By hand for both coins: 1 6 or 6 1 first, then 2 and 5 in either order, and so on."""
    for request_id in range(50):
        drafted = team_draft(ONE, OTHER, 4, request_id)
        items, teams = drafted.items, drafted.teams

        assert {1, 6} == set(items[:2].tolist())
        assert {2, 5} == set(items[2:].tolist())
        assert [0 if item < 4 else 1 for item in items.tolist()] == teams.tolist()
        ahead = np.cumsum(1 - 2 * teams.astype(int))
        assert np.abs(ahead).max() <= 1


def test_equal_rankings_give_that_ranking_and_chance_shares_the_items() -> None:
    """The list is what people know; who drafted its top is a coin, half of the time each."""
    first = [team_draft(ONE, ONE, 0, request_id) for request_id in range(2_000)]

    assert all(np.array_equal(ONE, drafted.items) for drafted in first)
    assert all((drafted.propensities == 1).all() for drafted in first)
    assert abs(np.mean([drafted.teams[0] for drafted in first]) - 0.5) < 0.04


def test_a_short_ranking_leaves_the_rest_to_the_other_and_a_repeat_is_the_same() -> None:
    """No item twice, none missing."""
    drafted = team_draft(ONE[:1], OTHER, 0, 7)

    assert {1, 2, 3, 4, 5, 6} == set(drafted.items.tolist())
    assert 1 == (drafted.teams == 0).sum()
    assert np.array_equal(drafted.items, team_draft(ONE[:1], OTHER, 0, 7).items)
    assert 0 == len(team_draft(ONE[:0], ONE[:0], 5, 7).items)


def test_propensities_are_how_often_an_item_gets_its_place_given_those_above() -> None:
    """A tossed place is one of two, the next one follows: .5, 1, .5, 1 while the rankings differ."""
    drafts = [team_draft(ONE, OTHER, 4, request_id) for request_id in range(4_000)]

    assert {(0.5, 1.0, 0.5, 1.0)} == {tuple(drafted.propensities.tolist()) for drafted in drafts}
    assert abs(np.mean([drafted.items[0] == 1 for drafted in drafts]) - 0.5) < 0.03


def test_two_orders_of_a_requests_candidates_become_one() -> None:
    """The drafted places first, then the rest as the own order has it; every candidate once."""
    ids = np.array([30, 10, 20, 40], np.uint64)
    own, other = (Ordered(np.array(order), 2, np.ones(4, np.float32)) for order in ([0, 1, 2, 3], [3, 2, 1, 0]))

    found, teams = interleaved(ids, own, other, 5, ("control", "new"))

    assert {30, 40} == set(ids[found.order[:2]].tolist())
    assert {"control", "new"} == set(teams)
    assert teams == tuple("control" if item == 30 else "new" for item in ids[found.order[:2]].tolist())
    assert [1, 2] == found.order[2:].tolist()
    assert ([0.5, 1.0, 0, 0], 2) == (found.propensities.tolist(), found.shown)
