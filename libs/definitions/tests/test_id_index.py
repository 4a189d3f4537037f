"""Ids and their slots, against a dict."""

import numpy as np
from definitions.id_index import IdIndex


def test_slots_are_given_in_order_of_arrival_and_found_again() -> None:
    """Any mix of new, known and repeated ids in any batch size gives what a dict would; the unknown have slot 0."""
    rng, index, expected = np.random.default_rng(3), IdIndex(), dict[int, int]()
    some = rng.integers(1, 2**64 - 1, 4_000, np.uint64, endpoint=True)
    pool = np.concatenate([some, np.array([1, 2**64 - 1, 2**63], np.uint64)])
    for size in (1, 1, 2, 700, 3, 50, 1, 0, 2_000, 40, 5):
        ids = rng.choice(pool, size)
        wanted = [expected.setdefault(item, len(expected) + 1) for item in ids.tolist()]
        assert index.add(ids).tolist() == wanted
        assert index.find(pool).tolist() == [expected.get(item, 0) for item in pool.tolist()]
    assert len(index) == len(expected)
