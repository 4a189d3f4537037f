"""Batch stores: nightly lists in immutable generations. `open_batch` chooses the implementation."""

from pathlib import Path

from stores.batch.generations import Generations, Precomputed
from stores.batch.interface import BatchStore, Pointer, Run, RunSummary
from stores.batch.rows import UserList, bucket_of, buckets_for, new_run_id

__all__ = [
    "BatchStore",
    "Generations",
    "Pointer",
    "Precomputed",
    "Run",
    "RunSummary",
    "UserList",
    "bucket_of",
    "buckets_for",
    "new_run_id",
    "open_batch",
]


def open_batch(
    cassandra: str | None, sqlite_path: Path, *, read_timeout_s: float = 0.05, wait_for_connection: bool = True
) -> BatchStore:
    """Cassandra at host:port (several comma-separated), or the SQLite file where that is None.

    Neither is touched before its first use. On Cassandra, `read_timeout_s` bounds `read`, `pointer` and `run`, and with
    `wait_for_connection=False` these raise StoreUnavailable while the connection is made: for callers with a deadline.
    """
    # Imported here, so that a process needs only the client of the store that it uses.
    if cassandra is not None:
        from stores.batch.cassandra import CassandraBatchStore

        return CassandraBatchStore(cassandra, read_timeout_s=read_timeout_s, wait_for_connection=wait_for_connection)
    from stores.batch.sqlite import SqliteBatchStore

    return SqliteBatchStore(sqlite_path)
