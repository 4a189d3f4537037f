"""The truth as files: complete, and consistent with what happened."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
from simulator.policies import Softmax, no_scores
from simulator.profile import Drift, profile_of
from simulator.running import run
from simulator.truth import policy_value, write_kept, write_world
from simulator.world import World, WorldSpec

PROFILE = profile_of("movies")
DRIFT = Drift.model_validate({"kind": "clicks", "at": "2d", "size": -1.0})
SPEC = WorldSpec(PROFILE.model_copy(update={"drift": (DRIFT,)}), seed=2, users=50, items=80, candidates=20)


def test_the_files_say_how_likely_everything_was(tmp_path: Path) -> None:
    """Click = examination of the position x attraction of the item, for each shown item at its time and place."""
    kept = run(SPEC, Softmax(no_scores, slots=5), 3, truth=True)
    write_world(tmp_path, World(SPEC))
    write_kept(tmp_path, kept)
    shown, candidates = (pl.read_parquet(tmp_path / f"{name}-000000.parquet") for name in ("shown", "candidates"))
    examination = pl.read_parquet(tmp_path / "examination.parquet")
    found = shown.join(candidates, on=["user", "ordinal", "item"]).join(examination, on=["surface", "position"])

    assert 50 * 3 * 5 == len(shown) == len(found)
    assert np.allclose(found["click"], found["examination"] * found["attraction"])
    assert [(SPEC.start_us + DRIFT.at_us, -1.0)] == pl.read_parquet(tmp_path / "drift.parquet")[
        ["begins_us", "size"]
    ].rows()
    assert {80} == {len(pl.read_parquet(tmp_path / "items.parquet"))}
    assert (50 * 3, 8) == np.stack(pl.read_parquet(tmp_path / "interests-000000.parquet")["interests"].to_list()).shape


def test_the_value_of_a_policy_is_what_it_gets() -> None:
    """The exact value of a one-slot policy on its own contexts is the mean chance of what it showed, but for luck."""
    spec = replace(SPEC, users=4_000)
    policy = Softmax(no_scores, slots=1)
    kept = run(spec, policy, 1, truth=True)
    exact = policy_value(kept, policy.probabilities(kept.requests))

    assert abs(exact - kept.click.mean()) < 4 * kept.click.std() / len(kept) ** 0.5
