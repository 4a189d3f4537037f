"""What the loop needs of the log: a source of records and a sink for item partials. Kafka is one of each."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from definitions.packed_rows import PackedRows
from definitions.record_columns import RecordColumns
from definitions.records import BadRecord


class Place(NamedTuple):
    """One partition of one topic of one use case; `kind` is `interactions` or `users`."""

    usecase: str
    kind: str
    partition: int

    def __str__(self) -> str:
        return f"{self.usecase}.{self.kind} partition {self.partition}"


class Batch(NamedTuple):
    """The next records of a place, in offset order.

    `next_offset` is where to read on; `batches` of how many record batches they are; `lost` what lies among them that
    nothing can read.
    """

    place: Place
    records: RecordColumns
    next_offset: int
    batches: int = 1
    lost: Sequence[BadRecord] = ()


class Bounds(NamedTuple):
    """What the log still has of a place: offsets `first` <= o < `end`."""

    first: int
    end: int


class Origin(NamedTuple):
    """A partition of a use case's `interactions`, whose owner alone writes its partials."""

    usecase: str
    partition: int


class Lease(NamedTuple):
    """What the owner has: its epoch, and the offset of `item-features` below which nothing is another's."""

    epoch: int
    known: int


class Found(NamedTuple):
    """Items whose newest partial an older epoch wrote, among the records below `reached`."""

    items: set[int]
    reached: int


class Source(Protocol):
    """The log, read. Raises servicekit's LogUnavailable where a retry may help, else another LogError."""

    def bounds(self) -> Mapping[Place, Bounds]:
        """Of all places, as of now."""
        ...

    def start(self, offsets: Mapping[Place, int]) -> None:
        """Read from these offsets; called again to begin anew."""
        ...

    def poll(self, timeout_s: float) -> Sequence[Batch]:
        """What has arrived, waiting up to `timeout_s` for the first of it."""
        ...

    def positions(self) -> Mapping[Place, int]:
        """Next offset to be read, by place; may be past the last record, where offsets carry none."""
        ...

    def lags(self) -> Mapping[Place, int]:
        """Records known to be on the log and not read yet, without asking."""
        ...

    def is_read(self) -> bool:
        """Whether everything that is known to be on the log has been given, without asking."""
        ...

    def commit(self, offsets: Mapping[Place, int]) -> None:
        """Tell dashboards, without waiting; nothing depends on it."""
        ...


class ItemSink(Protocol):
    """The topic `item-features`, written. Raises PublishFailed."""

    def publish(self, usecase: str, origin: int, partials: PackedRows, epoch: int, offset: int) -> None:
        """Send partials, then the marker: the origin's state below `offset` has been sent."""
        ...

    def flush(self) -> None:
        """Wait until everything is acknowledged."""
        ...

    def audit(self, leases: Mapping[Origin, Lease]) -> Mapping[Origin, Found]:
        """After a flush: what workers without a lease have written over this one's partials since the last call."""
        ...
