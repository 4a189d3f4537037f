"""The world in front of a stack (here fakes of ours): what it asks, what it publishes, and that it survives a kill."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from definitions.usecase import UseCase, find_usecase
from millrace.client import Accepted, Context, Entity, Event, Published, RankedItem, Ranking, Row, Unavailable
from prometheus_client import CollectorRegistry
from servicekit.settings import checkout_root
from simulator.catalogue import Catalogue
from simulator.errors import BadWorld, StackAway
from simulator.live import Live, Outcome, Plan
from simulator.metrics import Metrics
from simulator.profile import DAY_US, profile_of
from simulator.world import World, WorldSpec

SPEC = WorldSpec(profile_of("movies"), seed=3, users=30, items=60, candidates=20, horizon_us=4 * DAY_US)
FAR_US = SPEC.start_us + 400 * DAY_US


class FakeGateway:
    """Orders candidates by id; request ids count up."""

    def __init__(self, *, down: bool = False, strange: bool = False) -> None:
        self.asked: list[tuple[int, Context | None]] = []
        self._down, self._strange = down, strange

    def rank(self, usecase: str, user_id: int, item_ids: Sequence[int], **options: Any) -> Ranking:
        if self._down:
            raise Unavailable("nobody there")
        self.asked.append((user_id, options["context"]))
        ids = sorted(item_ids)[: options["limit"]]
        ids[-1] = 12345 if self._strange else ids[-1]
        items = tuple(RankedItem(each, 0.5, place, "requested") for place, each in enumerate(ids, start=1))
        return Ranking(len(self.asked), items, "MODEL", "m", 1, "", "", 0, Row(0, 0, 0), {})

    def recommend(self, usecase: str, user_id: int, **options: Any) -> Ranking:
        raise AssertionError("not asked for")


class FakeCollector:
    """Keeps what it is sent; goes away after so many calls of publish."""

    def __init__(self, dies_after: int = 10**9) -> None:
        self.events: list[Event] = []
        self.items: list[Entity] = []
        self.users: list[Entity] = []
        self._left = dies_after

    def publish(self, usecase: str, events: Sequence[Event], **_: Any) -> Published:
        self.events += events  # the answer may get lost after the events have landed
        self._left -= 1
        if self._left < 0:
            raise Unavailable("gone")
        return _taken(len(events))

    def put_items(self, usecase: str, items: Sequence[Entity], **_: Any) -> Published:
        self.items += items
        return _taken(len(items))

    def put_users(self, usecase: str, users: Sequence[Entity], **_: Any) -> Published:
        self.users += users
        return _taken(len(users))


def _taken(count: int) -> Published:
    return Published(tuple(Accepted(index, 0, index) for index in range(count)), ())


@pytest.fixture(scope="module")
def movies() -> UseCase:
    return find_usecase("movies", checkout_root() / "usecases")


def run(
    folder: Path, usecase: UseCase, collector: FakeCollector, requests: int, *, gateway: FakeGateway | None = None,
    now_us: int = FAR_US, spec: WorldSpec = SPEC,
) -> Outcome:  # fmt: skip
    world = World(spec)
    plan = Plan(folder, requests, rate=0, together=1, slots=5, now_us=lambda: now_us)
    live = Live(
        world, Catalogue(world, usecase), usecase.name, gateway or FakeGateway(), collector, plan,
        Metrics(CollectorRegistry()),
    )  # fmt: skip
    return live.run(lambda _: None)


def test_users_react_to_what_was_served(tmp_path: Path, movies: UseCase) -> None:
    """Each event answers a request at the place where the item stood, after it was asked, and never before its time."""
    gateway, collector = FakeGateway(), FakeCollector()
    outcome = run(tmp_path, movies, collector, 80, gateway=gateway)

    asked = {number: (user, context) for number, (user, context) in enumerate(gateway.asked, start=1)}
    assert 80 == len(asked) == outcome.requests
    assert outcome.events == len(collector.events) > 30
    names = {movies.action_names[event.action] for event in collector.events}
    assert {"click", "rate"} == names
    for event in collector.events:
        user, context = asked[event.request_id]
        assert context is not None
        assert context.time_us is not None
        assert event.user_id == user
        assert context.time_us < event.event_time_us <= outcome.clock_us
        assert 1 <= event.position <= 5
    assert 30 == len(collector.users)


def test_a_kill_loses_nothing_and_counts_nothing_twice(tmp_path: Path, movies: UseCase) -> None:
    """The collector dies with events half-way; the next run goes on, and by event_id the log is the undisturbed one."""
    whole = FakeCollector()
    for part in (30, 30):
        run(tmp_path / "whole", movies, whole, part)

    cut = FakeCollector(dies_after=0)
    with pytest.raises(StackAway, match="the collector: gone; is the stack up"):
        run(tmp_path / "cut", movies, cut, 30)
    survivor = FakeCollector()
    run(tmp_path / "cut", movies, survivor, 30)

    found = {event.event_id: replace(event, request_id=0) for event in [*cut.events, *survivor.events]}
    expected = {event.event_id: replace(event, request_id=0) for event in whole.events}
    assert len(cut.events) + len(survivor.events) > len(found)  # some were sent twice
    assert expected == found


def test_the_present_ends_the_world(tmp_path: Path, movies: UseCase) -> None:
    """The log refuses what is ahead of it."""
    now_us = SPEC.start_us + DAY_US
    collector = FakeCollector()
    outcome = run(tmp_path, movies, collector, 10_000, now_us=now_us)

    assert outcome.reached_now
    assert outcome.requests < 10_000
    assert all(event.event_time_us <= now_us for event in collector.events)
    assert outcome.waiting > 0  # stars that will be given later


def test_the_catalogue_follows_the_world(tmp_path: Path, movies: UseCase) -> None:
    """Items are put when they come and removed when they go; attributes are those of the use case, noisy."""
    collector = FakeCollector()
    spec = replace(SPEC, horizon_us=DAY_US)
    outcome = run(tmp_path, movies, collector, 150, spec=spec)
    world = World(spec)
    catalogue = Catalogue(world, movies)

    state = {entity.id: not entity.deleted for entity in collector.items}
    alive = world.alive(np.arange(SPEC.items), outcome.clock_us)
    assert set(catalogue.item_ids[alive].tolist()) == {item for item, there in state.items() if there}
    assert any(entity.deleted for entity in collector.items)
    assert {"title", "year", "genre"} == set(collector.items[0].attributes)
    assert {"age", "gender", "occupation"} == set(collector.users[0].attributes)
    assert not any(entity.embedding for entity in (*collector.items, *collector.users))


def test_the_truth_is_kept_where_the_run_is(tmp_path: Path, movies: UseCase) -> None:
    """A row of each shown item, joined to the gateway's impressions by request_id."""
    run(tmp_path, movies, FakeCollector(), 20)
    shown = pl.read_parquet(tmp_path / "truth" / "shown-*.parquet")

    assert 20 * 5 == len(shown)
    assert list(range(1, 21)) == sorted(shown["request_id"].unique().to_list())
    assert shown["click"].is_between(0, 1).all()


def test_unknown_items_are_nobodys(tmp_path: Path, movies: UseCase) -> None:
    """Another catalogue's items on the list: counted, and never clicked."""
    outcome = run(tmp_path, movies, FakeCollector(), 20, gateway=FakeGateway(strange=True))

    assert 20 == outcome.unknown_items


def test_a_gateway_that_is_away_ends_the_run(tmp_path: Path, movies: UseCase) -> None:
    """After 25 failures in a row, with what to look at."""
    with pytest.raises(StackAway, match="25 requests in a row failed: nobody there; is the stack up"):
        run(tmp_path, movies, FakeCollector(), 100, gateway=FakeGateway(down=True))


def test_a_run_of_another_world_is_not_continued(tmp_path: Path, movies: UseCase) -> None:
    """Its users would have another past."""
    run(tmp_path, movies, FakeCollector(), 5)

    with pytest.raises(BadWorld, match="is a run of another world"):
        run(tmp_path, movies, FakeCollector(), 5, spec=replace(SPEC, seed=4))
    (tmp_path / "run.npz").write_bytes(b"no run")
    with pytest.raises(BadWorld, match="is no saved run"):
        run(tmp_path, movies, FakeCollector(), 5)


def test_a_use_case_without_the_profiles_actions_is_refused(movies: UseCase) -> None:
    """With those that it has."""
    with pytest.raises(BadWorld, match="has no action watch, like, share, hide; use view, click, rate"):
        Catalogue(World(replace(SPEC, profile=profile_of("video"))), movies)
