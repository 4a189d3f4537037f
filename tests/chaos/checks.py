"""What must hold after everything: I1, I2, I3 and I15 of the lake, I4 and I5 of the online state."""

import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import polars as pl
from chaos.ledger import ITEMS, KINDS, USERS, event, is_garbage
from chaos.world import NAME, Worker, World, until
from definitions.assembly import RequestContext, assemble, past_items
from definitions.backfill import Queries, backfill
from definitions.dedupe import first_occurrences
from definitions.item_feed import ItemFeed, parse_item_features_key, parse_marker_value, parse_partial_value
from definitions.item_snapshot import ItemSnapshot
from definitions.layout import Layout, layout_of
from definitions.packed import unpack_user_row
from definitions.row_header import read_header
from definitions.usecase import load_usecase
from definitions.user_values import UserAt
from millrace.events.v1 import events_pb2 as pb
from servicekit.topics import DEAD_LETTERS
from stores.offline import Lake
from stores.offline.rows import to_events, to_users
from stores.online import OnlineStore, open_online

_EPOCH: Final = slice(13, 17)  # of an online row: two writers' rows are equal in all else
_SAMPLE: Final = 8  # items a user is compared with the batch oracle on
Partials = dict[tuple[int, int], bytes]


@dataclass
class Verdict:
    """What was found wrong: counts, and the first of each kind in words."""

    lost: int = 0
    duplicates: int = 0
    foreign: int = 0
    state_mismatches: int = 0
    details: list[str] = field(default_factory=list)

    def add(self, what: str, count: int, detail: str) -> None:
        """`count` more wrong of a kind."""
        if count:
            setattr(self, what, getattr(self, what) + count)
            self.details.append(f"{count} {what}: {detail}")


def check_archive(world: World, verdict: Verdict) -> None:
    """Rows and dead letters together are the log's records, each row once, each as it was attempted."""
    acks, attempts = world.ledger.acks(), world.ledger.attempts()
    lake = Lake(world.home.root / "lake", NAME)
    letters: dict[tuple[str, int, int], pb.DeadLetter] = {}
    for records in world.records(DEAD_LETTERS).values():
        for record in records:
            letter = pb.DeadLetter.FromString(record.value)
            letters[letter.topic, letter.partition, letter.offset] = letter
    for kind in KINDS:
        rows = lake.scan(kind).collect()
        places = list(rows.select("partition", "offset").iter_rows())
        dead = {(partition, offset) for name, partition, offset in letters if name == world.topic(kind)}
        there = set(places) | dead
        log = {(p, record.offset) for p, records in world.records(world.topic(kind)).items() for record in records}
        missing = [ack for ack in acks if ack.kind == kind and (ack.partition, ack.offset) not in there]
        verdict.add("lost", len(missing), f"{kind}: {missing[:3]}")
        verdict.add("lost", len(log - there), f"{kind} on the log, archived nowhere: {sorted(log - there)[:3]}")
        twice = len(places) - len(set(places)) + len(set(places) & dead)
        verdict.add("duplicates", twice, f"{kind}: (partition, offset) twice")
        verdict.add("foreign", len(there - log), f"{kind} archived, not on the log: {sorted(there - log)[:3]}")
        if kind == "interactions":
            _check_rows(world, rows, attempts, verdict)
            owed = {(ack.partition, ack.offset) for ack in acks if ack.kind == kind and is_garbage(ack.record_id)}
            verdict.add("lost", len(owed - dead), "garbage without a dead letter")


def _check_rows(world: World, rows: pl.DataFrame, attempts: set[tuple[int, Any]], verdict: Verdict) -> None:
    """Nobody invented a row, and none was changed on the way."""
    names = ("event_id", "user_id", "item_id", "action", "value", "event_time_us", "category")
    wrong, repeats = [], Counter(rows["event_id"].to_list())
    for row in rows.select(names).unique().iter_rows():
        sent = event(world.seed, row[0])
        if (row[0], "interactions") not in attempts or row != tuple(getattr(sent, name) for name in names):
            wrong.append(row)
    verdict.add("foreign", len(wrong), f"rows nobody sent so: {wrong[:2]}")
    sent_twice = Counter(ack.record_id for ack in world.ledger.acks() if ack.kind == "interactions")
    more = [each for each, count in repeats.items() if each in sent_twice and count > sent_twice[each] + 1]
    verdict.add("duplicates", len(more), f"more rows than sends: {more[:3]}")


@dataclass
class State:
    """What readers can know: rows without their epoch, and item partials by (origin, item)."""

    rows: dict[int, bytes]
    partials: Partials
    compacted: Partials  # as the log's cleaner would leave the topic: the last record of each key


def online_state(world: World, store: OnlineStore, first: Mapping[int, int] | None = None) -> State:
    """Rows of the store; partials of `item-features` from the offsets `first` on, by the readers' rule."""
    rows = store.read_many(store.all_ids().tolist())
    partials: Partials = {}
    compacted: Partials = {}
    for records in world.records(world.topic("item-features"), first).values():
        partials |= _applied([(record.key, record.value) for record in records])
        newest = {record.key: (number, record.value) for number, record in enumerate(records)}
        kept = sorted((number, key, value) for key, (number, value) in newest.items())
        compacted |= _applied([(key, value) for _, key, value in kept])
    masked = {user: row[: _EPOCH.start] + bytes(4) + row[_EPOCH.stop :] for user, row in rows.items()}
    return State(masked, partials, compacted)


def _applied(records: Sequence[tuple[bytes, bytes | None]]) -> Partials:
    """What a reader has that applies up to markers and ignores writers without a lease (`definitions.item_feed`)."""
    known: Partials = {}
    waiting: Partials = {}
    epochs: dict[int, int] = {}
    for key, value in records:
        item, origin = parse_item_features_key(key)
        if value is None:
            waiting.pop((origin, item), None)
            continue
        epoch, rest = parse_partial_value(value) if item else (parse_marker_value(value)[0], b"")
        if epoch < epochs.get(origin, 0):
            continue
        epochs[origin] = epoch
        if item:
            waiting[origin, item] = rest
        else:
            known |= {place: waiting.pop(place) for place in list(waiting) if place[0] == origin}
    return known


def check_state(world: World, store: OnlineStore, verdict: Verdict) -> None:
    """The state is that of a fresh, undisturbed process over the same log, byte for byte, and the batch oracle's."""
    first = world.ends("item-features")
    state = online_state(world, store)
    calm_home = world.home.root / "undisturbed"
    calm_home.mkdir()
    calm = Worker(world, "features", home=calm_home)
    calm.await_ready()
    await_saved(world, calm)
    calm.stop()
    calm_store = open_online(NAME, 1, valkey=None, lmdb_path=calm_home / "data" / "online")
    try:
        expected = online_state(world, calm_store, first)
    finally:
        calm_store.close()
    for what, got, want in (
        ("rows", state.rows, expected.rows),
        ("partials", state.partials, expected.partials),
        ("partials of a compacted topic", state.compacted, expected.partials),
    ):
        wrong = [key for key in got.keys() | want.keys() if got.get(key) != want.get(key)]  # type: ignore[attr-defined,call-overload]
        verdict.add("state_mismatches", len(wrong), f"{what} other than undisturbed: {wrong[:3]} of {len(want)}")
    verdict.add("state_mismatches", int(not expected.rows or not expected.partials), "nothing to compare with")
    _check_oracle(world, state, verdict)


def await_saved(world: World, worker: Worker) -> None:
    """Until a checkpoint of the worker covers the whole log."""

    def is_saved() -> bool:
        saved = worker.flush()["offsets"][NAME]
        return all(saved[str(p)][kind] == end for kind in KINDS for p, end in world.ends(kind).items())

    until(is_saved, "features has saved the whole log", 300)


def _check_oracle(world: World, state: State, verdict: Verdict) -> None:
    """Values from rows and snapshot equal those that `backfill` makes of the lake."""
    layout: Layout = layout_of(load_usecase(world.usecase))
    lake = Lake(world.home.root / "lake", NAME)
    events = to_events(lake.scan("interactions").sort("partition", "offset").collect())
    window = layout.usecase.dedupe_offsets
    events = events.take(first_occurrences(events.event_id, events.partition, events.offset, window))
    frame = lake.scan("users").sort("partition", "offset").collect()
    users = {user.id: user for user in to_users(frame)}
    snapshot = ItemSnapshot(layout)
    feed = ItemFeed(snapshot)
    for records in world.records(world.topic("item-features")).values():
        feed.take_features(records)
    time_us = int(events.event_time_us.max()) + 1
    chance = np.random.default_rng(world.seed)
    asked = {user: chance.integers(1, ITEMS + 1, _SAMPLE).astype(np.uint64) for user in sorted(state.rows)}
    got = []
    for user, items in asked.items():
        user_at = UserAt(layout, unpack_user_row(layout, state.rows[user]), time_us)
        view = snapshot.view(items, time_us, past_items(user_at))
        got.append(assemble(user_at, view, RequestContext()).features)
    ids, items = np.repeat(list(asked), _SAMPLE), np.concatenate(list(asked.values()))
    want = backfill(layout, events, users, {}, Queries.of(ids, items, np.full(len(ids), time_us)))
    same = np.isclose(np.concatenate(got), want.features, rtol=1e-6, atol=1e-9)
    names = sorted({layout.feature_names[column] for column in np.flatnonzero(~same.all(axis=0))})
    verdict.add("state_mismatches", int((~same).sum()), f"values other than the oracle's, of {same.size}: {names}")


class Watcher(threading.Thread):
    """A reader: no row's offsets may ever go back (I5)."""

    def __init__(self, store: OnlineStore) -> None:
        super().__init__(name="watcher", daemon=True)
        self._store = store
        self._stopping = threading.Event()
        self.steps_back: list[str] = []

    def run(self) -> None:
        """Until stopped."""
        newest: dict[int, tuple[int, int]] = {}
        while not self._stopping.wait(0.2):
            for user, row in self._store.read_many(range(1, USERS + 1)).items():
                header = read_header(row)
                version = (header.interactions_offset, header.users_offset)
                before = newest.get(user, version)
                if any(now < then for now, then in zip(version, before, strict=True)):
                    self.steps_back.append(f"user {user}: {before} then {version}, epoch {header.epoch}")
                newest[user] = version

    def stop(self) -> None:
        """No more reads."""
        self._stopping.set()
        self.join(10)
