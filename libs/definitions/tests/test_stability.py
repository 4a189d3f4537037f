"""The stability index."""

import numpy as np
import pytest
from definitions.stability import psi


def test_the_index_by_hand() -> None:
    """Ten equal bins, one of which gains what another loses: (.2 - .1) ln 2 + (0.0001 - .1) ln .001."""
    expected = np.repeat(np.arange(10.0), 100)
    actual = np.concatenate([np.repeat(np.arange(9.0), 100), np.repeat(8.0, 100)])
    by_hand = 0.1 * np.log(2) + (1e-4 - 0.1) * np.log(1e-4 / 0.1)
    assert by_hand == pytest.approx(psi(expected, actual), rel=1e-6)
    assert 0.0 == psi(expected, expected)


def test_equal_samples_are_below_what_the_guardrails_allow() -> None:
    """99 of 100 pairs of 500: .079 by the literature's table, and by ours."""
    rng = np.random.default_rng(0)
    found = [psi(rng.normal(size=500), rng.normal(size=500)) for _ in range(300)]
    assert 0.05 < np.quantile(found, 0.99) < 0.1
