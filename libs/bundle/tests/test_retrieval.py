"""Candidates are the exact best of the catalogue, and parts that do not belong together are refused."""

from pathlib import Path

import numpy as np
import pytest
from bundle import IntegrityError, NeighbourRetrieval, PopularRetrieval, load_retrieval

IDS = np.array([10, 20, 30, 2**63 + 5], np.uint64)
PLACES = np.array([[1, 2], [0, -1], [3, 0], [2, 1]], np.int32)
WEIGHTS = np.array([[0.5, 0.25], [1.0, 0.0], [0.125, 2.0], [4.0, 0.5]], np.float32)


def ids(*values: int) -> np.ndarray:
    return np.array(values, np.uint64)


def test_neighbours_of_the_history_add_up() -> None:
    """Of 10 and the large id: item 20 gets .5 + .5, item 30 .25 + 4; absent and unknown ids are nothing."""
    found = NeighbourRetrieval(IDS, PLACES, WEIGHTS).retrieve(ids(10, 0, 2**63 + 5, 77), limit=10)

    assert ([30, 20], [4.25, 1.0]) == (found.item_ids.tolist(), found.scores.tolist())


def test_a_user_without_known_history_has_no_neighbours() -> None:
    """Popular items are another source's."""
    source = NeighbourRetrieval(IDS, PLACES, WEIGHTS)

    assert [] == source.retrieve(ids(), limit=10).item_ids.tolist()
    assert [] == source.retrieve(ids(0, 99), limit=10).item_ids.tolist()


def test_only_eligible_items_are_found_however_many_better_ones_there_are() -> None:
    """Of 500 neighbours the best 490 may not be shown: the search goes on until it has the limit."""
    item_ids = np.arange(1, 502, dtype=np.uint64)
    places = np.full((501, 500), -1, np.int32)
    places[500] = np.arange(500)
    weights = np.zeros((501, 500), np.float32)
    weights[500] = np.arange(500, 0, -1)
    source = NeighbourRetrieval(item_ids, places, weights)

    found = source.retrieve(ids(501), 5, eligible=lambda chosen: chosen > 490)

    assert [491, 492, 493, 494, 495] == found.item_ids.tolist()


def test_equal_scores_are_ordered_by_id() -> None:
    """The same request gives the same list."""
    source = NeighbourRetrieval(IDS, np.array([[3, 2], [0, 1], [0, 1], [0, 1]], np.int32), np.ones((4, 2), np.float32))

    assert [30, 2**63 + 5] == source.retrieve(ids(10), limit=2).item_ids.tolist()


@pytest.mark.parametrize(
    ("item_ids", "places", "weights"),
    [
        (IDS[::-1].copy(), PLACES, WEIGHTS),
        (IDS[:3], PLACES, WEIGHTS),
        (IDS, np.full((4, 2), 4, np.int32), WEIGHTS),
        (IDS, PLACES, WEIGHTS.astype(np.float64)),
    ],
    ids=["unsorted", "another catalogue", "no such place", "float64"],
)
def test_tables_that_do_not_fit_are_refused(item_ids: np.ndarray, places: np.ndarray, weights: np.ndarray) -> None:
    """At load, not at the first request."""
    with pytest.raises(IntegrityError, match="train again"):
        NeighbourRetrieval(item_ids, places, weights)


def test_a_bundle_without_retrieval_retrieves_nothing_and_half_of_one_is_refused(tmp_path: Path) -> None:
    """Vectors alone cannot be searched."""
    assert load_retrieval(tmp_path).towers is None
    assert load_retrieval(tmp_path).neighbours is None

    np.save(tmp_path / "item_ids.npy", IDS)
    with pytest.raises(IntegrityError, match=r"user_tower\.onnx"):
        load_retrieval(tmp_path)


def test_neighbours_of_a_large_catalogue_are_those_of_a_small_one() -> None:
    """Found by sorting, or by marking: the same sums."""
    rng = np.random.default_rng(3)
    places = rng.integers(-1, 300, (300, 10)).astype(np.int32)
    weights = np.where(places < 0, 0, rng.random((300, 10))).astype(np.float32)
    small = NeighbourRetrieval(np.arange(1, 301, dtype=np.uint64), places, weights)
    more = 100_000
    large = NeighbourRetrieval(
        np.arange(1, more + 1, dtype=np.uint64),
        np.concatenate([places, np.full((more - 300, 10), -1, np.int32)]),
        np.concatenate([weights, np.zeros((more - 300, 10), np.float32)]),
    )
    history = rng.integers(1, 301, 20).astype(np.uint64)

    a, b = small.retrieve(history, 50), large.retrieve(history, 50)

    assert (a.item_ids.tolist(), a.scores.tolist()) == (b.item_ids.tolist(), b.scores.tolist())


def test_the_narrowest_place_with_a_list_says_what_is_popular() -> None:
    """Surface and country, else the surface, else the country, else nothing: the live order is another source."""
    source = PopularRetrieval(
        np.array([[0, 49], [2, 0], [2, 49]], np.uint32), np.array([2, 4, 7]), ids(1, 2, 3, 4, 5, 6, 7)
    )

    assert [5, 6] == source.retrieve(2, 49, 2).tolist()
    assert [6, 7] == source.retrieve(2, 49, 2, eligible=lambda chosen: chosen > 5).tolist()
    assert [3, 4] == source.retrieve(2, 33, 9).tolist()
    assert [1, 2] == source.retrieve(7, 49, 9).tolist()
    assert [] == source.retrieve(7, 33, 9).tolist()


def test_popular_lists_that_do_not_fit_are_refused() -> None:
    """Places twice, or ends that are not those of the items."""
    for places, ends in (([[1, 1], [1, 1]], [1, 2]), ([[1, 1], [2, 1]], [1, 3]), ([[1, 1], [2, 1]], [2, 1])):
        with pytest.raises(IntegrityError, match="train again"):
            PopularRetrieval(np.array(places, np.uint32), np.array(ends), ids(1, 2))
