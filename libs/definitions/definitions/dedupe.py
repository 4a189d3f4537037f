"""One rule for resent events: a repeat at most `window` offsets after an earlier occurrence counts once.

An occurrence is any good record of the partition with that event_id, itself counted or not, so the answer is a function
of the log alone: batch cuts and restarts change nothing. Streaming and batch agree exactly.
"""

import struct

import numpy as np
import numpy.typing as npt

from definitions.dedupe_table import Offsets, entries, grown, judge, new_table
from definitions.errors import DefinitionsError
from definitions.slots import Ids

_HEADER = struct.Struct("<qqQ")  # window, newest offset, entries
_NONE = -1


class DedupeStateError(DefinitionsError):
    """A saved state that this window cannot continue from."""


class Deduper:
    """Streaming form of the rule for one partition.

    Memory is bounded by the window: two tables, each of the ids of at most `window` offsets; when the newer one has
    covered so many, the older one goes.
    """

    def __init__(self, window: int) -> None:
        if window < 0:
            raise ValueError(f"window is {window}; it must be 0 (count every record) or more offsets")
        self.window = window
        self._newest = _NONE
        self._older, self._newer = new_table(), new_table()
        self._in_older = self._in_newer = 0
        self._turn = 0  # first offset that begins the next newer table

    @property
    def used_bytes(self) -> int:
        """Memory in use."""
        return sum(column.nbytes for table in (self._older, self._newer) for column in table)

    def keep(self, event_id: Ids, offset: Offsets) -> npt.NDArray[np.bool_]:
        """True (n,) for each event that counts.

        Args:
            event_id: uint64 (n,).
            offset: int64 (n,), strictly ascending and above every offset seen before.

        Raises:
            ValueError: offsets that go back; a replay needs the state of its own offset.
        """
        count = len(offset)
        keep = np.zeros(count, np.bool_)
        if count == 0:
            return keep
        if offset[0] <= self._newest or (np.diff(offset) <= 0).any():
            raise ValueError(f"offsets must ascend from {self._newest + 1}; got {int(offset[0])} to {int(offset[-1])}")
        done = 0
        while done < count:
            if offset[done] >= self._turn:
                self._begin(int(offset[done]))
            end = int(np.searchsorted(offset, self._turn))
            self._judge(event_id, offset, done, end, keep)
            done = end
        self._newest = int(offset[-1])
        return keep

    def save(self) -> bytes:
        """The state, the same bytes whatever the batch cuts were."""
        return self.save_since(0)

    def save_since(self, first: int) -> bytes:
        """What `save` holds of records at or above offset `first`: what a state of that offset lacks."""
        floor = max(first, self._newest - self.window, 0)
        ids, offsets = entries(self._older, self._in_older, self._newer, self._in_newer, floor)
        order = np.argsort(offsets, kind="stable")  # nearly sorted: older records come first
        ids, offsets = ids[order], offsets[order]
        return _HEADER.pack(self.window, self._newest, len(ids)) + ids.tobytes() + offsets.tobytes()

    def load(self, saved: bytes, *later: bytes) -> None:
        """Continue from `save()`, and from what `save_since` gave afterwards.

        Raises:
            DedupeStateError: the state is of another window, or cut short.
        """
        parts = [self._parts(each) for each in (saved, *later)]
        self._newest = parts[-1][0]
        self._older, self._newer = new_table(), new_table()
        self._in_older = self._in_newer = self._turn = 0
        for _, ids, offsets in parts:
            self._judge(ids, offsets, 0, len(ids), np.zeros(len(ids), np.bool_))
        if self._in_newer:  # all of them become the older table when the next record comes
            self._turn = self._newest + 1

    def _parts(self, saved: bytes) -> tuple[int, Ids, Offsets]:
        if len(saved) < _HEADER.size:
            raise DedupeStateError("the saved dedupe state is cut short")
        window, newest, count = _HEADER.unpack_from(saved)
        if window != self.window:
            raise DedupeStateError(f"the saved state has window {window}, the use case dedupe_offsets {self.window}")
        if len(saved) != _HEADER.size + 16 * count:
            raise DedupeStateError(f"the saved dedupe state has {len(saved)} bytes for {count} entries")
        ids = np.frombuffer(saved, np.uint64, count, _HEADER.size)
        return newest, ids, np.frombuffer(saved, np.int64, count, _HEADER.size + 8 * count)

    def _begin(self, offset: int) -> None:
        """A new newer table from this offset on."""
        self._older, self._in_older = self._newer, self._in_newer
        self._newer, self._in_newer = new_table(), 0
        self._turn = offset + max(self.window, 1)

    def _judge(self, ids: Ids, offsets: Offsets, first: int, end: int, keep: npt.NDArray[np.bool_]) -> None:
        self._newer = grown(self._newer, self._in_newer, end - first)
        self._in_newer = judge(self._older, self._newer, self._in_newer, ids, offsets, first, end, self.window, keep)


def first_occurrences(
    event_id: Ids, partition: npt.NDArray[np.int32], offset: Offsets, window: int
) -> npt.NDArray[np.bool_]:
    """Batch form of the rule: True (n,) for each event that counts, in the order given.

    Args:
        event_id: uint64 (n,).
        partition: int32 (n,); events of different partitions never repeat each other.
        offset: int64 (n,), any order; each (partition, offset) once, of one log.
        window: in offsets.
    """
    order = np.lexsort((offset, event_id, partition))
    ids, parts, offsets = event_id[order], partition[order], offset[order]
    repeat = (ids[1:] == ids[:-1]) & (parts[1:] == parts[:-1]) & (offsets[1:] - offsets[:-1] <= window)
    keep = np.ones(len(event_id), np.bool_)
    keep[order[1:][repeat]] = False
    return keep
