"""The users of one partition of `interactions` and `users`: fold, say what changed, give rows."""

from collections.abc import Sequence

from millrace.events.v1 import events_pb2 as pb

from definitions.attributes import read_attributes
from definitions.events import EventColumns, micros
from definitions.kernel import Moment, UserFolder, UserState
from definitions.layout import Layout
from definitions.packed import pack_user, unpack_user_row, with_epoch
from definitions.saved import load_table, save_table
from definitions.seen import seen_hash


class UserTable:
    """Streaming state of one partition. Single-threaded.

    A user whose `User` says `deleted` is erased for good: the row is emptied and later records of that id are
    refused.
    """

    _MAGIC = b"MUT1"

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._folder = UserFolder(layout.user, len(layout.usecase.actions))
        self._states: dict[int, UserState] = {}
        self._packed: dict[int, bytes] = {}  # loaded and not touched since
        self._dirty: set[int] = set()

    def __len__(self) -> int:
        return len(self._states) + len(self._packed)

    def fold(self, events: EventColumns) -> None:
        """Fold good, deduplicated events of this partition, in offset order."""
        moments = map(
            Moment,
            events.event_time_us.tolist(),
            events.item_id.tolist(),
            events.action.tolist(),
            micros(events.value).tolist(),
            events.category.tolist(),
        )
        fold, seen_actions = self._folder.fold, self._layout.seen_actions
        for user_id, offset, moment in zip(events.user_id.tolist(), events.offset.tolist(), moments, strict=True):
            state = self._states.get(user_id) or self._touch(user_id)
            if state.erased:
                continue
            fold(state, moment)
            state.interactions_offset = offset + 1
            if moment.action in seen_actions:
                self._remember(state.seen, seen_hash(moment.item_id))
            self._dirty.add(user_id)

    def fold_users(self, users: Sequence[pb.User], offsets: Sequence[int]) -> None:
        """Take over attributes and erasures of topic `users`, in offset order."""
        for user, offset in zip(users, offsets, strict=True):
            state = self._touch(user.id)
            if state.erased:
                continue
            if user.deleted:
                state = self._erase(user.id)
            else:
                state.numbers, state.codes = read_attributes(self._layout.user, user.attributes)
            state.users_offset = offset + 1
            self._dirty.add(user.id)

    def take_dirty(self) -> list[int]:
        """Ids whose rows changed since the last call, ascending."""
        dirty = sorted(self._dirty)
        self._dirty.clear()
        return dirty

    def all_users(self) -> list[int]:
        """Every id with a row, ascending; erased ones too, since their rows were emptied and must be written."""
        return sorted([*self._states, *self._packed])

    def row(self, user_id: int, epoch: int) -> bytes:
        """The packed row; of an unknown user: an empty one."""
        packed = self._packed.get(user_id)
        if packed is not None:
            return with_epoch(packed, epoch)
        state = self._states.get(user_id)
        if state is None:
            return pack_user(self._layout, UserState(self._layout.user), epoch)
        self._folder.sweep(state)
        return pack_user(self._layout, state, epoch)

    def save(self) -> bytes:
        """The whole state, the same bytes for the same log; what is dirty is not in it (emit first)."""
        entries = [(user_id, self.row(user_id, 0)) for user_id in self.all_users()]
        return save_table(self._MAGIC, self._layout.layout_hash, entries)

    def load(self, blob: bytes) -> None:
        """Replace the state by a saved one. Raises: LayoutMismatch, CorruptRow."""
        self._packed = dict(load_table(self._MAGIC, self._layout.layout_hash, blob))
        self._states.clear()
        self._dirty.clear()

    def _touch(self, user_id: int) -> UserState:
        state = self._states.get(user_id)
        if state is None:
            packed = self._packed.pop(user_id, None)
            side = self._layout.user
            state = UserState(side) if packed is None else unpack_user_row(self._layout, packed).state(side)
            self._states[user_id] = state
        return state

    def _erase(self, user_id: int) -> UserState:
        """An empty state that refuses events. Its offsets stay, so that the emptied row wins over the old one."""
        empty = UserState(self._layout.user)
        empty.interactions_offset = self._states[user_id].interactions_offset
        empty.erased = True
        self._states[user_id] = empty
        return empty

    def _remember(self, seen: dict[int, None], item_hash: int) -> None:
        seen.pop(item_hash, None)  # the latest stands last
        seen[item_hash] = None
        if len(seen) > self._layout.usecase.seen.last:
            del seen[next(iter(seen))]
