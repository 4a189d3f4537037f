"""What the loop needs of the log and the lake, in plain types. `kafka` and `stores.offline` implement it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import pyarrow as pa
from definitions.records import BadRecord, LogRecord


class Place(NamedTuple):
    """One partition of one topic."""

    topic: str
    partition: int

    def __str__(self) -> str:
        return f"{self.topic} partition {self.partition}"


class Batch(NamedTuple):
    """Records of one place in offset order; `next_offset` is the one after them.

    `lost`: record batches among them that no reader can use, each as one bad record at the first of its offsets.
    """

    place: Place
    records: Sequence[LogRecord]
    next_offset: int
    lost: Sequence[BadRecord] = ()


class Bounds(NamedTuple):
    """The offsets that the log has: `first`, and `end`, one after the newest."""

    first: int
    end: int


class Decoded(NamedTuple):
    """Rows of a table, and the records that can never be one."""

    rows: pa.Table
    bad: Sequence[BadRecord]


Decode = Callable[[int, Sequence[LogRecord]], Decoded]
"""Partition and its records, in offset order -> what becomes of them. Never raises for what a record holds."""


class Part(NamedTuple):
    """What one place adds to its table. `expected`: where the table must be now; None: wherever it is."""

    place: Place
    rows: pa.Table
    next_offset: int
    expected: int | None


class Table(Protocol):
    """One topic's table."""

    def next_offset(self, place: Place) -> int:
        """Where to go on reading; 0 if nothing was written. StoreUnavailable."""
        ...

    def append(self, parts: Sequence[Part]) -> int:
        """Rows and positions in one commit; rows that are there already are dropped. How many were new.

        Raises:
            NewerWriter: another process owns one of the places.
            StoreUnavailable: nothing was written, or it was and the answer was lost.
        """
        ...


@dataclass(frozen=True)
class Stream:
    """One topic and what becomes of it."""

    topic: str
    decode: Decode
    table: Table


class Source(Protocol):
    """The places that belong to this process. Every method raises servicekit's LogError."""

    @property
    def places(self) -> Sequence[Place]:
        """Assigned by hand."""
        ...

    def bounds(self) -> Mapping[Place, Bounds]:
        """What the log has now."""
        ...

    def start(self, offsets: Mapping[Place, int]) -> None:
        """Read each place from its offset."""
        ...

    def poll(self, timeout_s: float) -> Sequence[Batch]:
        """What has come, waiting up to `timeout_s` for the first of it."""
        ...

    def positions(self) -> Mapping[Place, int]:
        """Where each place will be read next; past the last record where offsets without records follow."""
        ...

    def lags(self) -> Mapping[Place, int]:
        """Records not read yet, as far as the newest answers tell."""
        ...


class DeadLetters(Protocol):
    """Where bad records go."""

    def publish(self, letters: Sequence[tuple[Place, BadRecord]]) -> None:
        """Send all and wait until they are acknowledged. DeadLettersUnavailable: some may be there, send again."""
        ...
