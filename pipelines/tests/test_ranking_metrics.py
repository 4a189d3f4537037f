"""Ranked lists are measured as scikit-learn and sums by hand do it."""

import numpy as np
import pytest
from pipelines.evaluation.ranking import full_ranking, list_metrics, rank_items
from scipy.sparse import csr_array
from sklearn.metrics import ndcg_score


def none(users: int, items: int) -> csr_array:
    return csr_array((users, items), dtype=np.float32)


def test_each_metric_of_a_list_that_is_worked_out_by_hand() -> None:
    """Hits at ranks 2 and 3 of 4, three relevant items; a user without any says nothing."""
    ranked = np.array([[5, 1, 2, 0], [0, 1, 2, 3]])
    relevant = csr_array(np.array([[0, 1, 1, 0, 1, 0], [0, 0, 0, 0, 0, 0]], np.float32))

    found = list_metrics(ranked, relevant)

    gain = 1 / np.log2(3) + 1 / np.log2(4)
    ideal = 1 + 1 / np.log2(3) + 1 / np.log2(4)
    expected = {
        "precision": 2 / 4,
        "recall": 2 / 3,
        "hit": 1.0,
        "ndcg": gain / ideal,
        "map": (1 / 2 + 2 / 3) / 3,
        "mrr": 1 / 2,
    }
    assert expected == pytest.approx({name: values[0] for name, values in found.items()})
    assert all(np.isnan(values[1]) for values in found.values())


def test_ndcg_agrees_with_scikit_learn() -> None:
    """On scores without ties, at three depths."""
    rng = np.random.default_rng(0)
    scores = rng.permuted(np.tile(np.arange(40, dtype=np.float32), (25, 1)), axis=1)
    relevant = (rng.random((25, 40)) < 0.2).astype(np.float32)
    relevant[:, 0] = 1

    for k in (1, 5, 40):
        found = list_metrics(rank_items(scores, none(25, 40), k), csr_array(relevant))["ndcg"]
        assert ndcg_score(relevant, scores, k=k) == pytest.approx(found.mean(), abs=1e-12)


def test_seen_items_are_never_listed_and_a_short_list_ends_in_nothing() -> None:
    """Three of four items are seen: the list holds the fourth and then -1; NaN is no score."""
    seen = csr_array(np.array([[1, 1, 0, 1], [0, 0, 0, 0]], np.float32))
    scores = np.array([[9, 8, 1, 7], [np.nan, 1, 3, 2]], np.float32)

    assert [[2, -1, -1], [2, 3, 1]] == rank_items(scores, seen, 3).tolist()
    assert (2, 6) == rank_items(scores, seen, 6).shape


def test_ties_are_broken_at_random_and_alike_for_a_seed() -> None:
    """A constant model lists the one relevant of 10 items first for a tenth of the users, not for all or none."""
    users, items = 4000, 10
    relevant = csr_array((np.ones(users, np.float32), (np.arange(users), np.zeros(users, int))), shape=(users, items))

    def constant(rows: csr_array) -> np.ndarray:
        return np.zeros(rows.shape, np.float32)

    nobody = none(users, items)
    found = full_ranking(constant, nobody, nobody, relevant, k=1, seed=3)

    assert found["hit"].mean() == pytest.approx(0.1, abs=0.02)
    assert found["hit"].tolist() == full_ranking(constant, nobody, nobody, relevant, k=1, seed=3)["hit"].tolist()
    assert found["hit"].tolist() != full_ranking(constant, nobody, nobody, relevant, k=1, seed=4)["hit"].tolist()
