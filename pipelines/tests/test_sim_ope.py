"""Off-policy intervals against worlds in which the target policy's value is known exactly."""

from dataclasses import dataclass

import numpy as np
import pytest
from pipelines.evaluation.ope import Estimates, Feedback, cross_fitted, estimate
from simulator.policies import ItemScorer, Softmax, ViewScorer
from simulator.profile import profile_of
from simulator.running import Kept, run
from simulator.truth import policy_value
from simulator.world import Views, World, WorldSpec

pytestmark = pytest.mark.sim

WORLDS = 50
USERS, LOGGED, REQUESTS, ITEMS = 6_000, 1_500, 2, 200


@dataclass(frozen=True)
class Judged:
    """What one world's log says of the target policy, what it says if propensities are made up, and the truth."""

    honest: Estimates
    made_up: Estimates
    truth: float


def judge(seed: int) -> Judged:
    """One item a request: a policy with whims of its own logs, one that goes by attributes alone is judged.

    The truth is that of all users on their own contexts; the log has a quarter of them.
    """
    spec = WorldSpec(profile_of("movies"), seed=seed, users=USERS, items=ITEMS, candidates=15)
    views = World(spec).views
    whims, matches = ItemScorer(np.random.default_rng(seed).normal(size=ITEMS)), ViewScorer(views)
    logging = Softmax(lambda requests: whims(requests) + 1.5 * matches(requests), 1, explore=0.3, seed=seed)
    kept = run(spec, logging, REQUESTS, truth=True)
    target = Softmax(matches, 1, temperature=0.5, explore=0.1).probabilities(kept.requests)
    logged = kept.requests.user < LOGGED
    feedback = logged_feedback(kept, logged)
    q = cross_fitted(features(kept, logged, views), feedback.chosen, feedback.reward, feedback.unit, seed=seed)
    uniform = Feedback(feedback.reward, np.full(len(q), 1 / spec.candidates), feedback.chosen, feedback.unit)
    return Judged(
        estimate(feedback, target[logged], q, resamples=400, seed=seed),
        estimate(uniform, target[logged], q, resamples=400, seed=seed),
        policy_value(kept, target),
    )


def logged_feedback(kept: Kept, logged: np.ndarray) -> Feedback:
    """The rows of `kept` as an estimator may see them; a user's requests are drawn together."""
    chosen = (kept.requests.candidates == kept.slates.items).argmax(axis=1)
    return Feedback(
        kept.clicked[logged, 0].astype(float),
        kept.slates.propensity[logged, 0],
        chosen[logged],
        kept.requests.user[logged],
    )


def features(kept: Kept, logged: np.ndarray, views: Views) -> np.ndarray:
    """What attributes tell of user and candidate: float64 (n, K, ...). Quality and mood are not among them."""
    item = views.item[kept.requests.candidates[logged]]
    user = views.user[kept.requests.user[logged]][:, None, :]
    return np.concatenate([item * user, item], axis=2)


@pytest.fixture(scope="module")
def worlds() -> list[Judged]:
    return [judge(seed) for seed in range(WORLDS)]


def covered(judged: list[Estimates], truths: list[float], method: str) -> int:
    return sum(
        each.values[method].low <= truth <= each.values[method].high  # type: ignore[index]
        for each, truth in zip(judged, truths, strict=True)
    )


@pytest.mark.parametrize("method", ["ips", "snips", "dr"])
def test_intervals_cover_the_true_value(worlds: list[Judged], method: str) -> None:
    """In at least 90 % of 50 worlds, at a nominal 95 %."""
    truths = [world.truth for world in worlds]

    assert covered([world.honest for world in worlds], truths, method) >= 0.9 * WORLDS


def test_made_up_propensities_miss_it(worlds: list[Judged]) -> None:
    """The cover above comes from the logged propensities: with uniform ones in their place it is gone."""
    truths = [world.truth for world in worlds]

    assert covered([world.made_up for world in worlds], truths, "ips") < 0.5 * WORLDS


def test_the_direct_methods_interval_is_too_sure(worlds: list[Judged]) -> None:
    """It knows nothing of its model's bias, so it covers less than DR, which corrects that model by what was logged."""
    truths = [world.truth for world in worlds]
    honest = [world.honest for world in worlds]

    assert covered(honest, truths, "dm") < covered(honest, truths, "dr")


def test_intervals_are_narrow_enough_to_tell_policies_apart(worlds: list[Judged]) -> None:
    """An interval that covers by being wide says nothing: DR always tells the target from a policy a fifth worse."""
    assert all(world.honest.values["dr"].low > 0.8 * world.truth for world in worlds)
    assert np.mean([w.honest.values["dr"].high - w.honest.values["dr"].low for w in worlds]) < 0.1
