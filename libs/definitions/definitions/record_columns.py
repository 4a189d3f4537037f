"""Log records as columns over one buffer: many records without an object for each."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Self

import numpy as np
import numpy.typing as npt

from definitions.records import LogRecord

_TYPES = {
    "buffer": np.uint8,
    "offset": np.int64,
    "timestamp_us": np.int64,
    "key_start": np.int32,
    "key_size": np.int32,
    "value_start": np.int32,
    "value_size": np.int32,
}


@dataclass(frozen=True, eq=False)
class RecordColumns:
    """n records of one partition, in offset order.

    Attributes:
        buffer: uint8 (bytes,): keys and values lie in it.
        offset: int64 (n,), strictly ascending.
        timestamp_us: int64 (n,), the broker's; negative where a record has none.
        key_start, key_size: int32 (n,), place of the key in `buffer`; size -1 = null.
        value_start, value_size: the same for the value.
    """

    buffer: npt.NDArray[np.uint8]
    offset: npt.NDArray[np.int64]
    timestamp_us: npt.NDArray[np.int64]
    key_start: npt.NDArray[np.int32]
    key_size: npt.NDArray[np.int32]
    value_start: npt.NDArray[np.int32]
    value_size: npt.NDArray[np.int32]

    def __post_init__(self) -> None:
        for field in fields(self):
            column = getattr(self, field.name)
            if column.dtype != _TYPES[field.name] or (field.name != "buffer" and column.shape != self.offset.shape):
                raise ValueError(
                    f"column {field.name} is {column.dtype} {column.shape}; "
                    f"it must be {np.dtype(_TYPES[field.name])} {self.offset.shape}"
                )

    def __len__(self) -> int:
        return len(self.offset)

    @classmethod
    def of(cls, records: Sequence[LogRecord]) -> Self:
        """Columns of single records: for what is not read as columns, such as tests."""
        parts = [part for each in records for part in (each.key, each.value)]
        sizes = np.array([-1 if part is None else len(part) for part in parts], np.int32)
        starts = (np.cumsum(np.maximum(sizes, 0)) - np.maximum(sizes, 0)).astype(np.int32)
        return cls(
            buffer=np.frombuffer(b"".join([part or b"" for part in parts]), np.uint8),
            offset=np.array([each.offset for each in records], np.int64),
            timestamp_us=np.array([each.timestamp_us for each in records], np.int64),
            key_start=starts[0::2].copy(),
            key_size=sizes[0::2].copy(),
            value_start=starts[1::2].copy(),
            value_size=sizes[1::2].copy(),
        )

    def record(self, index: int) -> LogRecord:
        """One of them, its bytes copied."""
        return LogRecord(
            int(self.offset[index]),
            int(self.timestamp_us[index]),
            self._part(int(self.key_start[index]), int(self.key_size[index])),
            self._part(int(self.value_start[index]), int(self.value_size[index])),
        )

    def records(self) -> list[LogRecord]:
        """All of them, their bytes copied: for messages that no scanner reads."""
        whole = self.buffer.data
        spans = zip(
            self.offset.tolist(),
            self.timestamp_us.tolist(),
            self.key_start.tolist(),
            self.key_size.tolist(),
            self.value_start.tolist(),
            self.value_size.tolist(),
            strict=True,
        )
        return [
            LogRecord(
                offset,
                timestamp_us,
                None if key_size < 0 else bytes(whole[key : key + key_size]),
                None if size < 0 else bytes(whole[value : value + size]),
            )
            for offset, timestamp_us, key, key_size, value, size in spans
        ]

    def _part(self, start: int, size: int) -> bytes | None:
        return None if size < 0 else self.buffer[start : start + size].tobytes()
