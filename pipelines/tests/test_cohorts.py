"""Who is cold, what is head, and whether a curve shows what is promised too much."""

import numpy as np
import pytest
from pipelines.evaluation.calibration import curve
from pipelines.evaluation.cohorts import ALL, by_cohort, cohort_masks
from pipelines.evaluation.metrics import auc, ece


def test_rows_divide_by_what_the_past_knew() -> None:
    """User 1 was there before, 2 was not; item 10 makes up more than half of the past, 11 and the new 12 are tail."""
    past_users, past_items = np.array([1, 1, 3, 3], np.uint64), np.array([10, 10, 10, 11], np.uint64)
    users, items = np.array([1, 2, 1], np.uint64), np.array([10, 11, 12], np.uint64)
    masks = cohort_masks(past_users, past_items, users, items, codes={"device": np.array([0, 2, 2])})

    assert {
        "cold users": [False, True, False],
        "warm users": [True, False, True],
        "head items": [True, False, False],
        "tail items": [False, True, True],
        "device 2": [False, True, True],
    } == {name: mask.tolist() for name, mask in masks.items()}


def test_a_cohort_without_rows_is_left_out() -> None:
    """Nothing is said of nobody."""
    one = np.array([1], np.uint64)

    assert {"warm users", "head items"} == set(cohort_masks(one, one, one, one))


def test_each_cohort_has_its_own_figures() -> None:
    """A model that is right on one half and wrong on the other is told apart from one that guesses."""
    labels = np.tile([0, 1], 50)
    half = np.arange(100) < 50
    scores = np.where(half, labels, 1 - labels).astype(float)
    found = by_cohort({"good": half, "bad": ~half}, labels, scores, np.arange(100, dtype=np.uint64) // 4, ["auc"])

    assert [ALL, "good", "bad"] == list(found)
    assert (1.0, 0.0) == (found["good"]["auc"].value, found["bad"]["auc"].value)
    assert auc(labels, scores) == pytest.approx(found[ALL]["auc"].value)


def test_the_curve_shows_a_model_that_promises_too_much() -> None:
    """True probability is score - .1: each bin's rate lies .1 below its score, and the interval says so."""
    rng = np.random.default_rng(0)
    scores = rng.uniform(0.2, 0.9, 8000)
    labels = (rng.random(8000) < scores - 0.1).astype(int)
    found = curve(labels, scores, rng.integers(0, 400, 8000))

    assert np.abs(found.score - found.rate - 0.1).max() < 0.06  # 800 rows a bin: a rate errs by .018
    assert (found.high < found.score).all()
    assert (found.low < found.rate).all()
    assert 8000 == found.rows.sum()
    assert 0.1 == pytest.approx(ece(labels, scores), abs=0.02)


def test_equal_scores_share_a_bin() -> None:
    """A constant has one point on the curve, at its base rate."""
    found = curve(np.array([0, 1, 1, 1]), np.full(4, 0.5), np.arange(4))

    assert ([4], [0.75]) == (found.rows.tolist(), found.rate.tolist())
