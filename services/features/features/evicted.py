"""Users who are not in memory: their packed rows, on the disk beside the partition's checkpoints.

A row's bytes are a function of the log below the row's own offsets. So it does not matter which worker wrote it, nor
that it may be newer than the checkpoint that a restart continues from: events that it has in it are passed over when
they come again. A user who is back in memory leaves an old row here; nothing reads it before a newer one replaces it.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
from definitions.packed_rows import NO_ROWS, PackedRows
from definitions.slots import Ids
from stores.online import OnlineStore
from stores.online.interface import row_columns
from stores.online.lmdb import LmdbStore

from features.partition import ROWS_AT_ONCE

_FOLDER: Final = "evicted"


class Evicted:
    """The evicted users of one partition. Opens, and makes, its files when they are first needed.

    Args:
        root: folder of the partition's checkpoints.
        usecase, revision: whose rows they are.
    """

    def __init__(self, root: Path, usecase: str, revision: int) -> None:
        self._folder, self._usecase, self._revision = root / _FOLDER, usecase, revision
        self._store: OnlineStore | None = None
        self._exists = self._folder.exists()

    @property
    def is_empty(self) -> bool:
        """Whether nobody has ever left."""
        return not self._exists

    def write(self, rows: PackedRows) -> None:
        """Keep them durably. StoreUnavailable: the disk is full or away; nothing may be forgotten."""
        self._open().write_rows(rows.ids, rows.bounds, rows.data)

    def read(self, ids: Ids) -> PackedRows:
        """The rows that there are. StoreUnavailable, StoreCorrupt: the state cannot go on without them."""
        if not self._exists:
            return NO_ROWS
        found = self._open().read_many(ids.tolist())
        return PackedRows(*row_columns(found)) if found else NO_ROWS

    def all(self) -> Iterator[PackedRows]:
        """Every row, some thousand at a time; ids ascend."""
        ids = self._open().all_ids() if self._exists else np.empty(0, np.uint64)
        for begin in range(0, len(ids), ROWS_AT_ONCE):
            yield self.read(ids[begin : begin + ROWS_AT_ONCE])

    def remove(self) -> None:
        """All of it: the state was made anew, whole."""
        self.close()
        shutil.rmtree(self._folder, ignore_errors=True)
        self._exists = False

    def close(self) -> None:
        """Give the files back."""
        if self._store is not None:
            self._store.close()
            self._store = None

    def _open(self) -> OnlineStore:
        if self._store is None:
            self._store = LmdbStore(self._folder, self._usecase, self._revision, is_durable=True)
            self._exists = True
        return self._store
