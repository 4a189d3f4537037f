"""Ids to places in columns: millions of them in 12 bytes each, hundreds found by one call."""

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.uint64]
Slots = npt.NDArray[np.int64]

_LAST = 2**64 - 1
_RECENT = 32  # ids that the dict may hold, or a 64th of the sorted ones: then they are sorted in


class IdIndex:
    """Gives each id a slot: 1, 2, 3 ... as they come; slot 0 is for all that have none.

    Sorted ids, and a small dict for the newest. Not thread-safe.
    """

    def __init__(self) -> None:
        self._sorted: tuple[Ids, Slots] = np.array([_LAST], np.uint64), np.zeros(1, np.int64)
        self._recent: dict[int, int] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def nbytes(self) -> int:
        """Bytes of the sorted ids and their slots."""
        return sum(column.nbytes for column in self._sorted)

    def all(self) -> tuple[Ids, Slots]:
        """All ids, ascending, and their slots."""
        if self._recent:
            self._sort_in(np.empty(0, np.uint64), np.empty(0, np.int64))
        known, slots = self._sorted
        return known[:-1], slots[:-1]

    def find(self, ids: Ids) -> Slots:
        """The slot of each, int64 (n,)."""
        known, slots = self._sorted
        at = known.searchsorted(ids)
        found: Slots = slots.take(at)
        found *= known.take(at) == ids
        if self._recent:
            missing = np.flatnonzero(found == 0)
            found[missing] = [self._recent.get(item, 0) for item in ids[missing].tolist()]
        return found

    def add(self, ids: Ids) -> Slots:
        """The slot of each, int64 (n,); an id without one gets the next. The same id may come twice."""
        found = self.find(ids)
        if not found.all():
            new = np.flatnonzero(found == 0)
            unique, first, again = np.unique(ids[new], return_index=True, return_inverse=True)
            order = np.argsort(np.argsort(first))  # slots in the order of arrival
            slots = self._count + 1 + order
            self._count += len(unique)
            found[new] = slots[again]
            if len(self._recent) + len(unique) > max(_RECENT, len(self._sorted[0]) >> 6):
                self._sort_in(unique, slots)
            else:
                self._recent.update(zip(unique.tolist(), slots.tolist(), strict=True))
        return found

    def _sort_in(self, ids: Ids, slots: Slots) -> None:
        known, theirs = self._sorted
        recent = self._recent
        ids = np.concatenate([np.fromiter(recent, np.uint64, len(recent)), ids, known])  # the stop last, see `find`
        slots = np.concatenate([np.fromiter(recent.values(), np.int64, len(recent)), slots, theirs])
        order = np.argsort(ids, kind="stable")
        self._sorted = ids[order], slots[order]
        self._recent = {}
