"""The online store: one packed row a user, the same bytes in every implementation."""

import struct
from collections.abc import Iterable, Mapping
from typing import Protocol

import numpy as np
import numpy.typing as npt

from stores.errors import InvalidRow

_USER = struct.Struct(">Q")

Ids = npt.NDArray[np.uint64]
Bounds = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]


class OnlineStore(Protocol):
    """Rows of one use case and revision. Safe to use from several threads; several processes may open one store.

    Every method raises StoreUnavailable (StoreTimeout for a missed deadline) and never waits without a bound.
    """

    def write_rows(self, ids: Ids, bounds: Bounds, data: Bytes) -> int:
        """Write packed rows and return how many won the guard.

        Row i is of user `ids[i]`, uint64 (n,), each once, in any order; its bytes are `data[bounds[i]:bounds[i + 1]]`,
        `bounds` int64 (n + 1,), `data` uint8.

        A row wins if its epoch is newer than the stored one's, or equal with neither offset older; the others are
        left out silently, since replay is normal. Each row is judged and put atomically; a call that raises may
        have written some. A repeat is harmless. InvalidRow, and nothing written, if a row has no whole header.
        """
        ...

    def write(self, rows: Mapping[int, bytes]) -> int:
        """The same for a few rows by user id. InvalidRow also if an id is no unsigned 64-bit number."""
        ...

    def read(self, user_id: int) -> bytes | None:
        """The user's row; None if there is none."""
        ...

    def read_many(self, user_ids: Iterable[int]) -> dict[int, bytes]:
        """The rows that exist, by user id; one round trip."""
        ...

    def all_ids(self) -> npt.NDArray[np.uint64]:
        """Ids of all users that have a row, u64 (n,), sorted."""
        ...

    def identity(self) -> str:
        """A random name that the store keeps for as long as it keeps its rows.

        It changes when the store was emptied or replaced, so that a writer knows to write every row again.
        """
        ...

    def clear(self) -> None:
        """Remove all rows of this use case and revision, and the identity."""
        ...

    def close(self) -> None:
        """Give back files and connections. The store cannot be used afterwards."""
        ...


class AsyncOnlineReader(Protocol):
    """The read path of a process that runs an event loop. Use it from that loop's thread only."""

    async def read(self, user_id: int, timeout_s: float) -> bytes | None:
        """The user's row; None if there is none. StoreTimeout after `timeout_s`, StoreUnavailable if not reachable."""
        ...

    async def close(self) -> None:
        """Give back files and connections."""
        ...


def key_prefix(usecase: str, revision: int) -> bytes:
    """What the keys of all rows of this use case and revision begin with."""
    return f"u:{usecase}.{revision}:".encode()


def row_key(prefix: bytes, user_id: int) -> bytes:
    """Key of a user's row: the prefix, then the id as 8 bytes big-endian. InvalidRow if the id is not a u64."""
    try:
        return prefix + _USER.pack(user_id)
    except struct.error as exc:
        raise InvalidRow(f"user_id: {user_id} is no unsigned 64-bit number") from exc


def row_keys(prefix: bytes, ids: Ids) -> list[bytes]:
    """`row_key` of each."""
    keys = np.empty((len(ids), len(prefix) + _USER.size), np.uint8)
    keys[:, : len(prefix)] = np.frombuffer(prefix, np.uint8)
    keys[:, len(prefix) :] = ids.astype(">u8").view(np.uint8).reshape(len(ids), _USER.size)
    joined, size = keys.tobytes(), keys.shape[1]
    return [joined[at : at + size] for at in range(0, len(joined), size)]


def row_columns(rows: Mapping[int, bytes]) -> tuple[Ids, Bounds, Bytes]:
    """Rows by user id as `write_rows` takes them. InvalidRow if an id is no u64."""
    for user_id in rows:
        row_key(b"", user_id)
    bounds = np.cumsum([0, *(len(row) for row in rows.values())], dtype=np.int64)
    return np.array(list(rows), np.uint64), bounds, np.frombuffer(b"".join(rows.values()), np.uint8)
