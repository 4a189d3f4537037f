"""From options to a run: the same for the process and for the command."""

import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from definitions.usecase import UseCase
from millrace.client import EventClient, RankingClient
from prometheus_client import CollectorRegistry

from simulator import saved
from simulator.catalogue import Catalogue
from simulator.live import Live, Outcome, Plan
from simulator.metrics import Metrics
from simulator.profile import DAY_US, Profile, load_profile, profile_of
from simulator.world import World, WorldSpec

CANDIDATES = 40  # of one request; at most the items


def profile_for(usecase: UseCase, path: Path | None) -> Profile:
    """The profile at `path`, or the use case's own. Raises BadWorld."""
    return profile_of(usecase.name) if path is None else load_profile(path)


def spec_for(
    folder: Path, profile: Profile, *, seed: int, users: int, items: int, days: float, fresh: bool
) -> WorldSpec:
    """A world that begins `days` ago, or where the saved run in `folder` began; `fresh` removes that run.

    Raises:
        BadWorld: the saved run is damaged.
    """
    if fresh:
        shutil.rmtree(folder, ignore_errors=True)
    began_us = saved.start_of(Plan(folder, 0).file)
    start_us = time.time_ns() // 1_000 - round(days * DAY_US) if began_us is None else began_us
    spec = WorldSpec(profile, seed=seed, users=users, items=items, candidates=min(CANDIDATES, items))
    return replace(spec, start_us=start_us, horizon_us=round(days * DAY_US))


def folder_of(worlds: Path, usecase: UseCase, seed: int) -> Path:
    """Where the run of one use case and seed lies."""
    return worlds / f"{usecase.name}-{seed}"


def drive(
    spec: WorldSpec,
    usecase: UseCase,
    gateway: str,
    collector: str,
    plan: Plan,
    *,
    progress: Callable[[int], None],
    stop: Callable[[], bool],
    metrics: Metrics | None = None,
) -> Outcome:
    """Run `plan` against the gateway and the collector at these addresses (host:port); without `metrics`, uncounted.

    Raises:
        BadWorld: the folder holds another world's run, or the use case lacks the profile's actions.
        StackAway: gateway or collector do not answer.
    """
    world = World(spec)
    catalogue, counted = Catalogue(world, usecase), metrics or Metrics(CollectorRegistry())
    with RankingClient(gateway) as ranking, EventClient(collector) as events:
        return Live(world, catalogue, usecase.name, ranking, events, plan, counted).run(progress, stop)
