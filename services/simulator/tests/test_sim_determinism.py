"""The same world, however it is cut into batches and spread over processes."""

from dataclasses import replace

import pytest
from simulator.policies import Greedy, Softmax, ViewScorer
from simulator.profile import profile_of
from simulator.running import run
from simulator.world import World, WorldSpec

pytestmark = pytest.mark.sim

SPEC = WorldSpec(profile_of("video"), seed=11, users=100, items=250)


@pytest.fixture(scope="module")
def policy() -> Softmax:
    return Softmax(ViewScorer(World(SPEC).views), slots=10)


@pytest.fixture(scope="module")
def whole(policy: Softmax) -> str:
    return run(SPEC, policy, 4, batch=100, truth=True).digest()


@pytest.mark.parametrize("batch", [1, 7, 64, 99])
def test_the_world_is_the_same_for_any_batch_size(policy: Softmax, whole: str, batch: int) -> None:
    """Every bit of what was asked, shown, likely and done."""
    assert whole == run(SPEC, policy, 4, batch=batch, truth=True).digest()


@pytest.mark.parametrize("workers", [2, 3])
def test_the_world_is_the_same_for_any_worker_count(policy: Softmax, whole: str, workers: int) -> None:
    """Processes share nothing but the spec."""
    assert whole == run(SPEC, policy, 4, batch=17, workers=workers, truth=True).digest()


def test_the_digest_sees_a_difference(policy: Softmax, whole: str) -> None:
    """Another seed, and another policy, are another history: equality above means something."""
    assert whole != run(replace(SPEC, seed=12), policy, 4, truth=True).digest()
    assert whole != run(SPEC, Greedy(policy.score, slots=10), 8, truth=True).digest()
