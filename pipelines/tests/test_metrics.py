"""Figures agree with scikit-learn where it has them, and with sums by hand where it has not."""

import numpy as np
import pytest
from pipelines.evaluation.metrics import auc, gauc, log_loss, ndcg, rank_flips
from sklearn.metrics import log_loss as reference_log_loss
from sklearn.metrics import roc_auc_score


def test_auc_and_log_loss_agree_with_scikit_learn() -> None:
    """Also with many ties."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 2000)
    scores = np.clip(np.round(0.4 * labels + rng.random(2000) * 0.6, 2), 0.01, 0.99)

    assert roc_auc_score(labels, scores) == pytest.approx(auc(labels, scores), abs=1e-12)
    assert reference_log_loss(labels, scores) == pytest.approx(log_loss(labels, scores), abs=1e-12)


def test_auc_of_one_class_is_unknown() -> None:
    """Not 0.5: nothing was compared."""
    assert auc(np.ones(3, int), np.array([0.1, 0.2, 0.3])) is None


def test_gauc_weighs_users_by_rows_and_skips_those_with_one_class() -> None:
    """User 1: 1.0 on 2 rows; user 2: 0.5 on 4 rows; user 3 says nothing."""
    users = np.array([1, 1, 2, 2, 2, 2, 3], np.uint64)
    labels = np.array([0, 1, 1, 0, 0, 1, 1])
    scores = np.array([0.1, 0.9, 0.9, 0.8, 0.2, 0.1, 0.5])

    assert gauc(labels, scores, users) == pytest.approx((1.0 * 2 + 0.5 * 4) / 6)


def test_ndcg_by_hand() -> None:
    """Ranking 1, 0, 1 against the best 1, 1, 0; users without a positive row are left out."""
    users = np.array([7, 7, 7, 8], np.uint64)
    labels = np.array([1, 0, 1, 0])
    scores = np.array([0.9, 0.8, 0.7, 0.5])

    value = ndcg(labels, scores, users, k=10)

    assert value == pytest.approx((1 + 1 / np.log2(4)) / (1 + 1 / np.log2(3)))


def test_ndcg_of_a_constant_is_that_of_a_random_order() -> None:
    """File order must not help: with positives first in the file a stable sort would give 1."""
    users = np.repeat(np.arange(200, dtype=np.uint64), 20)
    labels = np.tile(np.r_[np.ones(5, int), np.zeros(15, int)], 200)

    value = ndcg(labels, np.full(4000, 0.5), users, k=10)

    assert value is not None
    assert 0.2 < value < 0.4


def test_rank_flips_finds_a_swapped_pair_of_one_user_only() -> None:
    """Across users order means nothing; below the margin it is noise."""
    users = np.array([1, 1, 2], np.uint64)
    reference = np.array([0.1, 0.2, 0.15])

    assert rank_flips(reference, np.array([0.2, 0.1, 0.0]), users) == 1
    assert rank_flips(reference, np.array([0.1, 0.2, 0.9]), users) == 0
    assert rank_flips(np.array([0.1, 0.1 + 1e-6, 0.15]), np.array([0.2, 0.1, 0.0]), users) == 0


def test_rank_flips_finds_pairs_that_are_no_neighbours() -> None:
    """0.10 and 0.30 swap although each keeps its order with the one between."""
    reference, scores = np.array([0.1, 0.2, 0.3]), np.array([0.25, 0.26, 0.24])

    assert rank_flips(reference, scores, np.zeros(3, np.uint64)) == 1
