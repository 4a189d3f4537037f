"""What a nightly list is as bytes, which bucket it is in, and how a run is named. The same in every batch store."""

import datetime
import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import xxhash

from stores.errors import StoreCorrupt

# A bucket is one partition and one batch: 50 to 200 users (27,000 rows/s a process, against 2,600 one by one).
USERS_PER_BUCKET: Final = 100
MASK64: Final = 2**64 - 1

_ID = struct.Struct("<Q")
_RUN_ID = re.compile(r"(\d{8}T\d{6}Z)(-[a-z0-9-]{1,40})?")
_RUN_TIME = "%Y%m%dT%H%M%SZ"


@dataclass(frozen=True, eq=False)
class UserList:
    """One user's list, best first: `item_ids` uint64 (n,), `scores` float32 (n,)."""

    user_id: int
    item_ids: npt.NDArray[np.uint64]
    scores: npt.NDArray[np.float32]

    def __post_init__(self) -> None:
        if not 0 <= self.user_id <= MASK64:
            raise ValueError(f"user_id: {self.user_id} is no unsigned 64-bit number")
        if self.item_ids.dtype != np.uint64 or self.scores.dtype != np.float32:
            raise ValueError(f"item_ids, scores: {self.item_ids.dtype}, {self.scores.dtype}; want uint64, float32")
        if self.item_ids.ndim != 1 or self.item_ids.shape != self.scores.shape:
            raise ValueError(f"item_ids, scores: shapes {self.item_ids.shape}, {self.scores.shape}; want (n,) twice")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, UserList) and self.encoded() == other.encoded() and self.user_id == other.user_id

    __hash__ = None  # type: ignore[assignment]

    def encoded(self) -> tuple[bytes, bytes]:
        """(item_ids, scores) as they are stored: little-endian."""
        return self.item_ids.astype("<u8", copy=False).tobytes(), self.scores.astype("<f4", copy=False).tobytes()


def decoded(user_id: int, item_ids: bytes, scores: bytes) -> UserList:
    """The list that `encoded` gave. StoreCorrupt: another one."""
    try:
        items, values = np.frombuffer(item_ids, "<u8"), np.frombuffer(scores, "<f4")
        return UserList(user_id, items.astype(np.uint64), values.astype(np.float32))
    except (TypeError, ValueError) as exc:  # TypeError: a null
        raise StoreCorrupt(f"list of user {user_id}: {exc}; write the lists again (millrace precompute)") from exc


def row_hash(user_id: int, item_ids: bytes, scores: bytes, model_version: str) -> int:
    """u64 over everything in a stored row."""
    head = struct.pack("<QI", user_id, len(item_ids))
    return xxhash.xxh3_64_intdigest(b"".join((head, item_ids, scores, model_version.encode())))


def checksum(hashes: Iterable[int]) -> int:
    """Sum modulo 2**64: the order of the rows does not matter, and an erased row can be subtracted."""
    return sum(hashes) & MASK64


def bucket_of(user_id: int, buckets: int) -> int:
    """The user's bucket, 0 to `buckets` - 1."""
    return xxhash.xxh3_64_intdigest(_ID.pack(user_id)) % buckets


def buckets_for(users: int) -> int:
    """How many buckets a run over this many users should have."""
    return max(1, -(-users // USERS_PER_BUCKET))


def new_run_id(time_us: int, name: str = "") -> str:
    """`20260131T020000Z` or, with a name, `20260131T020000Z-name`: sorts by time, to the second."""
    moment = datetime.datetime.fromtimestamp(time_us // 1_000_000, datetime.UTC)
    run_id = moment.strftime(_RUN_TIME) + (f"-{name}" if name else "")
    run_time_us(run_id)
    return run_id


def run_time_us(run_id: str) -> int:
    """When the run was named, microseconds since the epoch. ValueError for what is no run id."""
    if (match := _RUN_ID.fullmatch(run_id)) is None:
        raise ValueError(f"run_id: {run_id!r}; want 20260131T020000Z or 20260131T020000Z-name (a-z, 0-9, -)")
    moment = datetime.datetime.strptime(match[1], _RUN_TIME).replace(tzinfo=datetime.UTC)
    return int(moment.timestamp()) * 1_000_000


def signed(unsigned: int) -> int:
    """A u64 as the i64 with the same bits, for stores without unsigned numbers."""
    return unsigned - (1 << 64) if unsigned > MASK64 >> 1 else unsigned


def unsigned(signed: int) -> int:
    """The inverse of `signed`."""
    return signed & MASK64
