"""What a ranking costs before the model: the user's row read, the items viewed, all features assembled."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from definitions.assembly import RequestContext, assemble, past_items
from definitions.events import EventColumns
from definitions.item_feed import ItemFeed, item_features_key, marker_value, partial_value
from definitions.item_snapshot import ItemSnapshot
from definitions.item_table import ItemTable
from definitions.layout import Layout
from definitions.packed import unpack_user_row
from definitions.records import LogRecord
from definitions.user_state import UserTable
from definitions.user_values import UserAt
from millrace.events.v1 import events_pb2 as pb
from stores.online import AsyncOnlineReader, OnlineStore, open_online, open_online_reader

from pipelines.bench import at_least, at_most
from pipelines.bench.feast_online import feast_redis
from pipelines.progress import SILENT, Progress

LMDB_MS: Final = 0.5
VALKEY_MS: Final = 0.6
RATIO: Final = 15.0
MOONSHOT: Final = 30.0

_EPOCH: Final = 1
_PARTITIONS: Final = 4
_MODELS: Final = 2_000  # users, and items, whose events are really folded; the others have the bytes of one of them
_USER_EVENTS: Final = 30  # of a model user, on average
_ITEM_EVENTS: Final = 30  # of a model item and partition, on average
_SPAN_US: Final = 30 * 86_400 * 1_000_000
_CATEGORIES: Final = 40
_WRITE: Final = 10_000  # rows of one write
_POLL: Final = 500  # records of one poll
_WARM_UP: Final = 500
_TIMEOUT_S: Final = 1.0


def run(
    layout: Layout,
    valkey: str,
    lmdb_path: Path,
    *,
    users: int = 1_000_000,
    items: int = 100_000,
    candidates: int = 100,
    reads: int = 3_000,
    feast_users: int = 1_000,
    feast_items: int = 10_000,
    seed: int = 0,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """Fill LMDB below `lmdb_path` and the server at `valkey` (host:port, emptied first), then read from both.

    One read is one user, drawn evenly, and `candidates` items, drawn evenly: the packed row from the store, its values
    at the time of the read, the items' from the snapshot, float32 (candidates, features). One at a time, in this
    process. Feast reads `feast_users` and `feast_items` rows of as many plain columns from the same server.

    Raises:
        UnavailableError: no environment with Feast. StoreUnavailable: a server does not answer.
    """
    rng, now_us = np.random.default_rng(seed), time.time_ns() // 1_000
    progress.stage("feast on redis", None)
    cross = len(layout.feature_names) - len(layout.item.positions)
    feast = feast_redis(
        valkey,
        user_features=cross,
        item_features=len(layout.item.positions),
        candidates=candidates,
        users=feast_users,
        items=feast_items,
    )
    packed = _rows(layout, rng, now_us)
    snapshot, refresh_s = _snapshot(layout, rng, now_us, items, progress)
    found: dict[str, Any] = {}
    for name, address in (("lmdb", None), ("valkey", valkey)):
        store = open_online(layout.usecase.name, layout.revision, valkey=address, lmdb_path=lmdb_path)
        try:
            found[f"{name}_fill_rows_per_s"] = users / _fill(store, packed, users, progress, name)
            asked = _Asked(layout, snapshot, rng, users, items, candidates)
            reader = open_online_reader(layout.usecase.name, layout.revision, valkey=address, lmdb_path=lmdb_path)
            progress.stage(f"read {name}", None)
            times = asyncio.run(asked.all(reader, reads))
            found[f"{name}_p50_ms"], found[f"{name}_p99_ms"] = np.percentile(times, [50, 99]).tolist()
            store.clear()
        finally:
            store.close()
    result = {
        **found,
        "feast_p50_ms": feast["p50_ms"],
        "feast_p99_ms": feast["p99_ms"],
        "ratio_feast": feast["p50_ms"] / found["valkey_p50_ms"],
        "moonshot_ratio_feast": MOONSHOT,
        "users": users,
        "items": items,
        "candidates": candidates,
        "features": len(layout.feature_names),
        "feast_rows": feast["rows_loaded"],
        "row_bytes": float(np.mean([len(row) for row in packed])),
        "item_bytes": snapshot.nbytes / items,
        "item_partials_per_s": items * _PARTITIONS / refresh_s,
    }
    return {
        "what": (
            f"one user of {users:,} and {candidates} of {items:,} items, {len(layout.feature_names)} features of "
            f"{layout.usecase.name}: row read, values at t, assembly, each item viewed before. "
            f"Rows of {result['row_bytes']:,.0f} bytes, copies of {_MODELS:,} folded ones. "
            f"Feast {feast['feast']}, Redis store, same server: {feast_users:,} user and {feast_items:,} item rows "
            "of plain columns, its values stored, not computed"
        ),
        "table": [
            {"who": "Millrace, LMDB", "p50 ms": found["lmdb_p50_ms"], "p99 ms": found["lmdb_p99_ms"], "rows": users},
            {
                "who": "Millrace, Valkey",
                "p50 ms": found["valkey_p50_ms"],
                "p99 ms": found["valkey_p99_ms"],
                "rows": users,
            },
            {"who": "Feast, Redis", "p50 ms": feast["p50_ms"], "p99 ms": feast["p99_ms"], "rows": feast["rows_loaded"]},
        ],
        "bars": [
            at_most(result, "lmdb_p50_ms", LMDB_MS),
            at_most(result, "valkey_p50_ms", VALKEY_MS),
            at_least(result, "ratio_feast", RATIO),
        ],
        **result,
    }


class _Asked:
    """The same kind of read, again and again."""

    def __init__(
        self, layout: Layout, snapshot: ItemSnapshot, rng: np.random.Generator, users: int, items: int, candidates: int
    ) -> None:
        self._layout, self._snapshot, self._rng = layout, snapshot, rng
        self._users, self._items, self._candidates = users, items, candidates

    async def all(self, reader: AsyncOnlineReader, reads: int) -> list[float]:
        """Milliseconds of each of `reads`, after a warm-up."""
        for first in range(1, self._items + 1, _POLL):  # as after the first seconds of a tile: each item viewed once
            ids = np.arange(first, min(first + _POLL, self._items + 1), dtype=np.uint64)
            self._snapshot.view(ids, time.time_ns() // 1_000)
        times = []
        for number in range(_WARM_UP + reads):
            user_id = int(self._rng.integers(1, self._users + 1))
            picked = np.sort(self._rng.choice(self._items, self._candidates, replace=False) + 1).astype(np.uint64)
            begun = time.perf_counter()
            row = await self._one(reader, user_id, picked)
            if number >= _WARM_UP:
                times.append(1000 * (time.perf_counter() - begun))
            if not row:
                raise ValueError(f"user {user_id} has no row where one was written")
        await reader.close()
        return times

    async def _one(self, reader: AsyncOnlineReader, user_id: int, item_ids: npt.NDArray[np.uint64]) -> bool:
        packed = await reader.read(user_id, _TIMEOUT_S)
        row = None if packed is None else unpack_user_row(self._layout, packed)
        time_us = time.time_ns() // 1_000
        user = UserAt(self._layout, row, time_us)
        columns = self._snapshot.view(item_ids, time_us, past_items(user))
        assemble(user, columns, RequestContext())
        return row is not None


def _events(layout: Layout, rng: np.random.Generator, now_us: int, per_key: int, items: int) -> EventColumns:
    """Events of `_MODELS` users: how many varies tenfold, mostly of the last days; values as ratings or seconds."""
    counts = np.maximum(1, rng.lognormal(np.log(per_key), 0.8, _MODELS).astype(np.int64))
    m = int(counts.sum())
    item_ids = 1 + (items * rng.random(m) ** 3).astype(np.uint64)
    times = np.sort(now_us - 1 - (_SPAN_US * rng.random(m) ** 2).astype(np.int64))
    user_ids = rng.permutation(np.repeat(np.arange(1, _MODELS + 1, dtype=np.uint64), counts))
    actions = rng.integers(0, len(layout.usecase.actions), m)
    values = rng.integers(1, 6, m).astype(np.float32)
    category = (1 + item_ids % np.uint64(_CATEGORIES)).astype(np.uint32)
    return EventColumns.of(
        m, event_id=np.arange(1, m + 1), user_id=user_ids, item_id=item_ids, action=actions, value=values,
        event_time_us=times, category=category, offset=np.arange(m),
    )  # fmt: skip


def _rows(layout: Layout, rng: np.random.Generator, now_us: int) -> list[bytes]:
    """Packed rows of the model users."""
    table = UserTable(layout)
    table.fold(_events(layout, rng, now_us, _USER_EVENTS, 100_000))
    return [table.row(user_id, _EPOCH) for user_id in range(1, _MODELS + 1)]


def _fill(store: OnlineStore, rows: list[bytes], users: int, progress: Progress, name: str) -> float:
    """Write all users' rows; seconds that it took."""
    store.clear()
    progress.stage(f"fill {name}", users)
    begun = time.perf_counter()
    for first in range(1, users + 1, _WRITE):
        ids = range(first, min(first + _WRITE, users + 1))
        store.write({user_id: rows[user_id % _MODELS] for user_id in ids})
        progress.advance(len(ids))
    return time.perf_counter() - begun


def _snapshot(
    layout: Layout, rng: np.random.Generator, now_us: int, items: int, progress: Progress
) -> tuple[ItemSnapshot, float]:
    """A catalogue with aggregates from each partition, read as from the log; seconds that the aggregates took."""
    snapshot = ItemSnapshot(layout)
    feed = ItemFeed(snapshot)
    progress.stage("items", items)
    for first in range(1, items + 1, _POLL):
        ids = range(first, min(first + _POLL, items + 1))
        snapshot.put_items([_item(layout, item_id) for item_id in ids])
        progress.advance(len(ids))
    records = list(_item_records(layout, rng, now_us, items))
    begun = time.perf_counter()
    for first in range(0, len(records), _POLL):
        feed.take_features(records[first : first + _POLL])
    return snapshot, time.perf_counter() - begun


def _item(layout: Layout, item_id: int) -> pb.Item:
    item = pb.Item(id=item_id)
    for name in layout.item.numbers:
        item.attributes[name].number = item_id % 100
    for name in layout.item.codes:
        item.attributes[name].categories.codes.append(1 + item_id % _CATEGORIES)
    return item


def _item_records(layout: Layout, rng: np.random.Generator, now_us: int, items: int) -> Iterator[LogRecord]:
    for partition in range(_PARTITIONS):
        table, events = ItemTable(layout), _events(layout, rng, now_us, _ITEM_EVENTS, _MODELS)
        table.fold(events)
        partials = [partial_value(_EPOCH, table.partial(item_id)) for item_id in range(1, _MODELS + 1)]
        for item_id in range(1, items + 1):
            yield LogRecord(item_id, -1, item_features_key(item_id, partition), partials[item_id % _MODELS])
        yield LogRecord(items, -1, item_features_key(0, partition), marker_value(_EPOCH, len(events)))
