"""The embedded online store: LMDB files shared by the processes of one host.

Nothing is synced unless asked for: the checkpoint of `features` is the durable copy, and LMDB's files survive a killed
process.
"""

import threading
import uuid
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import lmdb
import numpy as np
import numpy.typing as npt

from stores.errors import StoreCorrupt, StoreUnavailable
from stores.online.guard import VERSION, VERSION_AT, check_rows, wins
from stores.online.interface import Bounds, Bytes, Ids, key_prefix, row_columns, row_key, row_keys

if TYPE_CHECKING:
    _Txn = lmdb.Transaction[memoryview]  # generic in its stub only

T = TypeVar("T")

FIRST_MAP_BYTES: Final = 1 << 30  # address space, not disk; doubled when full
_GROWTHS: Final = 20  # of one call: a million-fold
_IDENTITY: Final = b"identity"  # sorts before the rows' `u:`


class _Environment:
    """One open LMDB environment. LMDB forbids a second in the same process, so the stores of a process share it."""

    _open: Final[dict[Path, "_Environment"]] = {}
    _registry = threading.Lock()

    def __init__(self, folder: Path, map_bytes: int, *, is_durable: bool) -> None:
        self._folder = folder
        self._users = 0
        # Guards against growing the map under a running transaction. Reads hold it for microseconds.
        self._lock = threading.Lock()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._env = lmdb.open(
                str(folder),
                map_size=map_bytes,
                sync=is_durable,
                metasync=is_durable,
                readahead=False,  # rows are read at random
                meminit=False,
                max_readers=512,
                max_spare_txns=8,
            )
            self._env.reader_check()  # slots of killed processes
        except (lmdb.InvalidError, lmdb.CorruptedError, lmdb.VersionMismatchError) as exc:
            raise StoreCorrupt(f"{folder}: {exc}; stop its users and remove it: `features` writes it again") from exc
        except (lmdb.Error, OSError) as exc:
            raise StoreUnavailable(f"{folder}: {exc}") from exc

    @classmethod
    def acquire(cls, folder: Path, map_bytes: int, *, is_durable: bool) -> "_Environment":
        folder = folder.resolve()
        with cls._registry:
            env = cls._open.get(folder)
            if env is None:
                env = cls._open[folder] = cls(folder, map_bytes, is_durable=is_durable)
            env._users += 1
            return env

    def release(self) -> None:
        with self._registry:
            self._users -= 1
            if self._users == 0:
                del self._open[self._folder]
                with self._lock:
                    self._env.close()

    def run(self, work: Callable[["_Txn"], T], *, write: bool) -> T:
        """Do `work` in one transaction, again with a larger map where it was too small."""
        with self._lock:
            for _ in range(_GROWTHS):
                try:
                    with self._env.begin(write=write, buffers=True) as txn:
                        return work(txn)
                except lmdb.MapFullError:
                    self._env.reader_check()  # a killed reader keeps old pages from being reused
                    self._env.set_mapsize(self._env.info()["map_size"] * 2)
                except lmdb.MapResizedError:
                    self._env.set_mapsize(0)  # another process grew it: adopt its size
                except lmdb.ReadersFullError as exc:
                    if not self._env.reader_check():
                        raise StoreUnavailable(f"{self._folder}: more than 512 readers") from exc
                except (lmdb.CorruptedError, lmdb.PageNotFoundError, lmdb.InvalidError) as exc:
                    raise StoreCorrupt(f"{self._folder}: {exc}; stop its users and remove it") from exc
                except lmdb.Error as exc:
                    raise StoreUnavailable(f"{self._folder}: {exc}") from exc
        raise StoreUnavailable(f"{self._folder}: map still too small after {_GROWTHS} growths")


class LmdbStore:
    """Rows of one use case and revision in `<folder>/<usecase>.<revision>/`. Opening it creates the folder."""

    def __init__(
        self,
        folder: Path,
        usecase: str,
        revision: int = 1,
        *,
        map_bytes: int = FIRST_MAP_BYTES,
        is_durable: bool = False,
    ) -> None:
        """`map_bytes` is the first size of the map, a multiple of the page size; `is_durable` syncs each write.

        StoreUnavailable, StoreCorrupt.
        """
        self._prefix = key_prefix(usecase, revision)
        self._env: _Environment | None = _Environment.acquire(
            folder / f"{usecase}.{revision}", map_bytes, is_durable=is_durable
        )

    def write_rows(self, ids: Ids, bounds: Bounds, data: Bytes) -> int:
        """Guard and put of all rows are one transaction: a killed writer leaves all of a call, or nothing."""
        check_rows(bounds)
        order = np.argsort(ids)  # in key order: neighbours share pages
        spans = zip(bounds[:-1][order].tolist(), bounds[1:][order].tolist(), strict=True)
        rows = list(zip(row_keys(self._prefix, ids[order]), spans, strict=True))
        whole, version_at = np.ascontiguousarray(data).data, VERSION.unpack_from

        def put(txn: "_Txn") -> int:
            won = 0
            old_of, keep, at = txn.get, txn.put, VERSION_AT
            for key, (begin, end) in rows:
                row = whole[begin:end]
                if (old := old_of(key)) is not None and not wins(version_at(row, at), version_at(old, at)):
                    continue
                keep(key, row)
                won += 1
            return won

        return self._run(put, write=True) if len(ids) else 0

    def write(self, rows: Mapping[int, bytes]) -> int:
        """As `write_rows`."""
        return self.write_rows(*row_columns(rows))

    def read(self, user_id: int) -> bytes | None:
        """Microseconds, never blocked by a writer in another process."""
        key = row_key(self._prefix, user_id)

        def get(txn: "_Txn") -> bytes | None:
            row = txn.get(key)
            return None if row is None else bytes(row)

        return self._run(get, write=False)

    def read_many(self, user_ids: Iterable[int]) -> dict[int, bytes]:
        """All rows of one instant."""
        keys = {user: row_key(self._prefix, user) for user in user_ids}

        def get(txn: "_Txn") -> dict[int, bytes]:
            found = ((user, txn.get(key)) for user, key in keys.items())
            return {user: bytes(row) for user, row in found if row is not None}

        return self._run(get, write=False)

    def all_ids(self) -> npt.NDArray[np.uint64]:
        """Ids of one instant, in the order of their keys."""

        def scan(txn: "_Txn") -> bytes:
            cursor = txn.cursor()
            if not cursor.set_range(self._prefix):
                return b""
            return b"".join(bytes(key[-8:]) for key in cursor.iternext(keys=True, values=False))

        return np.frombuffer(self._run(scan, write=False), ">u8").astype(np.uint64)

    def identity(self) -> str:
        """Created on the first call after the files were."""

        def get(txn: "_Txn") -> str:
            known = txn.get(_IDENTITY)
            return "" if known is None else bytes(known).decode()

        def create(txn: "_Txn") -> str:
            txn.put(_IDENTITY, uuid.uuid4().hex.encode(), overwrite=False)
            return get(txn)

        return self._run(get, write=False) or self._run(create, write=True)

    def clear(self) -> None:
        """One transaction; the file keeps its size and reuses its pages."""

        def drop(txn: "_Txn") -> None:
            cursor = txn.cursor()
            found = cursor.first()
            while found:
                found = cursor.delete()

        self._run(drop, write=True)

    def close(self) -> None:
        """The last store of the process on this folder closes its files."""
        if self._env is not None:
            self._env.release()
            self._env = None

    def _run(self, work: Callable[["_Txn"], T], *, write: bool) -> T:
        if self._env is None:
            raise StoreUnavailable("the store is closed")
        return self._env.run(work, write=write)
