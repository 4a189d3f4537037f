"""The short form of `make chaos-features`: each named place killed at once, one zombie a service."""

from pathlib import Path

import pytest
from chaos.exactly_once import Plan, run
from servicekit.failpoints import POINTS

pytestmark = pytest.mark.chaos


def test_kills_at_every_place_and_zombies_change_nothing(tmp_path: Path) -> None:
    """Lost 0, double 0, state byte-equal to an undisturbed run; a place that is never reached fails."""
    plan = Plan(seed=3, kills=len(POINTS) + 1, events=20_000, zombies=3, stop_s=10.0)

    found = run(plan, tmp_path, print)

    assert found["details"] == []
    assert (found["lost"], found["duplicates"], found["state_mismatches"]) == (0, 0, 0)
    assert found["zombie_clean"] == found["zombies"] == plan.zombies
    assert found["slept_s"] >= plan.stop_s
    assert found["not_reached"] == []
    assert found["kills"] >= plan.kills
