"""Interactions from record columns: the same answers as `records.decode_interactions`, without an object a record."""

import numpy as np
import numpy.typing as npt
from google.protobuf.message import DecodeError
from millrace.events.v1 import events_pb2 as pb

from definitions.compiled import kernel
from definitions.events import COLUMN_TYPES, EventColumns
from definitions.interaction_scan import scan
from definitions.record_columns import RecordColumns
from definitions.records import BadRecord, malformed_record, refused_interactions, refused_record
from definitions.usecase import UseCase
from definitions.wire import Bytes, Ints

_FIELDS = [field.name for field in pb.Interaction.DESCRIPTOR.fields]
_WRITTEN = {8: np.int64, 4: np.uint32}  # what the scanner writes for a column of so many bytes


def decode_interactions_columns(
    usecase: UseCase, partition: int, records: RecordColumns, *, check_clock: bool = True
) -> tuple[EventColumns, list[BadRecord]]:
    """Columns of the good records of one partition of `interactions`, in their order, and the bad ones.

    What is bad, `definitions.records` decides: its checks run over the columns, and only a record that they refuse
    becomes an object. What the scanner does not read (groups, cut values), protobuf judges.

    Args:
        usecase: whose topic it is.
        partition: stamped on every row.
        records: in offset order.
        check_clock: False only where `timestamp_us` is not the log's own time of arrival.
    """
    columns, malformed = _scanned(partition, records)
    refused = refused_interactions(usecase, columns, _ids(records), check_clock=check_clock)
    for index in malformed:
        refused[index] = True
    if not refused.any():
        return columns, []
    bad = []
    for index in np.flatnonzero(refused).tolist():
        record = records.record(index)
        if index in malformed:
            bad.append(malformed_record(record, pb.Interaction.DESCRIPTOR.name))
        else:
            message = pb.Interaction.FromString(record.value or b"")
            bad.append(refused_record(usecase, record, message, check_clock=check_clock))
    return columns.take(~refused), bad


def _scanned(partition: int, records: RecordColumns) -> tuple[EventColumns, set[int]]:
    """All records as columns, and which of them are no messages; the rows of these are 0."""
    count = len(records)
    found = {name: np.empty(count, _WRITTEN[np.dtype(COLUMN_TYPES[name]).itemsize]) for name in _FIELDS}
    doubtful = np.empty(count, np.bool_)
    malformed = set()
    if scan(records.buffer, records.value_start, records.value_size, doubtful, *found.values()):
        for index in np.flatnonzero(doubtful).tolist():
            value = records.record(index).value
            try:
                message = pb.Interaction.FromString(value)  # type: ignore[arg-type]  # None raises
            except (DecodeError, TypeError):
                malformed.add(index)
            else:
                for name, column in found.items():
                    column.view(COLUMN_TYPES[name])[index] = getattr(message, name)
    columns = {name: column.view(COLUMN_TYPES[name]) for name, column in found.items()}
    return (
        EventColumns(
            **columns,
            partition=np.full(count, partition, np.int32),
            offset=records.offset,
            timestamp_us=records.timestamp_us,
        ),
        malformed,
    )


def _ids(records: RecordColumns) -> npt.NDArray[np.uint64]:
    """The keys as ids; a key that is none becomes 0, which no good record has."""
    ids = np.empty(len(records), np.uint64)
    _read_ids(records.buffer, records.key_start, records.key_size, ids)
    return ids


@kernel
def _read_ids(data: Bytes, starts: Ints, sizes: Ints, ids: npt.NDArray[np.uint64]) -> None:
    for index in range(len(starts)):
        value = np.uint64(0)
        if sizes[index] == 8:
            start = int(starts[index])
            for at in range(start, start + 8):
                value = (value << np.uint64(8)) | np.uint64(data[at])
        ids[index] = value
