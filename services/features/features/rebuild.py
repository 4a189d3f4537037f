"""A partition's state made anew from archived facts: what `millrace rebuild features` writes for the next start."""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from definitions.events import EventColumns
from millrace.events.v1 import events_pb2 as pb

from features.checkpoints import CheckpointFolder
from features.evicted import Evicted
from features.partition import INTERACTIONS, USERS, PartitionState

EVENTS_A_FOLD = 100_000  # bounds what is copied at once


@dataclass(frozen=True)
class UserRecord:
    """A record of topic `users`: its offset, the broker's time of it, and the user it left."""

    offset: int
    timestamp_us: int
    user: pb.User


@dataclass(frozen=True)
class Archived:
    """All good records of one partition below two offsets, each topic's in offset order."""

    events: EventColumns
    users: Sequence[UserRecord]
    interactions_offset: int
    users_offset: int


def fold_archived(state: PartitionState, archived: Archived) -> Iterator[int]:
    """Fold all of it into an empty state; yields how many more events are in.

    The result is a function of the log alone, but for a user's erasure: events that came before it are in the offset of
    the emptied row, later ones are not. So the two topics are taken in the order of the broker's times.
    """
    begin = 0
    for record in archived.users:
        if record.user.deleted:
            end = int(np.searchsorted(archived.events.timestamp_us, record.timestamp_us, side="right"))
            yield from _fold(state, archived.events, begin, max(begin, end))
            begin = max(begin, end)
        state.users.fold_users([record.user], [record.offset])
    yield from _fold(state, archived.events, begin, len(archived.events))
    state.offsets = {INTERACTIONS: archived.interactions_offset, USERS: archived.users_offset}


def replace_checkpoints(state: PartitionState, folder: CheckpointFolder, above: int) -> int:
    """Make the state the partition's only checkpoint, under a new epoch above every other; that epoch.

    No worker may own the partition meanwhile. The next one finds that no store has the state's rows and that no partial
    was sent, and writes all of them.

    Raises:
        LeaseLost: a worker does own it.
        CheckpointUnwritable: nothing was replaced.
    """
    epoch = folder.lease(above)
    folder.save(state.checkpoint(epoch, ""))
    Evicted(folder.root, state.layout.usecase.name, state.layout.revision).remove()  # the checkpoint has everybody
    for other in folder.epochs():
        if other != epoch:
            shutil.rmtree(folder.root / str(other), ignore_errors=True)
    return epoch


def _fold(state: PartitionState, events: EventColumns, begin: int, end: int) -> Iterator[int]:
    for first in range(begin, end, EVENTS_A_FOLD):
        part = events.take(slice(first, min(first + EVENTS_A_FOLD, end)))
        state.fold_events(part)
        yield len(part)
