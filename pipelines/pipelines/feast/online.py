"""Feast's online store over ours: it reads what the gateway reads, and pushes attributes through the collector."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from definitions.item_snapshot import ItemSnapshot
from feast import FeatureView, RepoConfig
from feast.infra.online_stores.online_store import OnlineStore as FeastOnlineStore
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.repo_config import FeastConfigBaseModel
from stores.online import OnlineStore, open_online

from pipelines.feast.definitions import ATTRIBUTES
from pipelines.feast.errors import NotReadableError, PushRefusedError
from pipelines.feast.ids import from_feast
from pipelines.feast.opened import Opened
from pipelines.feast.pushing import push
from pipelines.feast.reading import Values, columns_of, read_items, read_pairs, read_users
from pipelines.feast.views import ITEM, USER
from pipelines.serving_view import FollowedItems

Row = tuple[datetime | None, dict[str, Value] | None]
_now_us: ContextVar[int | None] = ContextVar("now_us", default=None)  # one time for all views of one request


class MillraceOnlineStoreConfig(FeastConfigBaseModel):  # type: ignore[misc]  # Feast has no environment with types
    """`online_store` of `feature_store.yaml`, as `millrace feast apply` writes it.

    `usecase`: the use case's file, relative to the repository. `valkey` host:port, or none for LMDB in `lmdb`.
    `time_us`: the time at which features are read; by default the time of the request.
    """

    type: Literal["pipelines.feast.online.MillraceOnlineStore"] = "pipelines.feast.online.MillraceOnlineStore"
    usecase: str
    revision: int = 1
    valkey: str | None = None
    lmdb: str
    kafka: str
    collector: str
    time_us: int | None = None


class MillraceOnlineStore(FeastOnlineStore):  # type: ignore[misc]
    """Thread-safe. Opens the rows on the first read of a user, the item topics on the first read of an item."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._opened: Opened | None = None
        self._rows: OnlineStore | None = None
        self._items: FollowedItems | None = None

    def get_online_features(self, config: RepoConfig, *args: Any, **kwargs: Any) -> Any:
        """Feast's own, with one time for all views."""
        with _at(config.online_store.time_us or time.time_ns() // 1_000):
            return super().get_online_features(config, *args, **kwargs)

    def online_read(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKey],
        requested_features: list[str] | None = None,
    ) -> list[Row]:
        """One row for each key, also where nothing is known of it: then the values of one without history.

        Raises:
            NotReadableError: the view is for pushes, or of another layout than the repository's use case.
            stores.errors.StoreError, UnavailableError: what we read does not answer.
        """
        opened = self._open(config)
        view = opened.view(table.name, table.tags)
        time_us = _now_us.get() or config.online_store.time_us or time.time_ns() // 1_000
        keys = [_key(key) for key in entity_keys]
        columns = columns_of(view, requested_features)
        if view.keys == (USER,):
            values = read_users(opened.layout, self._user_rows(config), [key[USER] for key in keys], columns, time_us)
        elif view.keys == (ITEM,):
            values = read_items(opened.layout, self._snapshot(config), [key[ITEM] for key in keys], columns, time_us)
        else:
            pairs = [(key[USER], key[ITEM]) for key in keys]
            values = read_pairs(opened.layout, self._user_rows(config), self._snapshot(config), pairs, columns, time_us)
        return _as_rows([column.name for column in columns], values, time_us)

    def online_write_batch(
        self,
        config: RepoConfig,
        table: FeatureView,
        data: list[tuple[EntityKey, dict[str, Value], datetime, datetime | None]],
        progress: Callable[[int], Any] | None,
    ) -> None:
        """Attributes of users and items, to the collector; everybody sees them as soon as the log has gone round.

        Raises:
            PushRefusedError: the view holds aggregates, or the collector refused a row; nothing of it is stored here.
            UnavailableError: the collector does not answer.
        """
        kind = table.tags.get(ATTRIBUTES)
        if kind is None:
            raise PushRefusedError(
                f"{table.name}: aggregates follow from events and are never pushed; send the events to the collector "
                f"({config.online_store.collector}, millrace.client.EventClient.publish), or push attributes to a "
                f"`*_{ATTRIBUTES}` view"
            )
        opened = self._open(config)
        rows = [(next(iter(_key(key).values())), values) for key, values, _, _ in data]
        push(config.online_store.collector, opened.layout.usecase, kind, rows)
        if progress is not None:
            progress(len(rows))

    def update(
        self,
        config: RepoConfig,
        tables_to_delete: Sequence[FeatureView],
        tables_to_keep: Sequence[FeatureView],
        entities_to_delete: Sequence[Any],
        entities_to_keep: Sequence[Any],
        partial: bool,
    ) -> None:
        """Nothing: no row is Feast's."""

    def teardown(self, config: RepoConfig, tables: Sequence[FeatureView], entities: Sequence[Any]) -> None:
        """Closes what was opened; no row is Feast's to remove."""
        del config, tables, entities
        self._close()

    async def close(self) -> None:
        """Ends the readers and gives back files and connections."""
        self._close()

    def _close(self) -> None:
        with self._lock:
            if self._items is not None:
                self._items.stop()
            if self._rows is not None:
                self._rows.close()
            self._items = self._rows = None

    def _open(self, config: RepoConfig) -> Opened:
        with self._lock:
            if self._opened is None:
                store = config.online_store
                self._opened = Opened.of(config.repo_path, store.usecase, store.revision)
            return self._opened

    def _user_rows(self, config: RepoConfig) -> OnlineStore:
        opened = self._open(config)
        with self._lock:
            if self._rows is None:
                name, store = opened.layout.usecase.name, config.online_store
                self._rows = open_online(name, store.revision, valkey=store.valkey, lmdb_path=Path(store.lmdb))
            return self._rows

    def _snapshot(self, config: RepoConfig) -> ItemSnapshot:
        opened = self._open(config)
        with self._lock:
            if self._items is None:
                self._items = FollowedItems(config.online_store.kafka, opened.layout)
            return self._items.snapshot()


@contextmanager
def _at(time_us: int) -> Iterator[None]:
    token = _now_us.set(time_us)
    try:
        yield
    finally:
        _now_us.reset(token)


def _key(key: EntityKey) -> dict[str, int]:
    """Join key -> id."""
    found = {}
    for name, value in zip(key.join_keys, key.entity_values, strict=True):
        if value.WhichOneof("val") != "int64_val":
            raise NotReadableError(f"{name}: must be a whole number; text ids by millrace.ids.stable_id, then to_feast")
        found[name] = from_feast(value.int64_val)
    return found


def _as_rows(names: Sequence[str], values: Values, time_us: int) -> list[Row]:
    columns = [_protos(column) for column in values.columns]
    times = [datetime.fromtimestamp((newest or time_us) / 1e6, UTC) for newest in values.newest_us]
    if not columns:
        return [(at, {}) for at in times]
    return [(at, dict(zip(names, row, strict=True))) for at, row in zip(times, zip(*columns, strict=True), strict=True)]


def _protos(column: Any) -> list[Value]:
    """A column (n,) float32 or int64, or (n, width) int64, as Feast's values."""
    if column.ndim == 2:
        found = []
        for row in column.tolist():
            value = Value()
            value.int64_list_val.val.extend(row)
            found.append(value)
        return found
    if column.dtype.kind == "f":
        return [Value(float_val=value) for value in column.tolist()]
    return [Value(int64_val=value) for value in column.tolist()]
