"""The users of one partition of `interactions` and `users`: fold, say what changed, give rows."""

from collections.abc import Sequence
from typing import Final

import numpy as np
from millrace.events.v1 import events_pb2 as pb

from definitions.aggregates import clear_head, head_of, mark_dirty
from definitions.attributes import read_attributes
from definitions.compiled import kernel
from definitions.errors import CorruptRow
from definitions.events import EventColumns, micros
from definitions.kernel import UserState
from definitions.keyed import KeyedState
from definitions.layout import Layout
from definitions.memory import CLOCK, KEYS, Words, give_lines
from definitions.packed import pack_user
from definitions.packed_rows import PackedRows, load_rows, save_rows
from definitions.program import (
    AT_END,
    AT_NUMBERS,
    ERASED,
    FLAGS,
    HEAD_WORDS,
    INTERACTIONS,
    USERS,
    Plan,
    plan_of,
)
from definitions.slots import Ids, Index, remove, row_of
from definitions.user_fold import fold_users
from definitions.user_pack import put_rows, release_all, row_bounds, take_rows

_MAGIC: Final = b"MUT2"


class UserTable:
    """Streaming state of one partition. Single-threaded.

    A user whose `User` says `deleted` is erased for good: the row is emptied and later records of that id are
    refused.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._state = KeyedState(plan_of(layout, layout.user))

    def __len__(self) -> int:
        return len(self._state)

    @property
    def used_bytes(self) -> int:
        """Memory in use."""
        return self._state.used_bytes

    def fold(self, events: EventColumns) -> None:
        """Fold good, deduplicated events of this partition, in offset order.

        What a row has in it already, by its offset, is passed over: a row may be newer than the checkpoint that the
        log is read from again.
        """
        state, done = self._state, 0
        if len(events) and int(events.action.max()) >= len(self._layout.usecase.actions):
            raise ValueError(f"action {int(events.action.max())}; the use case has {len(self._layout.usecase.actions)}")
        state.memory.words[CLOCK] += 1
        values = micros(events.value)
        while True:
            done = fold_users(
                state.plan,
                state.memory.words,
                state.index,
                state.dirty,
                events.user_id,
                events.item_id,
                events.action,
                values,
                events.event_time_us,
                events.category,
                events.offset,
                done,
            )
            if done == len(events):
                return
            state.grow()

    def fold_users(self, users: Sequence[pb.User], offsets: Sequence[int]) -> None:
        """Take over attributes and erasures of topic `users`, in offset order."""
        state = self._state
        plan = state.plan
        for user, offset in zip(users, offsets, strict=True):
            state.grow()
            words = state.memory.words
            head = _touch(plan, words, state.index, np.uint64(user.id))
            if words[head + FLAGS] & ERASED or offset < words[head + USERS]:
                continue
            if user.deleted:
                _erase(plan, words, head)
            else:
                numbers, codes = read_attributes(self._layout.user, user.attributes)
                values = np.concatenate([np.array(numbers, np.float64).view(np.int64), np.array(codes, np.int64)])
                words[head + plan[AT_NUMBERS] : head + plan[AT_END]] = values  # the codes stand after the numbers
            words[head + USERS] = offset + 1
            _mark(words, state.dirty, head)
            del words

    @property
    def dirty(self) -> int:
        """How many rows have changed since `take_dirty`."""
        return self._state.dirty_count

    def take_dirty(self) -> Ids:
        """Ids whose rows changed since the last call, uint64 (n,), ascending."""
        return self._state.take_dirty()

    def unknown(self, ids: Ids) -> Ids:
        """Those that have no row here, uint64 (n,), ascending, each once."""
        missing = ids[self._state.heads(ids) == 0]
        return np.unique(missing) if len(missing) else missing

    def least_active(self, count: int) -> Ids:
        """The users whose last event is the longest ago, at most `count`, uint64 (n,), ascending."""
        return self._state.least_active(count)

    def drop(self, ids: Ids) -> None:
        """Forget known users, none of them changed since `take_dirty`; their memory is used again."""
        state = self._state
        _drop(state.plan, state.memory.words, state.index, ids)

    def all_users(self) -> Ids:
        """Every id with a row, uint64 (n,), ascending; erased ones too: their rows were emptied and must be written."""
        return self._state.ids()

    def rows(self, ids: Ids | Sequence[int], epoch: int) -> PackedRows:
        """The packed rows of known users, in the order given."""
        state, user_ids = self._state, np.asarray(ids, np.uint64)
        heads = state.heads(user_ids)
        if not heads.all():
            raise KeyError(f"user {user_ids[int(np.argmin(heads))]} has no row")
        bounds = row_bounds(state.plan, state.memory.words, heads)
        data = np.empty(bounds[-1], np.uint8)
        memory = state.memory
        put_rows(state.plan, memory.words, heads, epoch, bounds, data)
        return PackedRows(user_ids, bounds, data)

    def row(self, user_id: int, epoch: int) -> bytes:
        """The packed row; of an unknown user: an empty one."""
        if not self._state.heads(np.array([user_id], np.uint64))[0]:
            return pack_user(self._layout, UserState(self._layout.user), epoch)
        return self.rows([user_id], epoch).data.tobytes()

    def save(self, ids: Ids | None = None) -> bytes:
        """The whole state, or that of some known users, ascending; the same bytes for the same log."""
        return save_rows(_MAGIC, self._layout.layout_hash, self.rows(self.all_users() if ids is None else ids, 0))

    def load(self, blob: bytes) -> None:
        """Replace the state by a saved one. Raises: LayoutMismatch, CorruptRow."""
        self._state.clear()
        self.update(blob)

    def update(self, blob: bytes) -> None:
        """Take over users as they were saved, in place of what is known of them. Raises: LayoutMismatch, CorruptRow."""
        self.take(load_rows(_MAGIC, self._layout.layout_hash, blob))

    def take(self, rows: PackedRows) -> None:
        """Take over users by their packed rows, in place of what is known of them. Raises: CorruptRow."""
        state, done = self._state, 0
        while True:
            done = take_rows(
                state.plan,
                state.memory.words,
                state.index,
                rows.ids,
                rows.bounds,
                rows.data,
                done,
            )
            if done < 0:
                raise CorruptRow(f"saved row of user {rows.ids[-1 - done]}: its lengths do not add up; rebuild it")
            if done == len(rows):
                return
            state.grow()


@kernel
def _touch(plan: Plan, words: Words, index: Index, user_id: np.uint64) -> int:
    return head_of(plan, words, index, user_id)


@kernel
def _mark(words: Words, dirty: Words, head: int) -> None:
    mark_dirty(words, dirty, head)


@kernel
def _drop(plan: Plan, words: Words, index: Index, ids: Ids) -> None:
    for i in range(len(ids)):
        row = row_of(index, ids[i])
        head = index[row, 1]
        release_all(plan, words, head)
        give_lines(words, head, plan[HEAD_WORDS])
        remove(index, row)
        words[KEYS] -= 1


@kernel
def _erase(plan: Plan, words: Words, head: int) -> None:
    """An empty state that refuses events. Its offsets stay, so that the emptied row wins over the old one."""
    offset, flags = words[head + INTERACTIONS], words[head + FLAGS]
    release_all(plan, words, head)
    clear_head(plan, words, head)
    words[head + INTERACTIONS] = offset
    words[head + FLAGS] = flags | ERASED
