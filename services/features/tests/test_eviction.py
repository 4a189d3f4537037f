"""Users who are not in memory: bounded memory, nothing lost, nothing that an erased user did left on the disk."""

from typing import TYPE_CHECKING, Any

import pytest
from features.log import Place
from features.loop import FeatureLoop
from millrace.events.v1 import events_pb2 as pb
from stores.errors import StoreUnavailable

if TYPE_CHECKING:
    from conftest import World
else:
    World = Any


@pytest.fixture(autouse=True)
def everybody_leaves(world: World) -> None:
    """At each checkpoint."""
    world.most_bytes = 1


def lived(world: World, events: int = 200) -> FeatureLoop:
    """A process that has read and saved some traffic."""
    world.traffic(1, events)
    loop = world.loop(checkpoint_s=1)
    loop.recover()
    world.settle(loop)
    return loop


def in_memory(world: World) -> int:
    return sum(len(each.state.users) for each in world.owned)


def test_whoever_left_returns_with_the_next_event(world: World) -> None:
    """And whoever has none stays away."""
    loop = lived(world)
    assert in_memory(world) == 0
    assert sum(evicted.written for evicted in world.evicted) == 11
    assert world.registry.get_sample_value("features_evicted_users_total", {"usecase": "shop"}) == 11

    world.event(9_001, user=4)
    loop.step()
    assert in_memory(world) == 1
    world.settle(loop)

    assert sum(evicted.found for evicted in world.evicted) == 1
    assert world.stored() == world.expected()[0]


def test_memory_stays_below_its_bound_and_who_came_last_stays(world: World) -> None:
    """Many more users than there is room for."""
    world.most_bytes = 200_000
    loop = world.loop(checkpoint_s=1)
    loop.recover()
    for event in range(1, 3_001):
        world.event(event, user=event)
        if event % 100 == 0:
            world.settle(loop)
            assert all(each.state.users.used_bytes <= world.most_bytes for each in world.owned)

    assert 0 < in_memory(world) < 1_500
    newest = [max(each.state.users.all_users().tolist()) for each in world.owned]
    assert sorted(newest) == [2_999, 3_000]
    assert world.stored() == world.expected()[0]


def test_a_restart_finds_them(world: World) -> None:
    """The checkpoint of a state whose users have left, and their attributes with them."""
    world.user(3, 41)
    loop = lived(world)
    world.event(9_001, user=3)
    world.settle(loop)  # a full checkpoint without the others

    again = world.loop()
    again.recover()
    world.traffic(2, 200)
    world.settle(again)

    assert world.stored() == world.expected()[0]


def test_an_emptied_store_gets_their_rows_too(world: World) -> None:
    """Under the epoch of whoever writes them."""
    loop = lived(world)
    world.store.clear()
    for _ in range(20):
        loop.step()

    assert world.stored() == world.expected()[0]
    epochs = {each.state.partition: each.epoch for each in world.owned}
    assert all(int.from_bytes(row[13:17], "little") == epochs[user % 2] for user, row in world.store.rows.items())


def test_nothing_of_an_erased_user_stays_on_the_disk(world: World) -> None:
    """The row that was written when the user left is replaced, also for one who is still in memory."""
    loop = lived(world)
    for each in world.owned:
        each.most_bytes = 1 << 40
    world.log.append(Place("shop", "users", 0), 2, pb.User(id=2, deleted=True))
    world.settle(loop)

    assert in_memory(world) == 1
    [rows] = (dict(rows.items()) for rows in world.evicted[0].all())
    assert rows[2] == world.expected()[0][2]
    assert len(rows[2]) < min(len(row) for user, row in rows.items() if user != 2)


def test_a_disk_that_takes_no_rows_keeps_the_users_in_memory(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the loop goes on, until it takes them again."""

    def full(*_: object) -> None:
        raise StoreUnavailable("no space left")

    with monkeypatch.context() as patched:
        patched.setattr("stores.online.lmdb.LmdbStore.write_rows", full)
        loop = lived(world)
        assert in_memory(world) == 11

    world.event(9_001, user=4)
    world.settle(loop)
    assert in_memory(world) == 0
    assert world.stored() == world.expected()[0]


def test_rows_that_are_newer_than_the_checkpoint_count_nothing_twice(world: World) -> None:
    """The newest checkpoint is damaged, so the log is read again from the one before; the rows know better."""
    loop = lived(world)
    for event, user in ((9_001, 4), (9_002, 5)):
        world.event(event, user=user)
    world.settle(loop)  # its checkpoint is without the others
    world.user(3, 41)
    world.traffic(2, 200)
    damaged = world.loop()
    damaged.recover()
    world.settle(damaged)
    for folder, each in zip(world.folders, world.owned, strict=True):
        (folder.root / str(each.epoch) / "checkpoint").write_bytes(b"damaged")

    last = world.loop()
    last.recover()
    assert [len(folder.damaged) for folder in world.folders] == [1, 1]
    world.settle(last)

    assert world.stored() == world.expected()[0]
