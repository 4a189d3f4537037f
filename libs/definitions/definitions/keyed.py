"""What the tables of users and of items share: an index, memory, and which keys have changed."""

import numpy as np
import numpy.typing as npt

from definitions.compiled import kernel
from definitions.memory import DIRTY, FREE_WORDS, KEYS, TOP, Memory, Words
from definitions.program import ACTIVE, EVENT_WORDS, FLAGS, ID, IS_DIRTY, Plan
from definitions.slots import Ids, Index, copy_into, ids_in, new_index, places_of


class KeyedState:
    """Heads by id in growing memory. Single-threaded."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.clear()

    def clear(self) -> None:
        """Forget every key."""
        self.memory = Memory()
        self.index: Index = new_index(0)
        self.dirty: Words = np.empty(len(self.index) // 2 + 1, np.int64)
        self._make_room(0)

    def __len__(self) -> int:
        return int(self.memory.words[KEYS])

    @property
    def used_bytes(self) -> int:
        """Of memory, index and lists, freed blocks left out."""
        words = self.memory.words[TOP] - self.memory.words[FREE_WORDS] + self.index.size + len(self.dirty)
        return 8 * int(words)

    def grow(self) -> None:
        """More of whatever a kernel ran out of."""
        if 2 * self.memory.words[KEYS] >= len(self.index):
            larger = new_index(len(self.index))
            copy_into(self.index, larger)
            self.index = larger
            self.dirty = np.concatenate([self.dirty, np.empty(len(larger) // 2 + 1 - len(self.dirty), np.int64)])
        self._make_room(int(self.plan[EVENT_WORDS]))

    def _make_room(self, words: int) -> None:
        if (least := int(self.memory.words[TOP]) + max(words, int(self.plan[EVENT_WORDS]))) > len(self.memory.words):
            self.memory.grow(least)

    def ids(self) -> Ids:
        """Every id, uint64 (n,), ascending."""
        return ids_in(self.index, len(self))

    def heads(self, ids: Ids) -> npt.NDArray[np.int64]:
        """The head of each, (n,); 0 for an unknown id."""
        return places_of(self.index, ids)

    def least_active(self, count: int) -> Ids:
        """The ids whose last event is the longest ago, in batches; at most `count`, uint64 (n,), ascending."""
        words = self.memory.words
        heads = self.index[:, 1][self.index[:, 1] != 0]
        if count < len(heads):
            heads = heads[np.argpartition(words[heads + ACTIVE], count)[:count]]
        return np.sort(words[heads + ID].view(np.uint64))

    @property
    def dirty_count(self) -> int:
        """How many ids were marked since `take_dirty`."""
        return int(self.memory.words[DIRTY])

    def take_dirty(self) -> Ids:
        """Ids that were marked since the last call, uint64 (n,), ascending."""
        return _take_dirty(self.memory.words, self.dirty)


@kernel
def _take_dirty(words: Words, dirty: Words) -> Ids:
    ids = np.empty(words[DIRTY], np.uint64)
    for i in range(len(ids)):
        head = dirty[i]
        words[head + FLAGS] &= ~IS_DIRTY
        ids[i] = np.uint64(words[head + ID])
    words[DIRTY] = 0
    ids.sort()
    return ids
