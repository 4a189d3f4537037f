"""The embedded batch store: one SQLite file shared by the processes of one host."""

import contextlib
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from stores.batch.interface import (
    Mark,
    Pointer,
    Run,
    RunSummary,
    check_create,
    check_drop,
    check_same,
    check_write,
    known,
    verified,
)
from stores.batch.rows import UserList, bucket_of, checksum, decoded, row_hash, signed, unsigned
from stores.errors import StoreCorrupt, StoreTimeout, StoreUnavailable, UnknownRun

# The tables of schema.cql; user_id, checksum: u64 as i64 with the same bits.
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS predictions (
    usecase TEXT, run_id TEXT, bucket INTEGER, user_id INTEGER, item_ids BLOB, scores BLOB, model_version TEXT,
    PRIMARY KEY (usecase, run_id, bucket, user_id)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS prediction_buckets (
    usecase TEXT, run_id TEXT, bucket INTEGER, users INTEGER, checksum INTEGER,
    PRIMARY KEY (usecase, run_id, bucket)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS prediction_runs (
    usecase TEXT, run_id TEXT, state TEXT, users INTEGER, rows INTEGER, buckets INTEGER, checksum INTEGER,
    model_version TEXT, created_at INTEGER, agreement REAL,
    PRIMARY KEY (usecase, run_id)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS prediction_pointer (
    usecase TEXT PRIMARY KEY, run_id TEXT, previous_run_id TEXT, flipped_at INTEGER) WITHOUT ROWID;
"""
_RUN_COLUMNS: Final = "run_id, state, buckets, model_version, created_at, users, rows, checksum, agreement"


class SqliteBatchStore:
    """Tables in one file, created on first use. Readers never wait for a writer (WAL); writers wait for each other."""

    def __init__(self, path: Path, *, write_timeout_s: float = 10.0) -> None:
        """`write_timeout_s` bounds the wait for another writer."""
        self._path = path
        self._timeout_s = write_timeout_s
        self._threads = threading.local()  # a connection belongs to one thread
        self._closed = False

    def ensure_schema(self) -> None:
        """Every connection does it by itself."""
        with self._translated():
            self._connection()

    def create_run(self, usecase: str, run_id: str, buckets: int, model_version: str) -> bool:
        """One statement decides who created it."""
        check_create(run_id, buckets)
        with self._transaction() as db:
            inserted = db.execute(
                "INSERT OR IGNORE INTO prediction_runs VALUES (?, ?, 'loading', 0, 0, ?, 0, ?, ?, NULL)",
                (usecase, run_id, buckets, model_version, time.time_ns() // 1000),
            )
            if inserted.rowcount:
                return True
            check_same(_run(db, usecase, run_id), usecase, run_id, buckets, model_version)
            return False

    def write_bucket(self, usecase: str, run_id: str, bucket: int, rows: Sequence[UserList]) -> None:
        """Rows and mark are one transaction."""
        with self._transaction() as db:
            run = known(_run(db, usecase, run_id), usecase, run_id)
            check_write(run, bucket, rows)
            stored = [(row.user_id, *row.encoded(), run.model_version) for row in rows]
            db.executemany(
                "INSERT OR IGNORE INTO predictions VALUES (?, ?, ?, ?, ?, ?, ?)",
                [(usecase, run_id, bucket, signed(user), *rest) for user, *rest in stored],
            )
            total = signed(checksum(row_hash(*row) for row in stored))
            db.execute(
                "INSERT OR REPLACE INTO prediction_buckets VALUES (?, ?, ?, ?, ?)",
                (usecase, run_id, bucket, len(rows), total),
            )

    def finished_buckets(self, usecase: str, run_id: str) -> set[int]:
        """One query."""
        with self._translated():
            return set(_marks(self._connection(), usecase, run_id))

    def seal_run(self, usecase: str, run_id: str, agreement: float | None = None) -> RunSummary:
        """Read back and change of state are one transaction."""
        with self._transaction() as db:
            run = known(_run(db, usecase, run_id), usecase, run_id)
            if run.state == "dropping":
                raise UnknownRun(f"{usecase} {run_id}: is being dropped")
            marks = _marks(db, usecase, run_id)
            summary = verified(run, marks, {bucket: _found(db, usecase, run_id, bucket) for bucket in marks})
            db.execute(
                "UPDATE prediction_runs SET state = 'sealed', users = ?, rows = ?, checksum = ?, "
                "agreement = coalesce(?, agreement) WHERE usecase = ? AND run_id = ?",
                (summary.users, summary.rows, signed(summary.checksum), agreement, usecase, run_id),
            )
            return summary

    def flip(self, usecase: str, run_id: str) -> Pointer:
        """One transaction: another's flip is before it or after it, so PointerMoved never happens here."""
        with self._transaction() as db:
            run = known(_run(db, usecase, run_id), usecase, run_id)
            if run.state != "sealed":
                raise UnknownRun(f"{usecase} {run_id}: is {run.state}; only a sealed run can be served")
            current = _pointer(db, usecase)
            if current is not None and current.run_id == run_id:
                return current
            flipped = Pointer(run_id, current.run_id if current else None, time.time_ns() // 1000)
            db.execute(
                "INSERT OR REPLACE INTO prediction_pointer VALUES (?, ?, ?, ?)",
                (usecase, flipped.run_id, flipped.previous_run_id, flipped.flipped_at_us),
            )
            return flipped

    def pointer(self, usecase: str) -> Pointer | None:
        """One row."""
        with self._translated():
            return _pointer(self._connection(), usecase)

    def read(self, usecase: str, run_id: str, user_id: int) -> UserList | None:
        """Two point reads of one file."""
        with self._translated():
            db = self._connection()
            run = known(_run(db, usecase, run_id), usecase, run_id)
            row = db.execute(
                "SELECT item_ids, scores FROM predictions "
                "WHERE usecase = ? AND run_id = ? AND bucket = ? AND user_id = ?",
                (usecase, run_id, bucket_of(user_id, run.buckets), signed(user_id)),
            ).fetchone()
            return None if row is None else decoded(user_id, *row)

    def run(self, usecase: str, run_id: str) -> Run | None:
        """One row."""
        with self._translated():
            return _run(self._connection(), usecase, run_id)

    def runs(self, usecase: str) -> list[Run]:
        """One query."""
        with self._translated():
            query = f"SELECT {_RUN_COLUMNS} FROM prediction_runs WHERE usecase = ? ORDER BY run_id DESC"  # noqa: S608  ours
            return [_to_run(row) for row in self._connection().execute(query, (usecase,))]

    def drop_run(self, usecase: str, run_id: str) -> None:
        """One transaction."""
        with self._transaction() as db:
            check_drop(_pointer(db, usecase), usecase, run_id)
            for table in ("predictions", "prediction_buckets", "prediction_runs"):
                db.execute(f"DELETE FROM {table} WHERE usecase = ? AND run_id = ?", (usecase, run_id))  # noqa: S608  ours

    def close(self) -> None:
        """Close this thread's connection. Another's closes when its thread ends: to close it under a read that has not
        ended would crash the process.
        """
        self._closed = True
        found: sqlite3.Connection | None = getattr(self._threads, "connection", None)
        if found is not None:
            found.close()

    def _connection(self) -> sqlite3.Connection:
        if self._closed:
            raise StoreUnavailable("the store is closed")
        found: sqlite3.Connection | None = getattr(self._threads, "connection", None)
        if found is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            # Used by this thread only, and let go of by whichever sees its end.
            found = sqlite3.connect(self._path, timeout=self._timeout_s, isolation_level=None, check_same_thread=False)
            found.execute("PRAGMA journal_mode = WAL")
            found.execute("PRAGMA synchronous = NORMAL")
            found.executescript(_SCHEMA)
            self._threads.connection = found
        return found

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._translated():
            db = self._connection()
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
            except BaseException:
                db.execute("ROLLBACK")
                raise
            db.execute("COMMIT")

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as exc:
            if "locked" in str(exc) or "busy" in str(exc):
                raise StoreTimeout(f"{self._path}: another writer held it for {self._timeout_s} s: {exc}") from exc
            raise StoreUnavailable(f"{self._path}: {exc}") from exc
        except sqlite3.DatabaseError as exc:
            raise StoreCorrupt(f"{self._path}: {exc}; remove it and run `millrace precompute` again") from exc
        except OSError as exc:
            raise StoreUnavailable(f"{self._path}: {exc}") from exc


def _run(db: sqlite3.Connection, usecase: str, run_id: str) -> Run | None:
    query = f"SELECT {_RUN_COLUMNS} FROM prediction_runs WHERE usecase = ? AND run_id = ?"  # noqa: S608  ours
    row = db.execute(query, (usecase, run_id)).fetchone()
    return None if row is None else _to_run(row)


def _to_run(row: tuple[Any, ...]) -> Run:
    run_id, state, buckets, model_version, created_at, users, rows, total, agreement = row
    return Run(run_id, state, buckets, model_version, created_at, users, rows, unsigned(total), agreement)


def _pointer(db: sqlite3.Connection, usecase: str) -> Pointer | None:
    query = "SELECT run_id, previous_run_id, flipped_at FROM prediction_pointer WHERE usecase = ?"
    row = db.execute(query, (usecase,)).fetchone()
    return None if row is None else Pointer(*row)


def _marks(db: sqlite3.Connection, usecase: str, run_id: str) -> dict[int, Mark]:
    query = "SELECT bucket, users, checksum FROM prediction_buckets WHERE usecase = ? AND run_id = ?"
    return {bucket: Mark(users, unsigned(total)) for bucket, users, total in db.execute(query, (usecase, run_id))}


def _found(db: sqlite3.Connection, usecase: str, run_id: str, bucket: int) -> Mark:
    query = (
        "SELECT user_id, item_ids, scores, model_version FROM predictions "
        "WHERE usecase = ? AND run_id = ? AND bucket = ?"
    )
    hashes = [row_hash(unsigned(user), *rest) for user, *rest in db.execute(query, (usecase, run_id, bucket))]
    return Mark(len(hashes), checksum(hashes))
