"""The lake: Delta tables that hold each log record exactly once.

Rows and the offset after them are one commit: Delta keeps, per log and partition, the next offset as the version of an
application transaction. Delta accepts a *repeated* transaction through a fresh handle (delta-io/delta-rs#2580) and
refuses one through a stale handle, so every append takes a fresh handle, reads the position from it, drops the rows
below, and commits through that same handle.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from deltalake import (
    ColumnProperties,
    CommitProperties,
    DeltaTable,
    Transaction,
    WriterProperties,
    write_deltalake,
)
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError

from stores.errors import NewerWriter, StoreUnavailable, UnknownTable
from stores.offline.schemas import TABLES, TableSpec, empty, restored, to_stored
from stores.offline.table_files import LocalNames

# Other partitions commit to the same table. Each commit takes the next free version, so with w writers one may lose
# w - 1 races in a row; with the library's 15 retries 8 writers failed 3 of 160 commits (measured, 2 cores).
_COMMIT_RETRIES: Final = 100
_APPEND_TRIES: Final = 5
# Delta takes Snappy by itself. zstd's level 1 makes impressions 40 % smaller for 30 % more of a commit's time.
_COMPRESSION: Final = "SNAPPY"
_WRITERS: Final = {
    dictionaries: WriterProperties(
        compression=_COMPRESSION, default_column_properties=ColumnProperties(dictionary_enabled=dictionaries)
    )
    for dictionaries in (True, False)
}


def app_id(log_id: str, topic: str, partition: int) -> str:
    """Name of a partition's transactions: a new or wiped broker has another log id, so it never looks like old data."""
    return f"{log_id}/{topic}-{partition}"


@dataclass(frozen=True)
class Upkeep:
    """What became of a table's files: `merged` small ones `into` fewer, and `removed`, which nothing names any more."""

    merged: int
    into: int
    removed: int


@dataclass(frozen=True)
class Part:
    """What one partition adds: rows with their `offset` column, all below `next_offset`."""

    app_id: str
    rows: pa.Table
    next_offset: int
    expected: int | None = None
    """Where the writer believes the table to be; NewerWriter if it is elsewhere. None: wherever it is."""


class Lake:
    """Tables of one use case below `<root>/<usecase>/`, those that all use cases share below `<root>/`.

    Tables are created by the first write. Every method raises UnknownTable, and StoreUnavailable where the files
    cannot be read or written now. Threads and processes may share a lake.
    """

    def __init__(self, root: str | Path, usecase: str) -> None:
        """`root` is a folder or an object store's URI."""
        self._root = str(root).rstrip("/")
        self._usecase = usecase

    def uri(self, table: str) -> str:
        """Where the Delta table is."""
        return f"{self._root}/{table}" if _spec(table).shared else f"{self._root}/{self._usecase}/{table}"

    def append(self, table: str, rows: pa.Table, *, app_id: str, version: int) -> int:
        """Add log rows of one partition; `version` is the offset after them. How many were new.

        Rows below the partition's position are there already and are dropped. `rows` has the table's schema.

        Raises:
            NewerWriter: another process wrote this partition while this call ran.
            ValueError: rows of another schema, or at or past `version`.
        """
        return self.commit(table, [Part(app_id, rows, version)])

    def commit(self, table: str, parts: Sequence[Part]) -> int:
        """Add log rows of several partitions in one commit: all of them, or nothing. How many were new.

        Raises:
            NewerWriter: another process wrote one of these partitions, since its `expected` position was read or
                while this call ran. It owns the partition: end, never retry.
            StoreUnavailable: nothing was written, or it was and the answer was lost. Calling again is safe, with
                `expected=None`.
            ValueError: rows of another schema, or at or past their part's `next_offset`.
        """
        spec = _spec(table)
        for part in parts:
            highest = pc.max(part.rows["offset"]).as_py() if len(part.rows) else None
            if highest is not None and highest >= part.next_offset:
                raise ValueError(f"{part.app_id}: offset {highest} is not below next_offset {part.next_offset}")
        stored = [to_stored(spec, part.rows) for part in parts]
        with _translated(table):
            for attempt in range(_APPEND_TRIES):
                handle = self._open_or_create(spec)
                positions = {part.app_id: handle.transaction_version(part.app_id) or 0 for part in parts}
                _check_expected(parts, positions)
                try:
                    return _commit(handle, spec, parts, stored, positions)
                except CommitFailedError:
                    # Only the table can tell why: a position that moved is a newer writer, anything else is
                    # contention.
                    fresh = DeltaTable(self.uri(table))
                    for name, before in positions.items():
                        if (fresh.transaction_version(name) or 0) != before:
                            raise NewerWriter(f"{table}: {name} moved past {before} during this commit") from None
                    if attempt == _APPEND_TRIES - 1:
                        raise
        raise AssertionError("unreachable: the last try returns or raises")

    def next_offset(self, table: str, app_id: str) -> int:
        """The offset that the partition's next row must have; 0 if nothing of it was written."""
        with _translated(table):
            handle = self._open(table)
            return 0 if handle is None else handle.transaction_version(app_id) or 0

    def overwrite(self, table: str, rows: pa.Table, *, predicate: str | None = None) -> None:
        """Replace the whole table, or the partition values that `predicate` (SQL) names, by `rows`. One commit.

        For what is derived (`examples`), never for log rows. ValueError for rows of another schema.
        """
        spec = _spec(table)
        stored = to_stored(spec, rows)
        with _translated(table):
            write_deltalake(self._open_or_create(spec), stored, mode="overwrite", predicate=predicate)

    def scan(self, table: str) -> pl.LazyFrame:
        """All rows of the newest commit, in no order, with the types of `schemas`. Empty if nothing was written.

        Filters on `event_date` skip whole files. A retried event is in here as often as it is on the log: by
        (log_id, partition, offset) each row is there once, `event_id` may repeat (`definitions.dedupe`).
        """
        spec = _spec(table)
        with _translated(table):
            handle = self._open(table)
            return empty(spec) if handle is None else restored(spec, pl.scan_delta(handle), _columns(handle))

    def version(self, table: str) -> int | None:
        """Number of the newest commit; None if there is no table yet. For `data hash` and provenance."""
        with _translated(table):
            handle = self._open(table)
            return None if handle is None else handle.version()

    def compact(self, table: str) -> tuple[int, int]:
        """Merge small files: how many, into how many. Rows and positions stay; writers may go on meanwhile."""
        with _translated(table):
            if (handle := self._open(table)) is None:
                return 0, 0
            done = handle.optimize.compact()
            return int(done["numFilesRemoved"]), int(done["numFilesAdded"])

    def vacuum(self, table: str, keep_hours: int) -> int:
        """Remove files that no commit of the last `keep_hours` names, and the log entries before them; how many files.

        A file that a commit has written but not named yet is as old as that commit, so `keep_hours` must be longer than
        any commit takes; readers of an older version lose it. Positions stay: they are in every log checkpoint.
        """
        with _translated(table):
            if (handle := self._open(table)) is None:
                return 0
            gone = handle.vacuum(keep_hours, dry_run=False, enforce_retention_duration=False, full=True)
            handle.create_checkpoint()
            handle.cleanup_metadata()
            return len(gone)

    def _open(self, table: str) -> DeltaTable | None:
        try:
            return LocalNames(self.uri(table))
        except TableNotFoundError:
            return None

    def _open_or_create(self, spec: TableSpec) -> DeltaTable:
        uri = self.uri(spec.name)
        if (found := self._open(spec.name)) is not None:
            return found
        if "://" not in uri:
            Path(uri).mkdir(parents=True, exist_ok=True)
        # Two that create at once: the other's table is as good as ours.
        with contextlib.suppress(CommitFailedError):
            DeltaTable.create(uri, spec.stored, mode="ignore", partition_by=list(spec.partition_by))
        return DeltaTable(uri)


def _commit(
    handle: DeltaTable, spec: TableSpec, parts: Sequence[Part], stored: Sequence[pa.Table], positions: dict[str, int]
) -> int:
    new, transactions = [], []
    for part, rows in zip(parts, stored, strict=True):
        if part.next_offset > positions[part.app_id]:
            new.append(_not_there(rows, positions[part.app_id]))
            transactions.append(Transaction(part.app_id, part.next_offset))
    if not transactions:
        return 0
    rows = pa.concat_tables(new)
    write_deltalake(
        handle,
        rows,
        mode="append",
        writer_properties=_WRITERS[spec.dictionaries],
        # A table that is older than some of its columns gets them with these rows.
        schema_mode=None if _columns(handle).issuperset(rows.schema.names) else "merge",
        commit_properties=CommitProperties(app_transactions=transactions, max_commit_retries=_COMMIT_RETRIES),
    )
    return len(rows)


def _not_there(rows: pa.Table, position: int) -> pa.Table:
    """Those from `position` on: almost always all, and then not copied."""
    is_new = pc.greater_equal(rows["offset"], position)
    return rows if pc.all(is_new, min_count=0).as_py() else rows.filter(is_new)


def _columns(handle: DeltaTable) -> set[str]:
    return {field.name for field in handle.schema().fields}


def _check_expected(parts: Sequence[Part], positions: dict[str, int]) -> None:
    for part in parts:
        if part.expected is not None and positions[part.app_id] != part.expected:
            raise NewerWriter(
                f"{part.app_id}: the table is at offset {positions[part.app_id]}, this process left it at "
                f"{part.expected}: another process owns the partition"
            )


def table_names() -> dict[str, bool]:
    """Every table, and whether all use cases share it."""
    return {name: spec.shared for name, spec in TABLES.items()}


def _spec(table: str) -> TableSpec:
    try:
        return TABLES[table]
    except KeyError:
        raise UnknownTable(f"table: {table!r} is none of {', '.join(TABLES)}") from None


@contextlib.contextmanager
def _translated(table: str) -> Iterator[None]:
    try:
        yield
    except (DeltaError, OSError) as exc:  # the library raises OSError for full disks and absent rights
        raise StoreUnavailable(f"{table}: {exc}") from exc
