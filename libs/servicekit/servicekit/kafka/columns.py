"""What a column reader yields: records as columns, and batches that no reader can use."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, eq=False, slots=True)
class RecordColumns:
    """Records of consecutive record batches of one partition, in offset order; n of them, which may be 0.

    Attributes:
        buffer: uint8 (bytes,), read-only: keys and values lie in it.
        offset: int64 (n,), strictly ascending; compaction and aborted transactions leave gaps.
        timestamp_us: int64 (n,), the record's, or the broker's where the topic says LogAppendTime; negative = none.
        key_start, key_size: int32 (n,), place of the key in `buffer`; size -1 = null.
        value_start, value_size: the same for the value; size -1 = null (a tombstone).
        next_offset: where to read on; past the last record where offsets carry none.
        batches: how many record batches these are.
    """

    buffer: npt.NDArray[np.uint8]
    offset: npt.NDArray[np.int64]
    timestamp_us: npt.NDArray[np.int64]
    key_start: npt.NDArray[np.int32]
    key_size: npt.NDArray[np.int32]
    value_start: npt.NDArray[np.int32]
    value_size: npt.NDArray[np.int32]
    next_offset: int
    batches: int = 1

    def __len__(self) -> int:
        return len(self.offset)


@dataclass(frozen=True, eq=False, slots=True)
class CorruptBatch:
    """A record batch that no reader can use: told instead of raised, so that the partition moves on.

    The broker has acknowledged these records and each of their offsets is lost. Whoever archives the log writes one
    dead letter for the batch (reason CORRUPT_BATCH, at `first_offset`, its detail naming the range); whoever only
    folds it counts the batch, goes on at `next_offset`, and must keep that offset with its state as for good records.

    Attributes:
        first_offset: first offset that is lost; above the batch's own where reading began within it.
        last_offset: last offset that is lost, inclusive. The next batch in the fetch bounds it: in a broken batch the
            number that says so may be broken too.
        problem: `checksum`, `codec` (unknown, or its library is missing), `payload` (does not decompress, or to more
            than 64 MiB), `structure` (records that are none, although the checksum is right) or `format` (a magic byte
            of no known format).
        detail: what is wrong, for people.
        raw: the batch as it was.
    """

    first_offset: int
    last_offset: int
    problem: str
    detail: str
    raw: bytes

    @property
    def next_offset(self) -> int:
        """Where to read on."""
        return self.last_offset + 1


Item = RecordColumns | CorruptBatch


def columns_of(records: Sequence[Any]) -> RecordColumns:
    """Columns of kafka-python's records (`offset`, `timestamp` in milliseconds, `key`, `value`); at least one."""
    sizes = np.array([(_size(each.key), _size(each.value)) for each in records], np.int32).reshape(-1)
    starts = np.zeros(len(sizes), np.int32)
    np.cumsum(np.maximum(sizes[:-1], 0), out=starts[1:])
    return RecordColumns(
        buffer=np.frombuffer(
            b"".join([part for each in records for part in (each.key or b"", each.value or b"")]), np.uint8
        ),
        offset=np.array([each.offset for each in records], np.int64),
        timestamp_us=np.array([-1 if each.timestamp is None else each.timestamp for each in records], np.int64) * 1000,
        key_start=starts[0::2].copy(),
        key_size=sizes[0::2].copy(),
        value_start=starts[1::2].copy(),
        value_size=sizes[1::2].copy(),
        next_offset=records[-1].offset + 1,
    )


def _size(part: bytes | None) -> int:
    return -1 if part is None else len(part)
