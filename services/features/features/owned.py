"""One owned partition with its lease, its online store and its checkpoints."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

import numpy as np
from definitions.errors import DefinitionsError
from definitions.row_header import read_header
from definitions.user_state import UserTable
from stores.online import OnlineStore

from features.checkpoints import CheckpointFolder
from features.errors import CheckpointUnusable, OffsetGone
from features.log import Batch, Bounds, Found, Origin, Place
from features.partition import INTERACTIONS, KINDS, Folded, PartitionState

_CLAIMED: Final = "store-claimed"  # beside the partitions' folders: this log's rows are in the online store
_ROWS_PER_READ: Final = 10_000  # bounds memory


@dataclass
class Owned:
    """One partition of one use case, owned by this worker.

    Attributes:
        silent_until: log end at the lease, by kind; emptied once it is reached. Until then nothing is emitted, so
            that readers never step back.
        saved: offsets of the last checkpoint, by kind.
        store_id: identity of the online store that holds this partition's rows.
        oldest_us: broker's time of the oldest event that is not emitted yet.
        lock: for the users' state, while rows are packed beside the loop.
        most_bytes: that the users may take in memory.
        increments_from: bytes of a full checkpoint from which on increments follow it, until they are as large.
    """

    usecase: str
    state: PartitionState
    folder: CheckpointFolder
    store: OnlineStore
    epoch: int = 0
    silent_until: dict[str, int] = field(default_factory=dict)
    saved: Mapping[str, int] = field(default_factory=dict)
    store_id: str = ""
    oldest_us: int | None = None
    known: int = 0  # offset of `item-features` below which nothing is another's
    most_bytes: int = 1 << 62
    increments_from: int = 1 << 20  # a smaller one is written in no time
    lock: threading.Lock = field(default_factory=threading.Lock)
    _is_claimed: bool = False
    _serial: int = 0  # of this epoch's last full checkpoint, 0 for none
    _increment: int = 0
    _full_bytes: int = 0
    _later_bytes: int = 0

    @property
    def origin(self) -> Origin:
        """Whose partials they are."""
        return Origin(self.usecase, self.state.partition)

    def place(self, kind: str) -> Place:
        """Where records of `kind` come from."""
        return Place(self.usecase, kind, self.state.partition)

    def lease(self) -> None:
        """Take the partition from whoever has it. StoreUnavailable where the store must be asked and is away."""
        # Without checkpoints (a first start, or they are lost) the store may hold rows of any epoch: start above.
        above = 0 if self.folder.epochs() else newest_epoch(self.store)
        self.epoch = self.folder.lease(above)

    def restore(self, bounds: Mapping[Place, Bounds]) -> dict[Place, int]:
        """Load the newest whole checkpoint; where to read on. `bounds` were read after the lease.

        Raises:
            OffsetGone, CheckpointUnusable: the state cannot be brought up to date from this log.
        """
        if checkpoints := self.folder.newest(self.state.layout.layout_hash):
            try:
                self.state.restore(checkpoints)
            except DefinitionsError as exc:
                raise CheckpointUnusable(
                    f"{self.folder.root}: another version of this program wrote the state ({exc}); make it anew from "
                    "the log: millrace rebuild features"
                ) from exc
            self.store_id = checkpoints[-1].store_id
            self.saved = dict(self.state.offsets)
        self.known = self.folder.known()
        places = {kind: self.place(kind) for kind in KINDS}
        self.silent_until = {kind: bounds[place].end for kind, place in places.items()}
        return {place: _start(place, self.state.offsets[kind], bounds[place]) for kind, place in places.items()}

    def fold(self, batches: Sequence[Batch]) -> list[Folded]:
        """Apply the partition's next batches, in order; what each came to."""
        found = []
        for batch in batches:
            with self.lock:
                folded = self.state.fold(batch.place.kind, batch.records, batch.next_offset)
            if folded.oldest_us is not None:
                self.oldest_us = folded.oldest_us if self.oldest_us is None else min(folded.oldest_us, self.oldest_us)
            found.append(folded)
        return found

    def claim_store(self) -> None:
        """Empty the online store if no worker of this log has written to it yet: its rows are another log's.

        StoreUnavailable: the store is away; nothing may be written before it is claimed.
        """
        if self._is_claimed:
            return
        claimed = self.folder.root.parent / _CLAIMED
        if not claimed.exists():
            self.store.clear()
            claimed.touch()
        self._is_claimed = True

    def refill_if_emptied(self) -> int:
        """Count every row as changed if the store was emptied or replaced; how many. StoreUnavailable: unknown."""
        self.claim_store()
        identity = self.store.identity()
        if identity == self.store_id:
            return 0
        known = bool(self.store_id)
        users = self.state.users.all_users()
        self.state.refill(users)
        evicted = self._refill_evicted()
        if not known:  # nothing was ever emitted from this state: it is new, or rebuilt from the archive
            self.state.resend(self.state.items.all_items())
        self.store_id = identity
        return len(users) + evicted if known else 0

    def _refill_evicted(self) -> int:
        """Write the rows of those who are not in memory; how many."""
        if self.state.evicted is None:
            return 0
        written = 0
        for rows in self.state.evicted.all():
            table = UserTable(self.state.layout)
            table.take(rows)
            absent = self.state.users.unknown(rows.ids)
            theirs = table.rows(absent, self.epoch)
            written += self.store.write_rows(theirs.ids, theirs.bounds, theirs.data)
        return written

    def evict(self) -> int:
        """After a checkpoint: bring the users' memory below its bound; how many went. StoreUnavailable: they stay."""
        with self.lock:
            return self.state.evict(self.most_bytes)

    def resend(self, found: Found) -> None:
        """Send again what another has written over. Where it has not, all of the topic below `found.reached` is ours.

        CheckpointUnwritable: the next look begins further back.
        """
        if found.items:
            self.state.resend(np.array(sorted(found.items), np.uint64))
        elif found.reached != self.known:
            self.folder.note_known(found.reached)
        self.known = found.reached

    def save(self) -> int:
        """Write a checkpoint if anything has moved; its size in bytes.

        Raises:
            LeaseLost, CheckpointUnwritable: nothing was replaced.
        """
        if self.state.offsets == self.saved:
            return 0
        with self.lock:
            self.state.empty_erased()
        is_full = self._serial == 0 or self._full_bytes < self.increments_from or self._later_bytes >= self._full_bytes
        serial, increment = (self._serial + 1, 0) if is_full else (self._serial, self._increment + 1)
        size = self.folder.save(self.state.checkpoint(self.epoch, self.store_id, serial, increment))
        self._serial, self._increment = serial, increment
        if is_full:
            self._full_bytes, self._later_bytes = size, 0
        else:
            self._later_bytes += size
        self.state.saved()
        self.saved = dict(self.state.offsets)
        return size


def _start(place: Place, offset: int, bounds: Bounds) -> int:
    """Where to read on; OffsetGone if the log cannot give what the state needs."""
    if offset > bounds.end:
        raise OffsetGone(
            f"{place}: the state has read to {offset}, the log ends at {bounds.end}: this is another log under the "
            "same id; remove this log id's folder under MILLRACE_CHECKPOINTS, or set MILLRACE_LOG_ID"
        )
    if offset < bounds.first:
        if place.kind == INTERACTIONS:
            raise OffsetGone(
                f"{place}: offset {offset} is needed, retention has removed everything below {bounds.first}; "
                "run `millrace rebuild`, which reads the archive first"
            )
        return bounds.first  # compaction removes only what a newer record of the same key has replaced
    return offset


def newest_epoch(store: OnlineStore) -> int:
    """Highest epoch of any stored row, 0 for none."""
    newest, remaining = 0, iter(store.all_ids().tolist())
    while chunk := list(islice(remaining, _ROWS_PER_READ)):
        newest = max([newest, *(read_header(row).epoch for row in store.read_many(chunk).values())])
    return newest
