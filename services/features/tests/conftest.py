"""A world for the loop without Kafka, LMDB or waiting: a log, a guarded store, a topic of partials, and a fuse.

The fuse burns at every step that leaves the process; where it blows, the process is dead: the loop object is thrown
away, and only what had reached log, store, topic and disk remains.
"""

import random
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from definitions.layout import Layout, layout_of
from definitions.packed_rows import PackedRows
from definitions.record_columns import RecordColumns
from definitions.records import LogRecord
from definitions.usecase import load_usecase
from features.checkpoints import Checkpoint, CheckpointFolder
from features.emission import RowPace
from features.errors import CheckpointUnwritable, PublishFailed
from features.evicted import Evicted
from features.log import Batch, Bounds, Found, Lease, Origin, Place
from features.loop import FeatureLoop, Pace
from features.metrics import FeatureMetrics
from features.owned import Owned
from features.partition import KINDS, PartitionState
from millrace.events.v1 import events_pb2 as pb
from prometheus_client import CollectorRegistry
from stores.errors import StoreUnavailable
from stores.online.guard import version_of, wins

NOW_US = 1_700_000_000_000_000
USECASE = """
usecase: shop
actions: [{name: view}, {name: buy, label: 1}]
attributes: {user: {age: number}, item: {kind: category}}
category: item.kind
seen: {actions: [buy], last: 4}
dedupe_offsets: 40
features:
  - {name: u_seen, of: user, kind: count, action: view, windows: [1h, all]}
  - {name: u_spent, of: user, kind: mean, action: buy, windows: [24h, all], prior: {mean: 2, weight: 3}}
  - {name: u_active, of: user, kind: decayed_count, half_life: 6h}
  - {name: u_idle, of: user, kind: recency, cap: 30d}
  - {name: u_recent, of: user, kind: last_k, action: buy, k: 5}
  - {name: u_kind, of: user, kind: affinity, k: 3, half_life: 30d, positive: buy}
  - {name: x_kind, of: cross, kind: affinity_rate, table: u_kind, prior: {mean: 0.5, weight: 1}}
  - {name: u_age, of: user, kind: attribute, from: age, default: 30}
  - {name: i_bought, of: item, kind: rate, num: buy, den: view, windows: [1h, all], prior: {mean: 0.1, weight: 5}}
"""


class Killed(BaseException):
    """The process ends here, without a chance to clean up."""


class Fuse:
    """Blows at the nth step, once."""

    def __init__(self) -> None:
        self.left: int | None = None
        self.steps = 0

    def burn(self) -> None:
        self.steps += 1
        if self.left is not None:
            self.left -= 1
            if self.left <= 0:
                self.left = None
                raise Killed


class Clock:
    """Moves only when a poll waits, or when told to."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


class FakeLog:
    """Records by place."""

    def __init__(self) -> None:
        self.records: dict[Place, list[LogRecord]] = {}
        self.first: dict[Place, int] = {}
        self.committed: dict[Place, int] = {}
        self.most = 1_000_000  # records of a place in one poll
        self.is_deaf = False  # a reader hears nothing, although the log goes on

    def append(self, place: Place, key: int, message: pb.Interaction | pb.User | bytes) -> int:
        value = message if isinstance(message, bytes) else message.SerializeToString()
        offset = len(self.records[place])
        self.records[place].append(LogRecord(offset, NOW_US, key.to_bytes(8, "big"), value))
        return offset


class FakeReader:
    """One worker's source: some places of the log."""

    def __init__(self, log: FakeLog, places: Sequence[Place], clock: Clock, fuse: Fuse) -> None:
        self.starts: list[Mapping[Place, int]] = []
        self._log, self._places, self._clock, self._fuse = log, places, clock, fuse
        self._at: dict[Place, int] = {}

    def bounds(self) -> Mapping[Place, Bounds]:
        self._fuse.burn()
        log = self._log
        return {place: Bounds(log.first.get(place, 0), len(log.records[place])) for place in self._places}

    def start(self, offsets: Mapping[Place, int]) -> None:
        self.starts.append(dict(offsets))
        self._at = dict(offsets)

    def poll(self, timeout_s: float) -> Sequence[Batch]:
        self._fuse.burn()
        batches = []
        for place, at in self._at.items():
            if found := [] if self._log.is_deaf else self._log.records[place][at : at + self._log.most]:
                self._at[place] = at + len(found)
                batches.append(Batch(place, RecordColumns.of(found), at + len(found)))
        if not batches:
            self._clock.now += timeout_s
        return batches

    def positions(self) -> Mapping[Place, int]:
        return dict(self._at)

    def lags(self) -> Mapping[Place, int]:
        return {place: len(self._log.records[place]) - at for place, at in self._at.items()}

    def is_read(self) -> bool:
        return not any(self.lags().values())

    def commit(self, offsets: Mapping[Place, int]) -> None:
        self._fuse.burn()
        self._log.committed.update(offsets)


class FakeStore:
    """The online store's contract in a dict."""

    def __init__(self, fuse: Fuse) -> None:
        self.rows: dict[int, bytes] = {}
        self.writes: list[dict[int, bytes]] = []
        self.is_away = False
        self._name = "first"
        self._fuse = fuse

    def write(self, rows: Mapping[int, bytes]) -> int:
        self._fuse.burn()
        if self.is_away:
            raise StoreUnavailable("away")
        won = {}
        for user, row in rows.items():
            if user not in self.rows or wins(version_of(row), version_of(self.rows[user])):
                self.rows[user] = won[user] = row
        self.writes.append(won)
        self._fuse.burn()
        return len(won)

    def write_rows(
        self, ids: npt.NDArray[np.uint64], bounds: npt.NDArray[np.int64], data: npt.NDArray[np.uint8]
    ) -> int:
        return self.write(dict(PackedRows(ids, bounds, data).items()))

    def read(self, user_id: int) -> bytes | None:
        return self.rows.get(user_id)

    def read_many(self, user_ids: Iterable[int]) -> dict[int, bytes]:
        return {user: self.rows[user] for user in user_ids if user in self.rows}

    def all_ids(self) -> npt.NDArray[np.uint64]:
        return np.array(sorted(self.rows), np.uint64)

    def identity(self) -> str:
        if self.is_away:
            raise StoreUnavailable("away")
        return self._name

    def clear(self) -> None:
        self.rows.clear()
        self._name += "'"

    def close(self) -> None:
        pass


class FakeTopic:
    """`item-features`: what is sent is on the log only after a flush; before it, a kill loses a tail of it."""

    def __init__(self, fuse: Fuse) -> None:
        # epoch, origin, item, partial; item 0: the marker's offset
        self.records: list[tuple[int, int, int, bytes | int]] = []
        self.is_away = False
        self._unsent: list[tuple[int, int, int, bytes | int]] = []
        self._fuse = fuse

    def publish(
        self,
        usecase: str,
        origin: int,
        partials: PackedRows,
        epoch: int,
        offset: int,
    ) -> None:
        self._fuse.burn()
        if self.is_away:
            self._unsent.clear()
            raise PublishFailed("away")
        self._unsent += [(epoch, origin, item, partial) for item, partial in partials.items()]
        self._unsent.append((epoch, origin, 0, offset))

    def flush(self) -> None:
        if self.is_away:
            self._unsent.clear()
            raise PublishFailed("away")
        while self._unsent:
            self._fuse.burn()
            self.records.append(self._unsent.pop(0))

    def audit(self, leases: Mapping[Origin, Lease]) -> Mapping[Origin, Found]:
        self._fuse.burn()
        found = {}
        for place, (own, known) in leases.items():
            newest = {
                item: epoch for epoch, origin, item, _ in self.records[known:] if item and origin == place.partition
            }
            items = {item for item, epoch in newest.items() if epoch < own}
            found[place] = Found(items, len(self.records))
        return found

    def lose_buffer(self) -> None:
        self._unsent.clear()

    def partials(self) -> dict[tuple[int, int], bytes]:
        """What a reader that applies up to markers knows, by (origin, item)."""
        return self._read(self.records)

    def compacted(self) -> dict[tuple[int, int], bytes]:
        """The same after the cleaner has left the last record of each key."""
        last = {(origin, item): number for number, (_, origin, item, _) in enumerate(self.records)}
        return self._read([self.records[number] for number in sorted(last.values())])

    @staticmethod
    def _read(records: Sequence[tuple[int, int, int, bytes | int]]) -> dict[tuple[int, int], bytes]:
        applied: dict[tuple[int, int], bytes] = {}
        waiting: dict[tuple[int, int], bytes] = {}
        epochs: dict[int, int] = {}
        for epoch, origin, item, value in records:
            if epoch < epochs.get(origin, 0):
                continue
            epochs[origin] = epoch
            if isinstance(value, bytes):
                waiting[origin, item] = value
            else:
                applied |= {key: waiting.pop(key) for key in list(waiting) if key[0] == origin}
        return applied


class FusedFolder(CheckpointFolder):
    """Checkpoints whose writing can be cut at each step."""

    def __init__(self, root: Path, fuse: Fuse) -> None:
        super().__init__(root)
        self.is_full = False
        self._fuse = fuse

    def lease(self, above: int = 0) -> int:
        epoch = super().lease(above)
        self._fuse.burn()
        return epoch

    def save(self, checkpoint: Checkpoint) -> int:
        self.check(checkpoint.epoch)
        if self.is_full:
            raise CheckpointUnwritable("full")
        raw = b"".join(checkpoint.encode())
        for part in (0, len(raw) // 2, len(raw)):  # a temporary file cut anywhere
            (self.root / str(checkpoint.epoch) / "checkpoint.tmp").write_bytes(raw[:part])
            self._fuse.burn()
        size = super().save(checkpoint)
        self._fuse.burn()
        return size


class FusedEvicted(Evicted):
    """Rows on the disk, and a kill before and after each writing of them."""

    def __init__(self, root: Path, fuse: Fuse) -> None:
        super().__init__(root, "shop", 1)
        self._fuse = fuse
        self.written = self.found = 0

    def write(self, rows: PackedRows) -> None:
        if len(rows):
            self._fuse.burn()
        super().write(rows)
        self.written += len(rows)
        if len(rows):
            self._fuse.burn()

    def read(self, ids: npt.NDArray[np.uint64]) -> PackedRows:
        rows = super().read(ids)
        self.found += len(rows)
        return rows


class World:
    """Log, store, topic and disk of one use case with two partitions; loops come and go."""

    increments_from = 1 << 20
    rows = RowPace()
    most_bytes = 1 << 40  # 1: everybody is evicted at each checkpoint

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path = folder / "shop.yaml"
        path.write_text(USECASE)
        self.layout: Layout = layout_of(load_usecase(path))
        self.fuse, self.clock = Fuse(), Clock()
        self.log = FakeLog()
        self.store, self.topic = FakeStore(self.fuse), FakeTopic(self.fuse)
        self.is_ready: list[bool] = []
        self.evicted: list[FusedEvicted] = []
        self.last: FeatureLoop | None = None
        self._sent = 0
        self.registry = CollectorRegistry()
        for partition in range(2):
            for kind in ("interactions", "users"):
                self.log.records[Place("shop", kind, partition)] = []

    def loop(self, partitions: Sequence[int] = (0, 1), **pace: float) -> FeatureLoop:
        """A new process: all but log, store, topic and disk begins anew; `reader`, `owned`, `folders` are its own."""
        self.loop_writer_rests()
        self.topic.lose_buffer()
        self.registry = CollectorRegistry()
        self.folders = [FusedFolder(self.folder / "log" / str(partition), self.fuse) for partition in partitions]
        for each in self.evicted:  # a process that dies gives its files back
            each.close()
        self.evicted = [FusedEvicted(folder.root, self.fuse) for folder in self.folders]
        self.owned = [
            Owned(
                "shop",
                PartitionState(self.layout, partition, evicted),
                folder,
                self.store,
                most_bytes=self.most_bytes,
                increments_from=self.increments_from,
            )
            for partition, folder, evicted in zip(partitions, self.folders, self.evicted, strict=True)
        ]
        places = [each.place(kind) for each in self.owned for kind in KINDS]
        self.reader = FakeReader(self.log, places, self.clock, self.fuse)
        self.last = FeatureLoop(
            self.owned,
            self.reader,
            self.topic,
            FeatureMetrics(self.registry),
            pace=Pace(rows=self.rows, **pace),
            clock=self.clock,
            on_ready=self.is_ready.append,
        )
        return self.last

    def loop_writer_rests(self) -> None:
        """Return once what the last loop writes beside itself has come."""
        if self.last is not None:
            self.last._writer.submit(int).result()

    def event(self, event_id: int, user: int, item: int = 7, **changed: object) -> int:
        """Append one interaction to its user's partition."""
        fields: dict[str, object] = {
            "event_id": event_id,
            "user_id": user,
            "item_id": item,
            "event_time_us": NOW_US - 3_600_000_000 + event_id,
        }
        message = pb.Interaction(**(fields | changed))  # type: ignore[arg-type]
        return self.log.append(Place("shop", "interactions", user % 2), user, message)

    def user(self, user: int, age: float) -> int:
        """Append one user's attributes."""
        message = pb.User(id=user, attributes={"age": pb.AttributeValue(number=age)})
        return self.log.append(Place("shop", "users", user % 2), user, message)

    def traffic(self, seed: int, events: int) -> None:
        """Events with repeats, late ones and ties, some users' attributes, and garbage."""
        chance = random.Random(seed)  # noqa: S311  seeded on purpose
        for _ in range(events):
            self._sent += 1
            again = self._sent > 1 and chance.random() < 0.25
            self.event(  # a repeat may be of an earlier batch, or of an earlier life
                chance.randrange(max(1, self._sent - 30), self._sent) if again else self._sent,
                user=chance.randrange(1, 12),
                item=chance.randrange(1, 8),
                action=chance.randrange(2),
                value=chance.choice([0.5, 1, 4]),
                category=chance.randrange(4),
                event_time_us=NOW_US - chance.choice([0, 1_000_000, 86_400_000_000]) * chance.randrange(20),
            )
            if chance.random() < 0.1:
                self.user(chance.randrange(1, 12), chance.randrange(18, 80))
            if chance.random() < 0.05:
                self.log.append(Place("shop", "interactions", 0), 2, b"\xff")

    def expected(self) -> tuple[dict[int, bytes], dict[tuple[int, int], bytes]]:
        """Rows (epoch 0) and partials of an undisturbed fold of the whole log in one go."""
        rows: dict[int, bytes] = {}
        partials: dict[tuple[int, int], bytes] = {}
        for partition in range(2):
            state = PartitionState(self.layout, partition)
            for kind in ("interactions", "users"):
                records = self.log.records[Place("shop", kind, partition)]
                state.fold(kind, RecordColumns.of(records), len(records))
            rows |= {user: state.users.row(user, 0) for user in state.users.all_users().tolist()}
            partials |= {(partition, item): state.items.partial(item) for item in state.items.all_items().tolist()}
        return rows, partials

    def settle(self, loop: FeatureLoop) -> None:
        """Turn until everything is read, emitted and saved."""
        for _ in range(1_000):
            loop.step()
            if not any(self.reader.lags().values()) and all(not each.silent_until for each in self.owned):
                break
        loop.checkpoint()

    def stored(self) -> dict[int, bytes]:
        """The online rows with the epoch taken out: two writers' rows are equal in all else."""
        return {user: row[:13] + bytes(4) + row[17:] for user, row in self.store.rows.items()}


@pytest.fixture
def world(tmp_path: Path) -> World:
    """An empty world."""
    return World(tmp_path)
