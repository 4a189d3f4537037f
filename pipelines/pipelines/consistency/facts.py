"""Facts of one log from the lake: events by user and by item, users and items as each record of them left them."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt
import polars as pl
from definitions.dedupe import first_occurrences
from definitions.events import EventColumns
from millrace.events.v1 import events_pb2 as pb
from stores.offline import Lake
from stores.offline.rows import to_events, to_items, to_users

Ids = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int64]
Entity = TypeVar("Entity", pb.User, pb.Item)


class Versions(Generic[Entity]):
    """One user's or item's records in log order, with offset and the broker's time of each."""

    def __init__(self) -> None:
        self.offsets: list[int] = []
        self.times_us: list[int] = []
        self.entities: list[Entity] = []

    def add(self, offset: int, time_us: int, entity: Entity) -> None:
        """The next record."""
        self.offsets.append(offset)
        self.times_us.append(time_us)
        self.entities.append(entity)

    def below(self, offset: int) -> Entity | None:
        """What all records below an offset left."""
        place = bisect_left(self.offsets, offset)
        return self.entities[place - 1] if place else None

    def at(self, time_us: int) -> Entity | None:
        """What all records that had arrived by then left."""
        place = bisect_right(self.times_us, time_us)
        return self.entities[place - 1] if place else None

    def changed_us(self, seen_us: int) -> int:
        """How long before `seen_us` the newest record had arrived that had by then; huge if there is none."""
        place = bisect_right(self.times_us, seen_us)
        return seen_us - self.times_us[place - 1] if place else 2**62


class ByKey:
    """Places of events by one of their ids, in log order."""

    def __init__(self, keys: Ids) -> None:
        self._order = np.argsort(keys, kind="stable")
        self._keys = keys[self._order]

    def of(self, key: int) -> Ints:
        """Places of one key's events, ascending."""
        first, end = np.searchsorted(self._keys, np.array([key, key + 1], np.uint64))
        return self._order[first:end]

    def of_all(self, keys: Iterable[int]) -> Ints:
        """Places of several keys' events, ascending."""
        parts = [self.of(key) for key in keys]
        return np.sort(np.concatenate(parts)) if parts else np.zeros(0, np.int64)


@dataclass(frozen=True, eq=False)
class Facts:
    """Good events of one log, each event_id once by the log's rule, and every record of users and items."""

    events: EventColumns
    by_user: ByKey
    by_item: ByKey
    users: Mapping[int, Versions[pb.User]]
    items: Mapping[int, Versions[pb.Item]]

    @classmethod
    def of_lake(cls, lake: Lake, log_id: str, window: int) -> "Facts":
        """Everything that the archiver wrote of a log; `window` is the use case's `dedupe_offsets`."""
        frame = lake.scan("interactions").filter(pl.col("log_id") == log_id).sort("partition", "offset").collect()
        events = to_events(frame)
        events = events.take(first_occurrences(events.event_id, events.partition, events.offset, window))
        users, items = (
            lake.scan(table).filter(pl.col("log_id") == log_id).sort("partition", "offset").collect()
            for table in ("users", "items")
        )
        return cls(
            events,
            ByKey(events.user_id),
            ByKey(events.item_id),
            _versions(users, to_users(users)),
            _versions(items, to_items(items)),
        )

    def users_below(self, offsets: Mapping[int, int]) -> dict[int, pb.User]:
        """User id -> its record below the given offset of `users`."""
        found = ((user, self.users[user].below(offset)) for user, offset in offsets.items() if user in self.users)
        return {user: record for user, record in found if record is not None}

    def users_at(self, users: Iterable[int], time_us: int) -> dict[int, pb.User]:
        """User id -> its record when the log was that old."""
        found = ((user, self.users[user].at(time_us)) for user in users if user in self.users)
        return {user: record for user, record in found if record is not None}

    def items_at(self, items: Iterable[int], time_us: int) -> dict[int, pb.Item]:
        """Item id -> its record when the log was that old."""
        found = ((item, self.items[item].at(time_us)) for item in items if item in self.items)
        return {item: record for item, record in found if record is not None}


def _versions(frame: pl.DataFrame, entities: list[Entity]) -> dict[int, Versions[Entity]]:
    found: dict[int, Versions[Entity]] = {}
    offsets, times_us = frame["offset"].to_list(), frame["timestamp_us"].to_list()
    for offset, time_us, entity in zip(offsets, times_us, entities, strict=True):
        found.setdefault(entity.id, Versions()).add(offset, time_us, entity)
    return found
