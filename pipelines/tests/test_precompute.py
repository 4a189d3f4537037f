"""Nightly lists against SQLite and LMDB: what is in a list, and what a cut-off run leaves."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from bundle import Bundle
from definitions.events import EventColumns
from definitions.features import LastK
from definitions.item_snapshot import ItemSnapshot
from definitions.item_table import ItemTable
from definitions.layout import Layout, layout_of
from definitions.rules import Rules
from definitions.serving_rules import ServingRules
from definitions.usecase import UseCase
from definitions.usecase_parts import Seen
from definitions.user_state import UserTable
from millrace.events.v1 import events_pb2 as pb
from pipelines.errors import BadInputError, UnavailableError
from pipelines.precompute import Generation, Plan, precompute
from pipelines.progress import SILENT
from pipelines.retrieval.export import export_neighbours
from pipelines.retrieval.item_item import ItemItem
from stores.batch import UserList
from stores.batch.sqlite import SqliteBatchStore
from stores.errors import RunConflict, StoreUnavailable
from stores.online import OnlineStore, open_online

RUN = "20260131T020000Z"
USERS = 250  # three buckets
ITEMS = range(501, 521)
RATE = 1
NOW_US = 1_000_000_000
WEIGHT = 0.1


def year(item: int) -> int:
    """Few different ones, so that scores tie across popularity."""
    return item % 3


class Store(SqliteBatchStore):
    """Notes which buckets are written; the power fails before the bucket that would be number `fails_at`."""

    def __init__(self, path: Path, fails_at: int | None = None) -> None:
        super().__init__(path)
        self.written: list[int] = []
        self.fails_at = fails_at

    def write_bucket(self, usecase: str, run_id: str, bucket: int, rows: Sequence[UserList]) -> None:
        if len(self.written) == self.fails_at:
            raise StoreUnavailable("the power fails")
        super().write_bucket(usecase, run_id, bucket, rows)
        self.written.append(bucket)


@dataclass
class World:
    """What a night reads: rows, items, a model."""

    layout: Layout
    bundle: Bundle
    events: EventColumns
    rows: OnlineStore
    items: ItemSnapshot
    said: dict[str, Any] = field(default_factory=lambda: {"candidates": {"sources": ["popular"], "limit": 15}})

    @property
    def rules(self) -> ServingRules:
        return ServingRules(Rules.model_validate(self.said), self.layout)

    def run(self, store: SqliteBatchStore, **plan: Any) -> Generation:
        asked = Plan("films", **{"run_id": RUN, "time_us": NOW_US, "list_length": 8, **plan})
        return precompute(
            asked, self.layout, self.bundle, self.rules, self.rows, self.items, store, threads=1,
            progress=SILENT.advance,
        )  # fmt: skip


@pytest.mark.skipif("CUDAExecutionProvider" in ort.get_available_providers(), reason="this ONNX Runtime has CUDA")
def test_a_night_on_a_gpu_that_is_not_there_ends_before_it_begins(world: "World", tmp_path: Path) -> None:
    """With what to install; no generation is begun, and nothing runs on the CPU instead."""
    store = Store(tmp_path / "batch.sqlite")
    store.ensure_schema()
    asked = Plan("films", RUN, NOW_US)

    with pytest.raises(UnavailableError, match="make gpu"):
        precompute(
            asked, world.layout, world.bundle, world.rules, world.rows, world.items, store, threads=1, device="cuda",
            progress=SILENT.advance,
        )  # fmt: skip

    assert store.run("films", RUN) is None
    store.close()


@pytest.fixture
def world(films: UseCase, make_bundle: Callable[..., Bundle], tmp_path: Path) -> Iterator[World]:
    """The model likes late years, and there are three of them."""
    layout = layout_of(films.model_copy(update={"seen": Seen(actions=("rate",))}))
    made_of_it = made(layout, make_bundle(layout, {"i_year": WEIGHT}), tmp_path)
    yield made_of_it
    made_of_it.rows.close()


def made(layout: Layout, bundle: Bundle, tmp_path: Path) -> World:
    """Ratings of 250 users; each has rated a few items."""
    chance = np.random.default_rng(0)
    users = np.repeat(np.arange(1, USERS + 1), 2)
    events = EventColumns.of(
        len(users),
        event_id=range(1, len(users) + 1),
        user_id=users,
        item_id=ITEMS.start + np.minimum(chance.geometric(0.15, len(users)) - 1, len(ITEMS) - 4),  # three have none
        action=[RATE] * len(users),
        value=[5.0] * len(users),
        event_time_us=np.arange(len(users)) + 1,
        offset=range(len(users)),
    )
    user_table, item_table, items = UserTable(layout), ItemTable(layout), ItemSnapshot(layout)
    user_table.fold(events)
    item_table.fold(events)
    for item in ITEMS:
        items.put_item(pb.Item(id=item, attributes={"year": pb.AttributeValue(number=year(item))}))
    for item in item_table.all_items().tolist():
        items.apply(0, item, item_table.partial(item))
    items.mark(0, len(users))
    rows = open_online("films", valkey=None, lmdb_path=tmp_path / "online")
    rows.write({user: user_table.row(user, 1) for user in user_table.all_users().tolist()})
    return World(layout, bundle, events, rows, items)


def test_a_list_holds_the_best_unseen_candidates_and_ties_go_by_id(world: World, tmp_path: Path) -> None:
    """Candidates are the most popular that the user has not rated; scores are the model's, best first."""
    store = Store(tmp_path / "batch.sqlite")

    generation = world.run(store)

    ratings = Counter(world.events.item_id.tolist())
    popular = sorted(ITEMS, key=lambda item: (-ratings[item], item))
    for user in range(1, USERS + 1):
        rated = set(world.events.item_id[world.events.user_id == user].tolist())
        candidates = [item for item in popular if item not in rated][:15]
        best = sorted(candidates, key=lambda item: (-year(item), item))[:8]
        found = store.read("films", RUN, user)
        assert found is not None
        assert best == found.item_ids.tolist()
        expected = [1 / (1 + np.exp(-WEIGHT * year(item))) for item in best]
        np.testing.assert_allclose(expected, found.scores, rtol=1e-5)
    assert (USERS, USERS) == (generation.summary.users, generation.summary.rows)
    assert "films/1" == generation.model_version


def test_a_list_comes_from_the_sources_of_the_rules(
    films: UseCase, make_bundle: Callable[..., Bundle], tmp_path: Path
) -> None:
    """What is near to a user's last items is on the list, however few like it; those who met nothing near lack it."""
    recent = LastK(name="u_recent", of="user", kind="last_k", action="rate", k=4)
    layout = layout_of(
        films.model_copy(update={"features": (*films.features, recent), "seen": Seen(actions=("rate",))})
    )
    ids = np.array(ITEMS, np.uint64)
    near = np.zeros((len(ids), len(ids)), np.float32)
    near[0, -1] = 1.0  # who rated the first may like the last, which nobody rated
    export_neighbours(ItemItem(near), ids, tmp_path)
    bundle = make_bundle(layout, {"i_year": WEIGHT}, also=[tmp_path / "neighbours.npz"])
    world = made(layout, bundle, tmp_path)
    world.said = {"candidates": {"sources": [{"neighbours": 0.4}, {"popular": 0.6}], "limit": 10}}
    store = Store(tmp_path / "batch.sqlite")

    world.run(store, list_length=10)

    lists = {user: store.read("films", RUN, user).item_ids.tolist() for user in range(1, USERS + 1)}  # type: ignore[union-attr]
    rated_first = set(world.events.user_id[world.events.item_id == ITEMS[0]].tolist())
    assert 0 < len(rated_first) < USERS
    assert rated_first == {user for user, items in lists.items() if ITEMS[-1] in items}
    world.rows.close()


def test_a_list_holds_nothing_that_a_filter_forbids(world: World, tmp_path: Path) -> None:
    """Whoever reads the store beside the gateway shows it as it is; the list is filled with what may be shown."""
    world.said |= {"filters": [{"by": "year", "at_most": 1}]}
    store = Store(tmp_path / "batch.sqlite")

    world.run(store)

    for user in range(1, USERS + 1):
        found = store.read("films", RUN, user)
        assert found is not None
        assert 8 == len(found.item_ids)
        assert not [item for item in found.item_ids.tolist() if year(item) > 1]


def test_a_run_that_was_cut_off_goes_on_and_ends_as_if_it_had_not_been(world: World, tmp_path: Path) -> None:
    """Readers see nothing of it before; afterwards it is the generation of one calm run, bit by bit."""
    calm = world.run(Store(tmp_path / "calm.sqlite"))
    first = Store(tmp_path / "batch.sqlite", fails_at=1)

    with pytest.raises(StoreUnavailable):
        world.run(first)
    assert first.pointer("films") is None
    second = Store(tmp_path / "batch.sqlite")
    generation = world.run(second)

    assert ([0], [1, 2]) == (first.written, second.written)
    assert 1 == generation.resumed_buckets
    assert calm.summary == generation.summary
    assert second.pointer("films") == generation.pointer


def test_a_finished_run_changes_nothing(world: World, tmp_path: Path) -> None:
    """The same id again, at a later time and after more events, writes no row and moves no pointer."""
    store = Store(tmp_path / "batch.sqlite")
    first, before = world.run(store), store.read("films", RUN, 1)
    written = list(store.written)

    again = world.run(store, time_us=2 * NOW_US)

    assert written == store.written
    assert (first.summary, first.pointer) == (again.summary, again.pointer)
    assert before == store.read("films", RUN, 1)


@pytest.mark.parametrize("fails_at", [1, None], ids=["cut off", "finished"])
def test_users_who_came_since_do_not_stop_a_run(world: World, tmp_path: Path, fails_at: int | None) -> None:
    """A run keeps the number of buckets that it began with; who came too late is in the next one."""
    first = Store(tmp_path / "batch.sqlite", fails_at)
    with suppress(StoreUnavailable):
        world.run(first)
    newcomer = UserTable(world.layout).row(0, 1)
    world.rows.write(dict.fromkeys(range(1000, 1000 + USERS), newcomer))

    generation = world.run(Store(tmp_path / "batch.sqlite"))

    assert len(first.written) == generation.resumed_buckets
    assert (USERS if fails_at is None else 2 * USERS) >= generation.summary.users >= USERS


def test_the_next_night_keeps_the_last_one_to_return_to(world: World, tmp_path: Path) -> None:
    """The pointer names both."""
    store = Store(tmp_path / "batch.sqlite")
    world.run(store)

    pointer = world.run(store, run_id="20260201T020000Z").pointer

    assert ("20260201T020000Z", RUN) == (pointer.run_id, pointer.previous_run_id)


def test_a_run_belongs_to_one_model(world: World, make_bundle: Callable[..., Bundle], tmp_path: Path) -> None:
    """Half of a generation by one version and half by another would be nobody's answer."""
    store = Store(tmp_path / "batch.sqlite", fails_at=1)
    with pytest.raises(StoreUnavailable):
        world.run(store)
    world.bundle = make_bundle(world.layout, {"i_year": WEIGHT}, version=2)

    with pytest.raises(RunConflict, match="films/1"):
        world.run(Store(tmp_path / "batch.sqlite"))


def test_a_model_of_another_layout_and_an_empty_stack_are_refused(
    world: World, films: UseCase, make_bundle: Callable[..., Bundle], tmp_path: Path
) -> None:
    """Both say what to do, and no run is begun."""
    store = Store(tmp_path / "batch.sqlite")
    world.bundle = make_bundle(layout_of(films), {}, version=2)  # without `seen`
    with pytest.raises(BadInputError, match="train and deploy again"):
        world.run(store)
    world.rows.clear()
    with pytest.raises(BadInputError, match="0 user rows and 20 items; load data first"):
        world.run(store)

    assert [] == store.runs("films")
