"""The consistency job on a small log: agreement below the offsets, lag as of t, and planted faults."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from definitions.assembly import RequestContext, assemble, past_items
from definitions.events import EventColumns
from definitions.impressions import packed
from definitions.item_snapshot import ItemSnapshot
from definitions.item_table import ItemTable
from definitions.layout import Layout, layout_of
from definitions.packed import UserRow, unpack_user_row
from definitions.usecase import UseCase
from definitions.user_state import UserTable
from definitions.user_values import UserAt
from millrace.events.v1 import events_pb2 as pb
from pipelines.consistency import run
from pipelines.errors import BadInputError
from pipelines.progress import Silent
from pipelines.training.recomputed import mismatch_of_logged
from stores.offline import Lake, app_id
from stores.offline.rows import impressions_table, interactions_table, items_table

LOG = "a-log"
BEGIN_US = 1_700_000_000_000_000
STEP_US = 100_000  # between events, on both clocks
USERS, ITEMS, PARTITIONS = 6, 8, 2
EVERY = 5  # events an emission


@dataclass
class World:
    """A stack in miniature: events come one by one, rows and markers only at emissions, rankings in between."""

    layout: Layout
    lake: Lake
    emit_every: int = EVERY
    shown_at: Callable[[int], int] = lambda time_us: time_us  # what `features` are evaluated at, a fault where not t
    impressions: list[tuple[int, pb.Impression]] = field(default_factory=list)
    rows: dict[int, UserRow] = field(default_factory=dict)
    keeps: Callable[[int], bool] = lambda _: True  # which events the online side folds
    logs: Callable[[pb.Impression], None] = lambda _: None  # a fault in what is logged

    def play(self, n: int, seed: int = 0) -> "World":
        """n events, a ranking after each, everything archived."""
        draw = np.random.default_rng(seed)
        users = draw.integers(1, USERS + 1, n)
        partition = (users % PARTITIONS).astype(np.int32)
        offsets = np.zeros(n, np.int64)
        for each in range(PARTITIONS):
            offsets[partition == each] = np.arange((partition == each).sum())
        times = BEGIN_US + STEP_US * np.arange(n)
        events = EventColumns.of(
            n, event_id=np.arange(1, n + 1), user_id=users, item_id=draw.integers(1, ITEMS + 1, n),
            action=draw.integers(0, 2, n), value=draw.integers(1, 6, n), event_time_us=times, partition=partition,
            offset=offsets, timestamp_us=times, category=draw.integers(0, 4, n),
        )  # fmt: skip
        items = [pb.Item(id=item, attributes={"year": pb.AttributeValue(number=1990 + item)}) for item in range(1, 9)]
        snapshot = ItemSnapshot(self.layout)
        for item in items:
            snapshot.put_item(item)
        tables = [(UserTable(self.layout), ItemTable(self.layout)) for _ in range(PARTITIONS)]
        for place in range(n):
            one = events.take(slice(place, place + 1))
            of_users, of_items = tables[partition[place]]
            if self.keeps(place):
                of_users.fold(one)
                of_items.fold(one)
            if place % self.emit_every == self.emit_every - 1:
                self._emit(tables, snapshot, events.take(slice(0, place + 1)))
            self._rank(int(users[place]), int(times[place] + draw.integers(0, 2) * STEP_US // 2), snapshot, place)
        self._archive(events, items)
        return self

    def _emit(self, tables: list[tuple[UserTable, ItemTable]], snapshot: ItemSnapshot, events: EventColumns) -> None:
        for partition, (of_users, of_items) in enumerate(tables):
            for user in of_users.take_dirty().tolist():
                self.rows[user] = unpack_user_row(self.layout, of_users.row(user, 1))
            for item in of_items.take_dirty().tolist():
                snapshot.apply(partition, item, of_items.partial(item))
            snapshot.mark(partition, 1 + int(events.offset[events.partition == partition].max(initial=-1)))

    def _rank(self, user_id: int, time_us: int, snapshot: ItemSnapshot, place: int) -> None:
        ids = np.arange(1, ITEMS + 1, dtype=np.uint64)
        row, at_us = self.rows.get(user_id), self.shown_at(time_us)
        user = UserAt(self.layout, row, at_us)
        view = snapshot.view(ids, at_us, past_items(user))
        made = assemble(user, view, RequestContext())
        n = len(ids)
        message = pb.Impression(
            request_id=place + 1, user_id=user_id, time_us=time_us, usecase="films", item_ids=ids.tolist(),
            scores=[0.0] * n, propensities=[1.0] * n, positions=range(1, n + 1), reasons=["requested"] * n,
            features=made.features.tobytes(), int_features=made.user_ints.tobytes() + made.item_ints.tobytes(),
            layout_hash=self.layout.layout_hash,
        )  # fmt: skip
        if row is not None:
            message.row.epoch, message.row.interactions_offset = 1, row.header.interactions_offset
        for partition, offset in view.markers.items():
            message.item_markers.add(partition=partition, offset=offset)
        self.logs(message)
        self.impressions.append((time_us + 1_000, message))

    def _archive(self, events: EventColumns, items: list[pb.Item]) -> None:
        for partition in range(PARTITIONS):
            part = events.take(events.partition == partition)
            self._append("interactions", partition, interactions_table(LOG, part), len(part))
        places = [(offset, BEGIN_US - 10**9) for offset in range(len(items))]
        self._append("items", 0, items_table(LOG, 0, places, items), len(items))
        shown = [(offset, arrived_us) for offset, (arrived_us, _) in enumerate(self.impressions)]
        messages = [message for _, message in self.impressions]
        self._append("impressions", 0, impressions_table(LOG, 0, shown, list(map(packed, messages))), len(messages))

    def _append(self, table: str, partition: int, rows: Any, version: int) -> None:
        self.lake.append(table, rows, app_id=app_id(LOG, f"films.{table}", partition), version=version)


@pytest.fixture
def world(films: UseCase, tmp_path: Path) -> World:
    """Empty, with a lake of its own."""
    return World(layout_of(films), Lake(tmp_path / "lake", "films"))


def test_what_was_served_agrees_below_its_offsets_and_lags_by_the_emission(world: World) -> None:
    """No value is wrong; some are behind, all of them by less than the second that is allowed."""
    found = run(world.play(120).layout, world.lake)

    assert (120, 0, True) == (found["impressions"], found["logic"], found["passed"])
    assert found["inexact"] == found["classes"]["tie"]  # of items only, see below
    assert (0.0, 0.0) == (found["mismatch_rate"], found["missing_rate"])
    assert found["inside_rate"] > 0.01
    assert 0 < found["oldest_missing_s"] <= 1
    assert found["features"]["u_rated_all"]["lag"] > 0
    assert 0 < found["features"]["u_rated_all"]["smape"] < 1


def test_facts_that_stay_unknown_for_longer_than_the_tolerance_are_mismatches(world: World) -> None:
    """Two seconds between emissions show as two seconds of lag, in the features and as a rate; nothing is `logic`."""
    world.emit_every = 25
    found = run(world.play(120).layout, world.lake)

    assert 0 == found["logic"]
    assert found["mismatch_rate"] > 0.01
    assert 2.0 <= found["oldest_missing_s"] <= 2.5
    assert found["missing_rate"] > 0  # users whose first row was still to come


def test_a_feature_that_counts_events_at_its_own_time_is_caught(world: World) -> None:
    """The planted `<=`: evaluated a microsecond later, so that the events of the ranking's own time count."""
    world.emit_every = 1  # the row knows the very event of the ranking's time
    world.shown_at = lambda time_us: time_us + 1
    found = run(world.play(60).layout, world.lake)

    assert found["logic"] > 0
    assert not found["passed"]
    assert {"u_rated_all"} <= {example["feature"] for example in found["examples"]}


def test_a_feature_that_reads_past_its_offsets_is_caught(world: World) -> None:
    """The label's own event inside its features: the row says an older offset than what it was made of."""

    def older(message: pb.Impression) -> None:
        message.row.interactions_offset = max(0, message.row.interactions_offset - 1)

    world.emit_every, world.logs = 1, older
    world.shown_at = lambda time_us: time_us + STEP_US  # strictly after the event
    found = run(world.play(60).layout, world.lake)

    assert found["logic"] > 0
    assert not found["passed"]


def test_a_dropped_event_is_caught(world: World) -> None:
    """The online side never folded one event below its offsets; everybody else's features are right."""
    world.keeps = lambda place: place != 20
    found = run(world.play(120).layout, world.lake)

    assert found["logic"] > 0
    assert found["classes"]["logic"] == found["logic"]


def test_ties_of_items_have_a_class_of_their_own(world: World) -> None:
    """An item has no record of single events: those of the ranking's own time stay in it, and are counted as `tie`."""
    world.emit_every = 1
    found = run(world.play(60).layout, world.lake)

    assert (0, True) == (found["logic"], found["classes"]["tie"] > 0)
    assert 0 == found["features"]["u_rated_all"]["tie"]


def test_impressions_of_another_layout_or_an_empty_lake_are_named(world: World) -> None:
    """What cannot be compared is counted by reason, never taken for agreement."""
    with pytest.raises(BadInputError, match="no impressions to compare"):
        run(world.layout, world.lake)
    world.play(30)
    with pytest.raises(BadInputError, match="30 another layout"):
        run(layout_of(without_year(world.layout.usecase)), world.lake)


def without_year(usecase: UseCase) -> UseCase:
    """The same use case with one feature less."""
    return usecase.model_copy(update={"features": tuple(each for each in usecase.features if each.name != "i_year")})


def test_a_training_publishes_how_far_logged_rows_are_from_a_backfill(world: World, tmp_path: Path) -> None:
    """The job's own figures and report, and nothing where nothing can be compared."""
    notes: list[str] = []

    class Heard(Silent):
        def note(self, text: str) -> None:
            notes.append(text)

    assert mismatch_of_logged(world.layout, world.lake, progress=Heard()) is None
    assert "no impressions to compare" in notes[0]
    world.play(60)

    told = mismatch_of_logged(world.layout, world.lake, tmp_path, impressions=30)

    assert told is not None
    whole = run(world.layout, world.lake, impressions=30)
    assert whole["mismatch_rate"] == told["mismatch_rate"]
    assert (30, 0) == (told["impressions"], told["logic"])
    assert json.loads(Path(told["report"]).read_text())["features"]
