"""One rule for resent events: a repeat at most `window` offsets after an earlier occurrence counts once.

An occurrence is any good record of the partition with that event_id, itself counted or not, so the answer is a function
of the log alone: batch cuts and restarts change nothing. Streaming and batch agree exactly.
"""

import struct

import numpy as np
import numpy.typing as npt

from definitions.errors import DefinitionsError

Ids = npt.NDArray[np.uint64]
Offsets = npt.NDArray[np.int64]

_RECENT = 8192  # entries kept in the dict before they become a sorted run: a lookup costs 0.1 µs, a flush about 1 ms
_HEADER = struct.Struct("<qqQ")  # window, newest offset, entries
_NONE = -1


class DedupeStateError(DefinitionsError):
    """A saved state that this window cannot continue from."""


class Deduper:
    """Streaming form of the rule for one partition.

    Memory is bounded by the window: at most about 2 x `window` entries of 16 bytes, in sorted runs, and a small dict
    of the newest ids.
    """

    def __init__(self, window: int) -> None:
        if window < 0:
            raise ValueError(f"window is {window}; it must be 0 (count every record) or more offsets")
        self.window = window
        self._newest = _NONE
        self._recent: dict[int, int] = {}
        self._runs: list[tuple[Ids, Offsets]] = []  # each sorted by id; sizes fall at least by half

    def keep(self, event_id: Ids, offset: Offsets) -> npt.NDArray[np.bool_]:
        """True (n,) for each event that counts.

        Args:
            event_id: uint64 (n,).
            offset: int64 (n,), strictly ascending and above every offset seen before.

        Raises:
            ValueError: offsets that go back; a replay needs the state of its own offset.
        """
        count = len(offset)
        if count == 0:
            return np.zeros(0, np.bool_)
        if offset[0] <= self._newest or (np.diff(offset) <= 0).any():
            raise ValueError(f"offsets must ascend from {self._newest + 1}; got {int(offset[0])} to {int(offset[-1])}")
        previous = self._previous(event_id)
        recent = self._recent
        for index, (each, at) in enumerate(zip(event_id.tolist(), offset.tolist(), strict=True)):
            before = recent.get(each)
            if before is not None:
                previous[index] = before  # the dict is newer than every run
            recent[each] = at
        self._newest = int(offset[-1])
        if len(recent) >= _RECENT:
            self._flush()
        keep: npt.NDArray[np.bool_] = (previous == _NONE) | (offset - previous > self.window)
        return keep

    def save(self) -> bytes:
        """The state, the same bytes whatever the batch cuts were."""
        ids, offsets = self._merged()
        return _HEADER.pack(self.window, self._newest, len(ids)) + ids.tobytes() + offsets.tobytes()

    def load(self, saved: bytes) -> None:
        """Continue from `save()`.

        Raises:
            DedupeStateError: the state is of another window, or cut short.
        """
        if len(saved) < _HEADER.size:
            raise DedupeStateError("the saved dedupe state is cut short")
        window, newest, count = _HEADER.unpack_from(saved)
        if window != self.window:
            raise DedupeStateError(f"the saved state has window {window}, the use case dedupe_offsets {self.window}")
        if len(saved) != _HEADER.size + 16 * count:
            raise DedupeStateError(f"the saved dedupe state has {len(saved)} bytes for {count} entries")
        ids = np.frombuffer(saved, np.uint64, count, _HEADER.size)
        offsets = np.frombuffer(saved, np.int64, count, _HEADER.size + 8 * count)
        self._newest, self._recent, self._runs = newest, {}, [(ids, offsets)] if count else []

    def _previous(self, event_id: Ids) -> Offsets:
        """Newest earlier offset (n,) of each id in the runs, -1 for none."""
        previous = np.full(len(event_id), _NONE, np.int64)
        for ids, offsets in self._runs:
            at = np.searchsorted(ids, event_id)
            at[at == len(ids)] = 0
            found = ids[at] == event_id
            previous[found] = np.maximum(previous[found], offsets[at[found]])
        return previous

    def _flush(self) -> None:
        """Turn the dict into a run; merge runs so that few are left and the expired entries go."""
        run = _newest_of(
            np.fromiter(self._recent.keys(), np.uint64, len(self._recent)),
            np.fromiter(self._recent.values(), np.int64, len(self._recent)),
        )
        self._recent = {}
        floor = self._newest - self.window
        while self._runs and len(self._runs[-1][0]) < 2 * len(run[0]):
            ids, offsets = self._runs.pop()
            run = _newest_of(np.concatenate([ids, run[0]]), np.concatenate([offsets, run[1]]), floor)
        # An old run that has expired as a whole would otherwise wait for a merge.
        self._runs = [*(each for each in self._runs if each[1].max() >= floor), run]

    def _merged(self) -> tuple[Ids, Offsets]:
        runs = [*self._runs]
        runs.append(
            (
                np.fromiter(self._recent.keys(), np.uint64, len(self._recent)),
                np.fromiter(self._recent.values(), np.int64, len(self._recent)),
            )
        )
        return _newest_of(
            np.concatenate([ids for ids, _ in runs]),
            np.concatenate([offsets for _, offsets in runs]),
            self._newest - self.window,
        )


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


def _newest_of(ids: Ids, offsets: Offsets, floor: int | None = None) -> tuple[Ids, Offsets]:
    """Sorted by id, each id once with its newest offset; entries below `floor` are dropped."""
    order = np.lexsort((offsets, ids))
    ids, offsets = ids[order], offsets[order]
    last = np.ones(len(ids), np.bool_)
    last[:-1] = ids[1:] != ids[:-1]
    if floor is not None:
        last &= offsets >= floor
    return ids[last], offsets[last]
