"""The online store: one packed row a user, the same bytes in every implementation."""

import struct
from collections.abc import Iterable, Mapping
from typing import Protocol

import numpy as np
import numpy.typing as npt

from stores.errors import InvalidRow

_USER = struct.Struct(">Q")


class OnlineStore(Protocol):
    """Rows of one use case and revision. Safe to use from several threads; several processes may open one store.

    Every method raises StoreUnavailable (StoreTimeout for a missed deadline) and never waits without a bound.
    """

    def write(self, rows: Mapping[int, bytes]) -> int:
        """Write packed rows by user id (0 to 2**64 - 1) and return how many won the guard.

        A row wins if its epoch is newer than the stored one's, or equal with neither offset older; the others are
        left out silently, since replay is normal. Each row is judged and put atomically; a call that raises may
        have written some. A repeat is harmless. InvalidRow, and nothing written, if a row has no whole header.
        """
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
