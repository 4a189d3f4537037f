"""The state of one partition: what its records do to it, what of it has changed, and how it is saved."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import numpy as np
from definitions.column_decode import decode_interactions_columns
from definitions.dedupe import Deduper
from definitions.events import EventColumns
from definitions.item_table import ItemTable
from definitions.layout import Layout
from definitions.packed_rows import PackedRows
from definitions.record_columns import RecordColumns
from definitions.records import BadRecord, decode_users
from definitions.slots import Ids
from definitions.user_state import UserTable
from servicekit.failpoints import fp

from features.checkpoints import Checkpoint

INTERACTIONS: Final = "interactions"
USERS: Final = "users"
KINDS: Final = (INTERACTIONS, USERS)
NO_IDS: Final[Ids] = np.empty(0, np.uint64)
ROWS_AT_ONCE: Final = 20_000  # of evicted users: bounds memory and the store's transaction
_LEFT: Final = 0.8  # of the memory that users may take, after an eviction


class EvictedRows(Protocol):
    """Where the users are who are not in memory: `features.evicted.Evicted`."""

    @property
    def is_empty(self) -> bool:
        """Whether nobody has ever left."""
        ...

    def write(self, rows: PackedRows) -> None:
        """Keep them durably, unless newer ones are there. StoreUnavailable: nothing may be forgotten."""
        ...

    def read(self, ids: Ids) -> PackedRows:
        """The rows that there are, of these users. StoreError: the state cannot go on without them."""
        ...

    def all(self) -> Iterator[PackedRows]:
        """Every row, some thousand at a time; ids ascend."""
        ...


@dataclass(frozen=True)
class Folded:
    """What one batch came to."""

    events: int  # that changed the state
    duplicates: int = 0
    bad: Sequence[BadRecord] = field(default=())
    oldest_us: int | None = None  # broker's time of the oldest folded record


def joined(these: Ids, those: Ids) -> Ids:
    """Ids of both, uint64 (n,), ascending, each once."""
    if not len(these):
        return those
    return unique(np.concatenate([these, those])) if len(those) else these


def unique(ids: Ids) -> Ids:
    """Each id once, ascending. Sorting some ascending runs is quick, and numpy's `unique` does it by hashing."""
    ids = np.sort(ids, kind="stable")
    return ids[np.concatenate([[True], ids[1:] != ids[:-1]])] if len(ids) else ids


class _Changes:
    """Ids that wait to be emitted, and those that have changed since the last checkpoint."""

    def __init__(self) -> None:
        self.dirty = NO_IDS
        self._unsaved: list[Ids] = []

    def mark(self, ids: Ids) -> Ids:
        """Take more, ascending; all that wait."""
        self.dirty = joined(self.dirty, ids)
        return self.dirty

    def emitted(self) -> None:
        """Nothing waits any more."""
        self._unsaved.append(self.dirty)
        self.dirty = NO_IDS

    def unsaved(self) -> Ids:
        """What was emitted since `saved`, ascending."""
        self._unsaved = [unique(np.concatenate(self._unsaved))] if self._unsaved else []
        return self._unsaved[0] if self._unsaved else NO_IDS

    def saved(self) -> None:
        """All of it is in a checkpoint."""
        self._unsaved = []


class PartitionState:
    """User rows, item partials and dedupe window after every record below `offsets`.

    Folding is a function of the log alone: batch cuts, restarts and the wall clock change nothing.
    """

    def __init__(self, layout: Layout, partition: int, evicted: EvictedRows | None = None) -> None:
        """`evicted`: where the users are who are not in memory; None: nobody is evicted."""
        self.layout = layout
        self.partition = partition
        self.evicted = evicted
        self.offsets: dict[str, int] = dict.fromkeys(KINDS, 0)
        self.users = UserTable(layout)
        self.items = ItemTable(layout)
        self._deduper = Deduper(layout.usecase.dedupe_offsets)
        self._users = _Changes()
        self._items = _Changes()
        self._sent_items = NO_IDS  # on their way, not yet acknowledged
        self._saved_at = 0  # `interactions` offset of the last checkpoint
        self._erased: list[int] = []  # whose evicted rows must be replaced

    def fold(self, kind: str, records: RecordColumns, next_offset: int) -> Folded:
        """Apply the next records of one topic, in offset order."""
        folded = self._fold_interactions(records) if kind == INTERACTIONS else self._fold_users(records)
        self.offsets[kind] = next_offset
        return folded

    def _fold_interactions(self, records: RecordColumns) -> Folded:
        events, bad = decode_interactions_columns(self.layout.usecase, self.partition, records)
        kept = self.fold_events(events)
        oldest_us = int(kept.timestamp_us.min()) if len(kept) else None
        return Folded(len(kept), len(events) - len(kept), bad, oldest_us)

    def fold_events(self, events: EventColumns) -> EventColumns:
        """Apply the next good events, in offset order; those that counted, since a resent one does not."""
        keep = self._deduper.keep(events.event_id, events.offset)
        kept = events if keep.all() else events.take(keep)
        self.recall(kept.user_id)
        self.users.fold(kept)
        self.items.fold(kept)
        return kept

    def _fold_users(self, records: RecordColumns) -> Folded:
        found, bad = decode_users(self.partition, records.records())
        users = [user for _, user in found]
        self.recall(np.array([user.id for user in users], np.uint64))
        self.users.fold_users(users, [offset for offset, _ in found])
        self._erased += [user.id for user in users if user.deleted]
        oldest_us = int(records.timestamp_us.min()) if len(records) else None
        return Folded(len(users), 0, bad, oldest_us)

    def recall(self, ids: Ids) -> None:
        """Take those of them who were evicted back into memory. StoreError: their rows cannot be read."""
        if self.evicted is None or self.evicted.is_empty:
            return
        if len(missing := self.users.unknown(ids)):
            self.users.take(self.evicted.read(missing))

    def empty_erased(self) -> None:
        """Before a checkpoint: no evicted row may go on holding what an erased user did. StoreError: ask again."""
        if self.evicted is not None and self._erased:
            known = self.evicted.read(unique(np.array(self._erased, np.uint64))).ids
            self.evicted.write(self.users.rows(known, 0))
        self._erased = []

    def evict(self, most_bytes: int) -> int:
        """Where the users take more than `most_bytes`: keep those who were active last; how many went.

        Nobody may be dirty, and all must be in a checkpoint. StoreUnavailable: their rows cannot be written; they stay.
        """
        if self.evicted is None:
            return 0
        used, count = self.users.used_bytes, len(self.users)
        if used <= most_bytes:
            return 0
        ids = self.users.least_active(math.ceil(count * (1 - _LEFT * most_bytes / used)))
        for begin in range(0, len(ids), ROWS_AT_ONCE):
            part = ids[begin : begin + ROWS_AT_ONCE]
            self.evicted.write(self.users.rows(part, 0))
            fp("features.users_evicted")
            self.users.drop(part)
        return len(ids)

    @property
    def changed_users(self) -> int:
        """How many rows have changed since `users_emitted`, some of them perhaps counted twice."""
        return self.users.dirty + len(self._users.dirty)

    @property
    def changed_items(self) -> int:
        """How many partials have changed since `items_sent`, some of them perhaps counted twice."""
        return self.items.dirty + len(self._items.dirty)

    def dirty_users(self) -> Ids:
        """Users whose rows have changed since `users_emitted`, ascending."""
        return self._users.mark(self.users.take_dirty())

    def dirty_items(self) -> Ids:
        """Items whose partials have changed since `items_sent`, ascending."""
        return self._items.mark(self.items.take_dirty())

    def users_emitted(self) -> None:
        """The store has answered for every dirty user."""
        self._users.emitted()

    def items_sent(self) -> None:
        """Every dirty item is on its way to the log."""
        self._sent_items = joined(self._sent_items, self._items.dirty)
        self._items.emitted()

    def items_acknowledged(self) -> None:
        """The log has all that was sent."""
        self._sent_items = NO_IDS

    def items_lost(self) -> None:
        """The log may lack what was sent: send it again."""
        self._items.mark(self._sent_items)
        self._sent_items = NO_IDS

    def resend(self, items: Ids) -> None:
        """Count `items`, ascending, as changed: another has written over their partials."""
        self._items.mark(items)

    def refill(self, users: Ids) -> None:
        """Count `users`, ascending, as changed: the store has lost their rows."""
        self._users.mark(users)

    def checkpoint(self, epoch: int, store_id: str, serial: int = 1, increment: int = 0) -> Checkpoint:
        """All of the state, or as an increment what has changed since `saved`; nothing may be dirty (emit first)."""
        sections: Mapping[str, bytes]
        if increment:
            sections = {
                "users": self.users.save(self._users.unsaved()),
                "items": self.items.save(self._items.unsaved()),
                "dedupe": self._deduper.save_since(self._saved_at),
            }
        else:
            sections = {"users": self.users.save(), "items": self.items.save(), "dedupe": self._deduper.save()}
        offsets = dict(self.offsets)
        return Checkpoint(epoch, self.layout.layout_hash, offsets, store_id, sections, serial, increment)

    def saved(self) -> None:
        """The checkpoint is durable: the next increment begins here."""
        self._users.saved()
        self._items.saved()
        self._saved_at = self.offsets[INTERACTIONS]

    def restore(self, checkpoints: Sequence[Checkpoint]) -> None:
        """Continue from a full checkpoint of the same layout and its increments; nothing is dirty afterwards."""
        full, *increments = checkpoints
        self.users.load(full.sections["users"])
        self.items.load(full.sections["items"])
        for each in increments:
            self.users.update(each.sections["users"])
            self.items.update(each.sections["items"])
        self._deduper.load(*(each.sections["dedupe"] for each in checkpoints))
        self.offsets = {kind: checkpoints[-1].offsets[kind] for kind in KINDS}
        self._users, self._items, self._sent_items = _Changes(), _Changes(), NO_IDS
        self.saved()
