"""State from the archive: the same bytes as from the log, whatever of the log is still there."""

from typing import TYPE_CHECKING, Any

import pytest
from definitions.records import decode_interactions, decode_users
from features.errors import OffsetGone
from features.log import Place
from features.partition import PartitionState
from features.rebuild import Archived, UserRecord, fold_archived, replace_checkpoints
from millrace.events.v1 import events_pb2 as pb

if TYPE_CHECKING:
    from conftest import World
else:
    World = Any


def archived(world: World, partition: int, offset: int) -> Archived:
    """What the archiver has of a partition: the good interactions below an offset, all users."""
    interactions = world.log.records[Place("shop", "interactions", partition)][:offset]
    users = world.log.records[Place("shop", "users", partition)]
    events, _ = decode_interactions(world.layout.usecase, partition, interactions)
    found, _ = decode_users(partition, users)
    times = {record.offset: record.timestamp_us for record in users}
    records = [UserRecord(at, times[at], user) for at, user in found]
    return Archived(events, records, len(interactions), len(users))


def rebuild(world: World, offset: int) -> list[int]:
    """Every partition from the archive below `offset`; the new epochs."""
    epochs = []
    for partition in range(2):
        state = PartitionState(world.layout, partition)
        archive = archived(world, partition, offset)
        assert len(archive.events) == sum(fold_archived(state, archive))
        epochs.append(replace_checkpoints(state, world.folders[partition], 0))
    world.store.clear()
    return epochs


def emitted_before(world: World) -> None:
    """A first life that reads everything."""
    world.traffic(1, 300)
    loop = world.loop()
    loop.recover()
    world.settle(loop)


@pytest.mark.parametrize("offset", [0, 60, 10_000])
def test_archive_then_log_give_the_bytes_of_the_log_alone(world: World, offset: int) -> None:
    """Rows, partials and checkpoint: also where the log has forgotten what the archive holds."""
    emitted_before(world)
    before = [folder.newest(world.layout.layout_hash)[-1] for folder in world.folders]
    epochs = rebuild(world, offset)
    for partition in range(2):
        place = Place("shop", "interactions", partition)
        world.log.first[place] = min(offset, len(world.log.records[place]))

    last = world.loop()
    last.recover()
    world.settle(last)

    rows, partials = world.expected()
    assert rows == world.stored()
    assert partials == world.topic.partials()
    after = [folder.newest(world.layout.layout_hash)[-1] for folder in world.folders]
    for old, new, epoch in zip(before, after, epochs, strict=True):
        assert (dict(old.offsets), dict(old.sections)) == (dict(new.offsets), dict(new.sections))
        assert new.epoch >= epoch > old.epoch


def test_lost_partials_are_sent_again(world: World) -> None:
    """A rebuild sends every item, also where the log brings nothing new."""
    emitted_before(world)
    world.topic.records.clear()
    rebuild(world, 10_000)
    last = world.loop()
    last.recover()
    world.settle(last)

    assert world.expected()[1] == world.topic.partials()


def test_an_archive_that_ends_before_the_log_begins_is_refused(world: World) -> None:
    """Records that neither has are lost; the start says so instead of counting on."""
    emitted_before(world)
    rebuild(world, 10)
    world.log.first[Place("shop", "interactions", 1)] = 20
    with pytest.raises(OffsetGone):
        world.loop().recover()


def test_an_erased_user_stays_empty_up_to_the_same_offset(world: World) -> None:
    """Events before the erasure are in the emptied row's offset, later ones never."""
    for number in range(1, 4):
        world.event(number, user=2)
    world.log.append(Place("shop", "users", 0), 2, pb.User(id=2, deleted=True))
    loop = world.loop()
    loop.recover()
    world.settle(loop)
    row = world.stored()[2]
    rebuild(world, 10_000)
    last = world.loop()
    last.recover()
    world.settle(last)

    assert row == world.stored()[2]
