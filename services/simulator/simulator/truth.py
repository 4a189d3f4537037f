"""The truth as files, and what it says of policies. For evaluation only: nothing that serves or trains reads it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl

from simulator.policies import best_first
from simulator.reacting import Slates, chances
from simulator.running import Kept, simulate
from simulator.world import Floats, Ints, Requests, State, World, WorldSpec

POSITIONS: Final = 100  # of the examination table


@dataclass(frozen=True)
class Omniscient:
    """Serves the candidates of highest true utility first: no ranker of these requests expects more from the next list.

    It looks one request ahead only; what a list does to later interests is not planned for.
    """

    world: World
    state: State
    slots: int

    def serve(self, requests: Requests) -> Slates:
        """Lists of `slots` different candidates."""
        truth = chances(self.world, self.state, requests, requests.candidates, np.ones(1, np.int64))
        items = best_first(truth.attraction * truth.worth, requests.candidates)[:, : self.slots]
        return Slates(items, np.ones(items.shape), np.zeros(len(requests), np.uint64))


def ceiling(spec: WorldSpec, requests_each: int, slots: int) -> Kept:
    """What the omniscient ranker gets; its mean of `utility.sum(axis=1)` is the ceiling of a request."""
    world = World(spec)
    state = world.begin()
    return simulate(world, state, Omniscient(world, state, slots), range(spec.users), requests_each, truth=False)


def policy_value(kept: Kept, probabilities: Floats) -> float:
    """Expected first reactions a request of a policy that fills one slot, on the contexts of `kept`: exact, no sample.

    `probabilities` float64 (n, K): the policy's, of each candidate. `kept` must hold the attraction.
    """
    return float((probabilities * kept.attraction).sum(axis=1).mean())


def write_world(folder: Path, world: World) -> None:
    """`items`, `users`, `examination` and `drift` as Parquet: what does not depend on what is served."""
    folder.mkdir(parents=True, exist_ok=True)
    spec = world.spec
    pl.DataFrame(
        {
            "item": np.arange(spec.items),
            "factors": world.factors,
            "category": world.category,
            "quality": world.quality,
            "born_us": world.born_us,
            "dies_us": world.dies_us,
        }
    ).write_parquet(folder / "items.parquet")
    pl.DataFrame({"user": np.arange(spec.users), "interests": world.interests, "device": world.device}).write_parquet(
        folder / "users.parquet"
    )
    surface, position = np.meshgrid(np.arange(1, 1 + len(spec.profile.surfaces)), np.arange(1, 1 + POSITIONS))
    at_start = np.full(surface.shape, spec.start_us)
    pl.DataFrame(
        {
            "surface": surface.ravel(),
            "name": [spec.profile.surfaces[code - 1].name for code in surface.ravel().tolist()],
            "position": position.ravel(),
            "examination": world.examination(surface, position, at_start).ravel(),
        }
    ).sort("surface", "position").write_parquet(folder / "examination.parquet")
    pl.DataFrame(
        [
            {"kind": each.kind, "begins_us": spec.start_us + each.at_us, "ramp_us": each.ramp_us, "size": each.size}
            for each in spec.profile.drift
        ],
        schema={"kind": pl.String, "begins_us": pl.Int64, "ramp_us": pl.Int64, "size": pl.Float64},
    ).write_parquet(folder / "drift.parquet")


def write_kept(folder: Path, kept: Kept, part: int = 0) -> None:
    """`shown`, and where `kept` has them `candidates` and `interests`, as numbered parts: one row each of them."""
    folder.mkdir(parents=True, exist_ok=True)
    requests, slates = kept.requests, kept.slates
    shown = _rows(requests, slates.items) | {
        "position": np.tile(1 + np.arange(slates.items.shape[1]), len(kept)),
        "propensity": slates.propensity.ravel(),
        "request_id": np.repeat(slates.request_id, slates.items.shape[1]),
        "examined": kept.examined.ravel(),
        "click": kept.click.ravel(),
        "utility": kept.utility.ravel(),
        "clicked": kept.clicked.ravel(),
    }
    pl.DataFrame(shown).filter(pl.col("item") >= 0).write_parquet(folder / f"shown-{part:06d}.parquet")
    if kept.attraction.shape[1]:
        candidates = _rows(requests, requests.candidates) | {"attraction": kept.attraction.ravel()}
        pl.DataFrame(candidates).write_parquet(folder / f"candidates-{part:06d}.parquet")
    if kept.interests.shape[1]:
        interests = {"user": requests.user, "time_us": requests.time_us, "interests": kept.interests}
        pl.DataFrame(interests).write_parquet(folder / f"interests-{part:06d}.parquet")


def _rows(requests: Requests, items: Ints) -> dict[str, Ints]:
    """The columns that say which request and item a row is about."""
    names = ("user", "ordinal", "time_us", "surface", "device")
    return {name: np.repeat(getattr(requests, name), items.shape[1]) for name in names} | {"item": items.ravel()}
