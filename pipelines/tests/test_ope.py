"""Off-policy estimates: by hand, refused without propensities, and on Open Bandit."""

import numpy as np
import pytest
from pipelines.errors import BadInputError
from pipelines.evaluation.ope import Feedback, MissingPropensities, cross_fitted, estimate

REWARD = np.array([1.0, 0.0, 1.0, 0.0])
PROPENSITY = np.array([0.5, 0.25, 0.25, 0.5])
CHOSEN = np.array([0, 1, 1, 0])
UNIT = np.arange(4)
TARGET = np.array([[0.25, 0.75], [0.5, 0.5], [0.5, 0.5], [0.75, 0.25]])
REWARDS = np.array([[0.5, 0.25], [0.5, 0.25], [0.5, 0.75], [0.25, 0.25]])


def feedback(propensity: np.ndarray = PROPENSITY) -> Feedback:
    return Feedback(REWARD, propensity, CHOSEN, UNIT)


def test_estimates_are_those_of_the_formulas() -> None:
    """Worked out on paper: w = 0.5, 2, 2, 1.5."""
    found = estimate(feedback(), TARGET, REWARDS)

    assert found.values["ips"].value == pytest.approx((0.5 + 2) / 4)
    assert found.values["snips"].value == pytest.approx(2.5 / 6)
    assert found.values["dm"].value == pytest.approx((0.3125 + 0.375 + 0.625 + 0.25) / 4)
    assert found.values["dr"].value == pytest.approx(
        (0.3125 + 0.5 * 0.5 + 0.375 - 2 * 0.25 + 0.625 + 2 * 0.25 + 0.25 - 1.5 * 0.25) / 4
    )
    assert found.ess == pytest.approx(36 / (0.25 + 4 + 4 + 2.25))


def test_the_logging_policy_judged_by_its_own_log_earned_what_it_earned() -> None:
    """All weights are 1: every weighted estimate is the plain mean, and all rows count."""
    target = np.array([[0.5, 0.5], [0.75, 0.25], [0.75, 0.25], [0.5, 0.5]])
    found = estimate(feedback(), target)

    assert [0.5, 0.5] == [found.values[name].value for name in ("ips", "snips")]
    assert found.ess == pytest.approx(4)
    assert set(found.values) == {"ips", "snips"}  # without a model of the reward there is no DM and no DR


@pytest.mark.parametrize(
    ("propensity", "named"),
    [
        (np.array([0.5, np.nan, 0.25, 0.5]), "1 of 4 logged choices have none"),
        (np.array([0.5, 0.0, 0.25, 1.5]), "2 of 4 logged choices have none"),
        (np.ones(4), "all 4 are 1, nothing was left to chance"),
    ],
)
def test_a_log_without_propensities_is_refused(propensity: np.ndarray, named: str) -> None:
    """With what to do about it: nothing that is computed from such a log could be right."""
    with pytest.raises(MissingPropensities, match=f"{named}; serve with exploration slots, log each"):
        feedback(propensity)


def test_what_is_no_policy_is_refused() -> None:
    """Probabilities add up to 1."""
    with pytest.raises(BadInputError, match="is no probability distribution"):
        estimate(feedback(), 2 * TARGET)


def test_no_row_helps_to_fit_its_own_model() -> None:
    """A label that nothing explains is not in its own row's q: it is fitted on the other folds."""
    rng = np.random.default_rng(0)
    n = 900
    features = rng.normal(size=(n, 2, 3))
    chosen, reward = rng.integers(0, 2, n), rng.integers(0, 2, n).astype(float)
    unit = np.repeat(np.arange(n // 3), 3)
    own = np.zeros((n, 2, n // 3))
    own[np.arange(n), :, unit] = 1.0  # the owner's name as columns: in-sample, it would learn the labels by heart

    q = cross_fitted(np.concatenate([features, own], axis=2), chosen, reward, unit)

    assert abs(np.corrcoef(q[np.arange(n), chosen], reward)[0, 1]) < 0.15


def test_rows_of_one_unit_are_drawn_together() -> None:
    """A user's rows copied ten times tell nothing new: the interval stays as wide."""
    rng = np.random.default_rng(1)
    n = 300
    reward, chosen = rng.integers(0, 2, n).astype(float), rng.integers(0, 2, n)
    target = np.full((n, 2), 0.5)

    def width(copies: int) -> float:
        repeated = (np.repeat(each, copies, axis=0) for each in (reward, np.full(n, 0.5), chosen, np.arange(n)))
        found = estimate(Feedback(*repeated), np.repeat(target, copies, axis=0)).values["ips"]
        return found.high - found.low

    assert width(10) == pytest.approx(width(1))
