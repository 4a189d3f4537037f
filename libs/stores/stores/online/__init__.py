"""Online stores: one packed row a user. `open_online` and `open_online_reader` choose the implementation."""

from pathlib import Path

from stores.online.interface import AsyncOnlineReader, OnlineStore

__all__ = ["AsyncOnlineReader", "OnlineStore", "open_online", "open_online_reader"]


def open_online(usecase: str, revision: int = 1, *, valkey: str | None, lmdb_path: Path) -> OnlineStore:
    """The store of one use case and revision: Valkey at host:port, or LMDB below `lmdb_path` where that is None.

    Raises:
        StoreUnavailable, StoreCorrupt: LMDB's folder cannot be opened. Valkey connects on first use.
    """
    # Imported here, so that a process needs only the client of the store that it uses.
    if valkey is not None:
        from stores.online.valkey import ValkeyStore

        return ValkeyStore(valkey, usecase, revision)
    from stores.online.lmdb import LmdbStore

    return LmdbStore(lmdb_path, usecase, revision)


def open_online_reader(usecase: str, revision: int = 1, *, valkey: str | None, lmdb_path: Path) -> AsyncOnlineReader:
    """The same store for a process that runs an event loop: reads take 2 us inline (LMDB) or are awaited (Valkey)."""
    if valkey is not None:
        from stores.online.valkey import ValkeyReader

        return ValkeyReader(valkey, usecase, revision)
    from stores.online.inline import InlineReader
    from stores.online.lmdb import LmdbStore

    return InlineReader(LmdbStore(lmdb_path, usecase, revision))
