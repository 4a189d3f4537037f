"""Interactions as columns: what consumers decode into and what the state folds."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
import numpy.typing as npt

UNITS_PER_VALUE = 1_000_000  # sums and last-k values are int64 multiples of 1e-6, so that partials merge exactly
MAX_ABS_VALUE = 1e9  # a larger one is a bad record: a sum holds at least 9,000 such events in its int64

COLUMN_TYPES: dict[str, type[np.generic]] = {
    "event_id": np.uint64,
    "user_id": np.uint64,
    "item_id": np.uint64,
    "action": np.uint32,
    "value": np.float32,
    "event_time_us": np.int64,
    "request_id": np.uint64,
    "position": np.uint32,
    "session_id": np.uint64,
    "device": np.uint32,
    "surface": np.uint32,
    "country": np.uint32,
    "category": np.uint32,
    "partition": np.int32,
    "offset": np.int64,
    "timestamp_us": np.int64,
}


@dataclass(frozen=True, eq=False)
class EventColumns:
    """Events in log order; every array has the same length n.

    `timestamp_us` is the broker's stamp; `partition` and `offset` are the record's place in the log.
    """

    event_id: npt.NDArray[np.uint64]
    user_id: npt.NDArray[np.uint64]
    item_id: npt.NDArray[np.uint64]
    action: npt.NDArray[np.uint32]
    value: npt.NDArray[np.float32]
    event_time_us: npt.NDArray[np.int64]
    request_id: npt.NDArray[np.uint64]
    position: npt.NDArray[np.uint32]
    session_id: npt.NDArray[np.uint64]
    device: npt.NDArray[np.uint32]
    surface: npt.NDArray[np.uint32]
    country: npt.NDArray[np.uint32]
    category: npt.NDArray[np.uint32]
    partition: npt.NDArray[np.int32]
    offset: npt.NDArray[np.int64]
    timestamp_us: npt.NDArray[np.int64]

    def __post_init__(self) -> None:
        for field in fields(self):
            column = getattr(self, field.name)
            if column.dtype != COLUMN_TYPES[field.name] or column.shape != self.event_id.shape:
                raise ValueError(
                    f"column {field.name} is {column.dtype} {column.shape}; "
                    f"it must be {np.dtype(COLUMN_TYPES[field.name])} {self.event_id.shape}"
                )

    def __len__(self) -> int:
        return len(self.event_id)

    def take(self, which: npt.NDArray[Any] | slice) -> Self:
        """The events that an index array, a boolean mask or a slice selects, in its order."""
        return type(self)(**{field.name: getattr(self, field.name)[which] for field in fields(self)})

    @classmethod
    def of(cls, n: int, **columns: npt.ArrayLike) -> Self:
        """n events from the given columns, cast to their types; absent columns are 0."""
        if unknown := columns.keys() - COLUMN_TYPES.keys():
            raise ValueError(f"no such column: {', '.join(sorted(unknown))}")
        return cls(
            **{
                name: np.asarray(columns[name], dtype) if name in columns else np.zeros(n, dtype)
                for name, dtype in COLUMN_TYPES.items()
            }
        )

    @classmethod
    def empty(cls) -> Self:
        """No events."""
        return cls.of(0)

    @classmethod
    def concat(cls, parts: Sequence[Self]) -> Self:
        """All events of all parts, in their order."""
        if not parts:
            return cls.empty()
        return cls(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in COLUMN_TYPES})


def micros(value: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Event values (float32) as int64 multiples of 1e-6, rounded half to even."""
    return np.rint(np.asarray(value, np.float32).astype(np.float64) * UNITS_PER_VALUE).astype(np.int64)
