"""Position bias, by worked cases; `test_sim_position_bias.py` shows it on worlds with known truth."""

import numpy as np
import pytest
from pipelines.errors import BadInputError
from pipelines.evaluation.position_bias import PRIOR, click_rates, fit


def impressions(shown: np.ndarray, rate: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(item, place, clicked) with exactly `rate` clicks in each cell of `shown` (items, places)."""
    item, place, clicked = [], [], []
    for (i, p), count in np.ndenumerate(shown):
        item += [i] * count
        place += [p] * count
        clicked += [True] * round(count * rate[i, p]) + [False] * (count - round(count * rate[i, p]))
    return np.array(item), np.array(place), np.array(clicked)


def test_both_factors_are_found_where_clicks_are_their_product() -> None:
    """The better item stands below: by clicks it looks worse, by the model it is better."""
    appeal, examination = np.array([0.3, 0.6, 0.5]), np.array([1.0, 0.25])
    shown = np.array([[9_000, 1_000], [1_000, 9_000], [5_000, 5_000]])
    item, place, clicked = impressions(shown, np.outer(appeal, examination))

    naive, found = click_rates(item, clicked), fit(item, place, clicked)

    assert naive[0] > naive[1]
    assert found.examination == pytest.approx(examination, abs=0.01)
    assert found.appeal == pytest.approx(appeal, abs=0.01)


def test_an_item_hardly_shown_is_nearer_to_the_mean() -> None:
    """One click of one impression is no certainty."""
    item, clicked = np.array([0] * 100 + [1]), np.array([True] * 50 + [False] * 50 + [True])

    assert click_rates(item, clicked)[1] == pytest.approx((1 + PRIOR * 51 / 101) / (1 + PRIOR))


def test_what_cannot_be_told_apart_is_refused() -> None:
    """Items that never change place, or no clicks at all; with what to do."""
    with pytest.raises(BadInputError, match="no item was shown at two; serve with exploration"):
        fit(np.array([0, 1]), np.array([0, 1]), np.array([True, False]))
    with pytest.raises(BadInputError, match="wait for more impressions"):
        fit(np.array([0, 0]), np.array([0, 1]), np.array([False, False]))
