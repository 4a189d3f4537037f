"""Figures agree with scikit-learn where it has them, and with sums by hand where it has not."""

import numpy as np
import pytest
from pipelines.evaluation.metrics import (
    auc,
    calibration_ratio,
    ece,
    evaluate,
    gauc,
    log_loss,
    mae,
    ndcg,
    normalised_ce,
    rank_flips,
    rmse,
)
from sklearn.metrics import log_loss as reference_log_loss
from sklearn.metrics import mean_absolute_error, ndcg_score, roc_auc_score, root_mean_squared_error


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


def test_ndcg_agrees_with_scikit_learn() -> None:
    """Per user, also with graded gains and fewer rows than K."""
    rng = np.random.default_rng(4)
    users = rng.integers(1, 20, 300)
    gains, scores = rng.integers(0, 2, 300), rng.random(300)
    expected = [
        ndcg_score([gains[users == user]], [scores[users == user]], k=10)
        for user in np.unique(users)
        if gains[users == user].any()
    ]

    assert np.mean(expected) == pytest.approx(ndcg(gains, scores, users, k=10), abs=1e-12)


def test_regression_errors_agree_with_scikit_learn() -> None:
    """Of predicted stars, say."""
    rng = np.random.default_rng(5)
    stars, predicted = rng.integers(1, 6, 200).astype(float), rng.normal(3, 1, 200)

    assert mean_absolute_error(stars, predicted) == pytest.approx(mae(stars, predicted), abs=1e-12)
    assert root_mean_squared_error(stars, predicted) == pytest.approx(rmse(stars, predicted), abs=1e-12)


def test_calibration_by_hand() -> None:
    """Two bins are used: .05 with one positive of four (off by .2), .95 with all of four (off by .05)."""
    labels = np.array([1, 0, 0, 0, 1, 1, 1, 1])
    scores = np.array([0.05] * 4 + [0.95] * 4)

    assert (0.2 * 4 + 0.05 * 4) / 8 == pytest.approx(ece(labels, scores, bins=10))
    assert (4 * 0.05 + 4 * 0.95) / 5 == pytest.approx(calibration_ratio(labels, scores))


def test_normalised_cross_entropy_of_the_base_rate_is_one() -> None:
    """For any base rate; a better model is below, one class only tells nothing."""
    labels = np.array([1, 0, 0, 0, 0])

    assert normalised_ce(labels, np.full(5, 0.2)) == pytest.approx(1.0)
    assert (normalised_ce(labels, np.array([0.9, 0.1, 0.1, 0.1, 0.1])) or 1) < 0.5
    assert normalised_ce(np.ones(5, int), np.full(5, 0.2)) is None


def test_all_metrics_of_one_class_are_told_as_far_as_they_go() -> None:
    """None where the rows cannot tell, a number elsewhere."""
    found = evaluate(np.zeros(4, int), np.full(4, 0.1), np.arange(4))

    assert (None, None, None, None, None) == (
        found.auc,
        found.gauc,
        found.ndcg_at_10,
        found.normalised_ce,
        found.calibration,
    )
    assert 0.1 == pytest.approx(found.ece)
