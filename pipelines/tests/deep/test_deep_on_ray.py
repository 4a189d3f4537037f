"""Training and search on a local Ray. `make ray` runs it, in an environment that has Ray and torch."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

ray = pytest.importorskip("ray", reason="ray is a dependency group of its own: make ray")

from pipelines.deep.heads import Head  # noqa: E402  only where there is a Ray
from pipelines.deep.models import Shape  # noqa: E402
from pipelines.deep.on_ray import fit_on_ray, search_on_ray  # noqa: E402
from pipelines.deep.rankers import Plan, fit_network  # noqa: E402
from pipelines.deep.trainer import Recipe  # noqa: E402

from .small_world import World  # noqa: E402

pytestmark = pytest.mark.deep

PLAN = Plan(Shape(width=4, hidden=(16,), layers=1), Recipe(batch=500, epochs=2, rate=0.01))


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
    yield
    ray.shutdown()


@pytest.mark.parametrize("shard_bytes", [0, 2**30], ids=["sharded", "copies"])
def test_actors_train_as_one_process(cluster: None, world: World, shard_bytes: int) -> None:
    """The same loss at each step to 1e-4."""
    parts = (world.columns, world.fit, world.valid, [Head("label")])
    one = fit_network("dcn_v2", *parts, plan=PLAN, seed=2)

    pair = fit_on_ray("dcn_v2", *parts, processes=2, plan=PLAN, seed=2, shard_bytes=shard_bytes)

    np.testing.assert_allclose(one.state.curve, pair.state.curve, rtol=1e-4)
    rows = (world.valid.features, world.valid.ints)
    np.testing.assert_allclose(one.score(*rows), pair.score(*rows), atol=1e-3)


def test_a_search_is_the_same_whichever_task_ends_first(cluster: None) -> None:
    """Rounds of two, told in order; it comes near the least."""

    def bowl(settings: dict[str, Any]) -> float:
        return float((settings["x"] - 3) ** 2)

    studies = [
        search_on_ray(bowl, lambda trial: {"x": trial.suggest_float("x", -10, 10)}, trials=21, at_once=2, seed=1)
        for _ in range(2)
    ]

    assert [trial.params for trial in studies[0].trials] == [trial.params for trial in studies[1].trials]
    assert 21 == len(studies[0].trials)
    assert studies[0].best_value < 1
