"""The loop's promises: everything counts once, rows never step back, and what is emitted is seen at once."""

import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from definitions.packed import unpack_user_row
from definitions.packed_rows import PackedRows
from definitions.record_columns import RecordColumns
from definitions.records import corrupt_batch
from definitions.row_header import read_header
from definitions.user_state import UserTable
from features.emission import RowPace
from features.errors import CheckpointUnusable, LeaseLost, OffsetGone, StoreAhead
from features.log import Batch, Place

if TYPE_CHECKING:
    from conftest import World
else:
    World = Any

PLACE = Place("shop", "interactions", 1)


def seen(world: World, user: int) -> int:
    """How many views the online row of a user has counted, -1 without a row."""
    row = world.store.rows.get(user)
    return -1 if row is None else unpack_user_row(world.layout, row).state().totals[0]


def test_events_are_online_after_the_first_empty_poll(world: World) -> None:
    """No timer stands between an idle loop and the reader."""
    loop = world.loop()
    loop.recover()
    for number in range(1, 4):
        before = world.clock.now
        world.event(number, user=5)
        for _ in range(2):
            if seen(world, 5) < number:
                loop.step()
        assert seen(world, 5) == number
        assert world.clock.now - before < 0.01


def test_under_steady_traffic_rows_wait_at_most_a_tenth_of_a_second(world: World) -> None:
    """A poll that always brings something must not starve readers, and need not write each time."""
    world.log.most = 1
    loop = world.loop()
    loop.recover()
    for number in range(1, 61):
        world.event(number, user=5)

    counts = []
    for _ in range(50):
        loop.step()
        world.clock.now += 0.01
        counts.append(seen(world, 5))

    assert 3 <= len(world.store.writes) <= 5
    assert all(turn - count <= 12 for turn, count in enumerate(counts))  # 10 ms a turn


def test_an_idle_loop_leaves_rows_alone_that_are_written_beside_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each look takes the interpreter from the writing. What comes meanwhile follows once that has ended."""
    monkeypatch.setattr(type(world), "rows", RowPace(inline_rows=0))
    may_write, write_rows = threading.Event(), world.store.write_rows
    monkeypatch.setattr(world.store, "write_rows", lambda *rows: write_rows(*rows) if may_write.wait(30) else 0)
    loop = world.loop()
    loop.recover()
    world.event(1, user=5)
    for _ in range(3):  # read, begin to write, and go round once
        loop.step()

    before = world.clock.now
    for _ in range(5):
        loop.step()
    assert world.clock.now - before > 3 * RowPace().look_s  # item partials are due between

    world.event(2, user=5)
    loop.step()
    assert seen(world, 5) == -1
    may_write.set()
    for _ in range(3):  # end it, begin the next, end that
        world.loop_writer_rests()
        loop.step()
    assert seen(world, 5) == 2


def test_items_follow_when_idle_and_end_with_their_marker(world: World) -> None:
    """A reader applies up to the marker, whose offset says what is in."""
    loop = world.loop()
    loop.recover()
    world.event(1, user=5, item=9)
    world.event(2, user=5, item=8)

    for _ in range(5):
        loop.step()
    world.topic.flush()

    partition = world.owned[1].state
    assert world.topic.records == [
        (1, 1, 8, partition.items.partial(8)),
        (1, 1, 9, partition.items.partial(9)),
        (1, 1, 0, 2),
    ]


def test_bad_records_and_repeats_are_counted_and_change_nothing(world: World) -> None:
    """Skipped by the one function; the archiver writes their dead letters."""
    loop = world.loop()
    loop.recover()
    world.event(1, user=5)
    world.event(1, user=5)
    world.log.append(PLACE, 5, b"\xff")
    world.event(2, user=5, action=9)

    world.settle(loop)

    assert seen(world, 5) == 1
    sample = world.registry.get_sample_value
    labels = {"usecase": "shop", "topic": "interactions"}
    assert sample("features_duplicates_total", {"usecase": "shop"}) == 1
    assert sample("features_bad_total", labels | {"reason": "malformed"}) == 1
    assert sample("features_bad_total", labels | {"reason": "unknown_action"}) == 1
    assert sample("features_events_total", labels) == 1


def test_a_broken_batch_is_counted_and_passed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its offsets count as read, also after a restart: the archiver writes its dead letter."""
    loop = world.loop()
    loop.recover()
    lost = Batch(PLACE, RecordColumns.of([]), 7, lost=[corrupt_batch(3, 6, "checksum", b"raw")])
    monkeypatch.setattr(world.reader, "poll", lambda _: [lost])

    loop.step()
    loop.checkpoint()

    labels = {"usecase": "shop", "topic": "interactions", "reason": "corrupt_batch"}
    assert world.registry.get_sample_value("features_bad_total", labels) == 1
    assert world.folders[1].newest(world.layout.layout_hash)[-1].offsets["interactions"] == 7


def test_a_restart_reads_on_where_the_checkpoint_ends(world: World) -> None:
    """State and offset are one file, so nothing is folded twice."""
    loop = world.loop()
    loop.recover()
    world.event(1, user=5)
    world.user(5, 44)
    world.settle(loop)

    again = world.loop()
    again.recover()
    world.event(2, user=5)
    world.settle(again)

    assert world.reader.starts[-1][PLACE] == 1
    assert seen(world, 5) == 2
    assert read_header(world.store.rows[5])[3:] == (2, 2, 1)  # epoch, then one past each topic's newest record
    assert world.stored() == world.expected()[0]
    assert world.log.committed[PLACE] == 2


def test_replay_is_silent_so_that_rows_never_step_back(world: World) -> None:
    """A new epoch wins over any offset: emitting half a replay would show old rows."""
    loop = world.loop()
    loop.recover()
    for number in range(1, 6):
        world.event(number, user=5)
    for _ in range(3):
        loop.step()
    assert seen(world, 5) == 5  # online, but in no checkpoint

    world.log.most = 1
    again = world.loop()
    again.recover()
    counts = []
    for _ in range(10):
        again.step()
        counts.append(seen(world, 5))

    assert counts == [5] * 10
    assert read_header(world.store.rows[5]).epoch == 2
    assert world.is_ready[-1] is True


def test_readiness_waits_for_the_replay(world: World) -> None:
    """Before it, rows may be missing."""
    for number in range(1, 4):
        world.event(number, user=5)
    world.log.most = 1
    loop = world.loop()
    loop.recover()

    readiness = []
    for _ in range(4):
        readiness.append(list(world.is_ready))
        loop.step()

    assert readiness == [[], [], [], [True]]


def test_an_emptied_store_gets_every_row_again(world: World) -> None:
    """While running, and after a restart."""
    loop = world.loop(checkpoint_s=1)
    loop.recover()
    world.traffic(1, 60)
    world.settle(loop)
    expected = world.expected()[0]

    world.store.clear()
    for _ in range(20):
        loop.step()
    assert world.stored() == expected
    assert (world.registry.get_sample_value("features_refills_total", {"usecase": "shop"}) or 0) == 2

    world.store.clear()
    again = world.loop()
    again.recover()
    again.step()
    assert world.stored() == expected


def test_a_worker_that_was_replaced_ends_before_it_writes(world: World) -> None:
    """A zombie sees the higher epoch; even without looking, its rows would lose."""
    old = world.loop()
    old.recover()
    world.event(1, user=5)
    old.step()
    zombie = world.owned[1]

    new = world.loop()
    new.recover()
    world.settle(new)
    fresh = dict(world.store.rows)

    with pytest.raises(LeaseLost):
        old.step()
    assert world.store.write({5: zombie.state.users.row(5, zombie.epoch)}) == 0
    assert world.store.rows == fresh


def test_lost_checkpoints_do_not_make_new_rows_lose(world: World) -> None:
    """The first lease stands above every epoch that the store has seen."""
    for _ in range(3):
        loop = world.loop()
        loop.recover()
        world.event(100 + len(world.log.records[PLACE]), user=5)
        world.settle(loop)
    for folder in world.folders:
        for epoch in folder.epochs():
            for file in (folder.root / str(epoch)).iterdir():
                file.unlink()
            (folder.root / str(epoch)).rmdir()

    again = world.loop()
    again.recover()
    world.settle(again)

    assert read_header(world.store.rows[5]).epoch > 3
    assert world.stored() == world.expected()[0]


def test_rows_of_another_log_go_once_the_new_one_is_read(world: World) -> None:
    """A new broker begins anew: what only the old log knew must not be served beside it. Once, and not before."""
    stale = UserTable(world.layout).row(77, epoch=9)
    world.store.rows[77] = stale
    world.event(1, user=5)
    world.log.most = 0
    loop = world.loop()
    loop.recover()
    loop.step()
    assert set(world.store.rows) == {77}  # readers keep the old rows until the replay is over

    world.log.most = 10
    world.settle(loop)
    assert set(world.store.rows) == {5}

    world.store.rows[78] = stale
    again = world.loop()
    again.recover()
    world.settle(again)
    assert set(world.store.rows) == {5, 78}


def test_a_store_ahead_of_its_checkpoints_is_an_error_with_a_remedy(world: World) -> None:
    """Silently losing every write would look like a healthy service."""
    loop = world.loop()
    loop.recover()
    world.event(1, user=5)
    world.store.rows[5] = world.owned[1].state.users.row(5, 99)

    with pytest.raises(StoreAhead, match="remove"):
        world.settle(loop)


def test_removed_offsets_are_a_clear_error(world: World) -> None:
    """A state with a hole would count wrong for ever."""
    for number in range(1, 6):
        world.event(number, user=5)
    world.log.first[PLACE] = 3

    with pytest.raises(OffsetGone, match="millrace rebuild"):
        world.loop().recover()


def test_a_state_of_another_version_is_an_error_with_a_remedy(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """An upgrade may change what a state looks like: the log still has everything."""
    loop = world.loop()
    loop.recover()
    world.event(1, user=5)
    world.settle(loop)
    monkeypatch.setattr("definitions.user_state._MAGIC", b"MUT0")

    with pytest.raises(CheckpointUnusable, match="millrace rebuild features"):
        world.loop().recover()


def test_a_shorter_log_is_another_log(world: World) -> None:
    """A wiped broker under the same id must not be folded on top of the old state."""
    loop = world.loop()
    loop.recover()
    world.event(1, user=5)
    world.settle(loop)
    world.log.records[PLACE].clear()

    with pytest.raises(OffsetGone, match="another log"):
        world.loop().recover()


def test_compaction_may_remove_the_beginning_of_users(world: World) -> None:
    """What it removes, a newer record of the same key has replaced."""
    for age in (20, 30, 40):
        world.user(5, age)
    place = Place("shop", "users", 1)
    world.log.first[place] = 2
    loop = world.loop()
    loop.recover()
    world.settle(loop)

    assert world.reader.starts[-1][place] == 2
    assert unpack_user_row(world.layout, world.store.rows[5]).state().numbers == [40.0]


def test_a_store_that_is_away_is_waited_for(world: World) -> None:
    """Folding goes on, readiness says so, no checkpoint claims what was not written."""
    loop = world.loop(checkpoint_s=1)
    loop.recover()
    world.store.is_away = True
    world.event(1, user=5)
    for _ in range(30):
        loop.step()
    assert world.is_ready[-1] is False
    assert world.owned[1].saved == {}
    assert world.folders[1].newest(world.layout.layout_hash) == []

    world.store.is_away = False
    for _ in range(30):
        loop.step()

    assert seen(world, 5) == 1
    assert world.is_ready[-1] is True
    assert world.owned[1].saved["interactions"] == 1


def test_partials_that_the_log_did_not_take_are_sent_again(world: World) -> None:
    """Neither those that were refused nor those that were lost on their way; no checkpoint passes over them."""
    loop = world.loop(checkpoint_s=1)
    loop.recover()
    world.event(1, user=5, item=8)
    for _ in range(4):
        loop.step()
    assert world.topic._unsent  # on its way
    world.event(2, user=5, item=9)
    loop.step()
    world.topic.is_away = True
    for _ in range(30):
        loop.step()
    assert world.is_ready[-1] is False
    assert world.owned[1].saved == {}

    world.topic.is_away = False
    for _ in range(60):
        loop.step()

    assert world.topic.partials() == world.expected()[1]
    assert world.is_ready[-1] is True
    assert world.owned[1].saved["interactions"] == 2


def test_a_full_disk_is_waited_for(world: World) -> None:
    """The old checkpoint stays, the loop goes on serving."""
    loop = world.loop(checkpoint_s=1)
    loop.recover()
    world.folders[1].is_full = True
    world.event(1, user=5)
    for _ in range(20):
        loop.step()
    assert (seen(world, 5), world.is_ready[-1]) == (1, False)

    world.folders[1].is_full = False
    for _ in range(20):
        loop.step()

    assert world.is_ready[-1] is True
    assert world.owned[1].saved["interactions"] == 1


def test_a_flush_answers_with_what_is_saved(world: World) -> None:
    """Another thread asks, the loop saves, the answer names the next offsets."""
    loop = world.loop()
    loop.recover()
    world.event(1, user=5)
    loop.step()
    answers: list[Any] = []
    asking = threading.Thread(target=lambda: answers.append(loop.request_checkpoint()))
    asking.start()
    while asking.is_alive():
        loop.step()
    asking.join()

    empty = {"interactions": 0, "users": 0}
    assert answers == [{"shop": {"0": empty, "1": {"interactions": 1, "users": 0}}}]


def test_a_graceful_stop_saves_everything(world: World) -> None:
    """The next start replays nothing."""
    loop = world.loop()
    world.event(1, user=5)
    stop = threading.Event()
    polls = iter(range(5))
    poll = world.reader.poll

    def counted(timeout_s: float) -> Any:
        if next(polls) == 3:
            stop.set()
        return poll(timeout_s)

    world.reader.poll = counted  # type: ignore[method-assign]
    loop.run(stop)

    assert seen(world, 5) == 1
    assert world.owned[1].saved["interactions"] == 1


def test_a_deaf_reader_is_assigned_again(world: World) -> None:
    """The watchdog's strike, seen from the loop."""
    loop = world.loop(checkpoint_s=1)
    loop.recover()
    starts = len(world.reader.starts)
    world.log.is_deaf = True
    world.event(1, user=5)
    while len(world.reader.starts) == starts:
        loop.step()

    world.log.is_deaf = False
    world.settle(loop)

    assert seen(world, 5) == 1
    assert world.registry.get_sample_value("features_stalls_total") == 1


def test_replicas_share_the_partitions(world: World) -> None:
    """Two workers, each with its own leases, leave what one worker would."""
    first = world.loop([0])
    first.recover()
    second = world.loop([1])
    second.recover()
    world.traffic(3, 80)

    for _ in range(10):
        first.step()
        second.step()
    first.checkpoint()
    second.checkpoint()
    world.topic.flush()

    assert (world.stored(), world.topic.partials()) == world.expected()


def test_what_a_worker_without_a_lease_still_sends_changes_nothing(world: World) -> None:
    """Stopped between the check of its lease and its send, it wakes after another took over: readers ignore what it
    sends, and the owner sends its own again, which the topic's cleaner then keeps.
    """
    old = world.loop()
    old.recover()
    world.traffic(1, 30)
    world.settle(old)
    world.traffic(2, 30)
    owners = []

    class Asleep:
        """The topic, as the old worker sees it: its send comes when the new owner has sent all."""

        def publish(self, *sent: Any) -> None:
            if not owners:
                owners.append(world.loop())
                owners[0].recover()
                world.traffic(3, 30)
                world.settle(owners[0])
            world.topic.publish(*sent)
            world.topic.flush()

    old._items = Asleep()  # type: ignore[assignment]

    def turn() -> None:
        for _ in range(5):
            world.clock.now += 1
            old.step()

    with pytest.raises(LeaseLost):
        turn()
    (new,) = owners
    _, expected = world.expected()
    assert expected == world.topic.partials()
    assert expected != world.topic.compacted()

    new.checkpoint()  # sees it
    new.checkpoint()  # and sends again
    assert expected == world.topic.compacted() == world.topic.partials()


def test_the_next_owner_looks_where_the_last_one_stopped(world: World) -> None:
    """An owner that dies before it has sent its own again leaves that to the next one."""
    first = world.loop()
    first.recover()
    world.traffic(1, 30)
    world.settle(first)
    first.checkpoint()
    (origin, item), partial = next(iter(world.topic.partials().items()))
    second = world.loop()
    second.recover()
    world.settle(second)
    changed = PackedRows(
        np.array([item], np.uint64), np.array([0, len(partial)]), np.frombuffer(partial[:-1] + b"x", np.uint8)
    )
    world.topic.publish("shop", origin, changed, 1, 5)
    world.topic.flush()

    third = world.loop()
    third.recover()
    world.settle(third)
    third.checkpoint()
    assert world.expected()[1] == world.topic.compacted()
