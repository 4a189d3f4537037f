"""Which topic becomes which table, and how its records are decoded. What is bad, `definitions.records` decides."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import pyarrow as pa
from definitions.records import (
    BadRecord,
    LogRecord,
    decode_decisions,
    decode_impressions,
    decode_interactions,
    decode_items,
    decode_users,
)
from definitions.usecase import UseCase
from servicekit.topics import DECISIONS, topic
from stores.offline import Lake, Part, app_id, rows

from archiver import log

Message = TypeVar("Message")
DecodeMessages = Callable[[int, Sequence[LogRecord]], tuple[list[tuple[int, Message]], list[BadRecord]]]
ToTable = Callable[[str, int, Sequence[rows.Place], Sequence[Message]], pa.Table]


def streams(usecases: Sequence[UseCase], log_id: str, lake: Callable[[str], Lake]) -> list[log.Stream]:
    """All topics that are archived; `lake` opens the tables of a use case by its name."""
    found = []
    for usecase in usecases:
        tables = lake(usecase.name)
        kinds: dict[Any, log.Decode] = {
            "interactions": _interactions(usecase, log_id),
            "impressions": _messages(log_id, decode_impressions, rows.impressions_table),
            "users": _messages(log_id, decode_users, rows.users_table),
            "items": _messages(log_id, decode_items, rows.items_table),
        }
        for kind, decode in kinds.items():
            name = topic(usecase.name, kind)
            found.append(log.Stream(name, decode, LakeTable(tables, kind, log_id)))
    decisions = _messages(log_id, decode_decisions, rows.decisions_table)
    shared = LakeTable(lake(usecases[0].name), DECISIONS, log_id)
    return [*found, log.Stream(DECISIONS, decisions, shared)]


class LakeTable:
    """One Delta table as the loop's `Table`."""

    def __init__(self, lake: Lake, table: str, log_id: str) -> None:
        self._lake = lake
        self._table = table
        self._log_id = log_id

    def next_offset(self, place: log.Place) -> int:
        """The version of the place's transactions."""
        return self._lake.next_offset(self._table, app_id(self._log_id, *place))

    def append(self, parts: Sequence[log.Part]) -> int:
        """One commit."""
        return self._lake.commit(
            self._table,
            [Part(app_id(self._log_id, *part.place), part.rows, part.next_offset, part.expected) for part in parts],
        )


def _interactions(usecase: UseCase, log_id: str) -> log.Decode:
    def decode(partition: int, records: Sequence[LogRecord]) -> log.Decoded:
        events, bad = decode_interactions(usecase, partition, records)
        return log.Decoded(rows.interactions_table(log_id, events), bad)

    return decode


def _messages(log_id: str, decode_messages: DecodeMessages[Any], to_table: ToTable[Any]) -> log.Decode:
    def decode(partition: int, records: Sequence[LogRecord]) -> log.Decoded:
        good, bad = decode_messages(partition, records)
        timestamps = {record.offset: record.timestamp_us for record in records}
        places = [(offset, timestamps[offset]) for offset, _ in good]
        return log.Decoded(to_table(log_id, partition, places, [message for _, message in good]), bad)

    return decode
