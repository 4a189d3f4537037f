"""Heads become one score by weights."""

import numpy as np
from definitions.heads import combined, head_weights


def test_the_score_is_the_weighted_sum_whatever_is_beside_a_row() -> None:
    """The same bits for one row as for a thousand."""
    predictions = np.random.default_rng(0).random((1000, 3), np.float32)
    weights = np.array([1, 5, -2.5], np.float32)
    scores = combined(predictions, weights)
    np.testing.assert_allclose(scores, predictions.astype(np.float64) @ weights, rtol=1e-5, atol=1e-6)
    assert (np.float32, (1000,)) == (scores.dtype, scores.shape)
    assert scores.tolist() == [float(combined(row[None], weights)[0]) for row in predictions]


def test_rules_change_some_weights_and_a_model_without_heads_has_none() -> None:
    """A head that rules do not name counts as it was trained; a single score stays as it is."""
    assert [1, 7] == head_weights({"like": 1, "hide": -5}, {"hide": 7, "other": 3}).tolist()
    single = np.array([0.5], np.float32)
    assert single is combined(single, head_weights({}, {}))
