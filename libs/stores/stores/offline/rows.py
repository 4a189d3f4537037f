"""Rows of the lake from what is on the log, and back."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
from definitions.events import COLUMN_TYPES, EventColumns
from definitions.impressions import ARRAYS, PackedImpression, length, numbers
from google.protobuf.json_format import MessageToJson
from millrace.decisions.v1 import decisions_pb2
from millrace.events.v1 import events_pb2 as pb

from stores.offline.schemas import DECISIONS, IMPRESSIONS, INTERACTIONS, ITEMS, USERS, TableSpec

_DAY_US = 86_400_000_000

Entity = TypeVar("Entity", pb.Item, pb.User)
Place = tuple[int, int]
"""Offset and the broker's timestamp in microseconds of one record."""


def interactions_table(log_id: str, events: EventColumns) -> pa.Table:
    """Rows of `interactions`, in the events' order. Event times must be before the year 10000."""
    columns: dict[str, Any] = {name: getattr(events, name) for name in COLUMN_TYPES}
    columns["log_id"] = _constant(log_id, len(events))
    columns["event_date"] = _dates(events.event_time_us)
    return _table(INTERACTIONS, columns)


def to_events(frame: pl.DataFrame) -> EventColumns:
    """Events from rows of `interactions` as `Lake.scan` gives them, in the frame's order."""
    return EventColumns(
        **{name: np.ascontiguousarray(frame[name].to_numpy(), dtype) for name, dtype in COLUMN_TYPES.items()}
    )


def items_table(log_id: str, partition: int, places: Sequence[Place], items: Sequence[pb.Item]) -> pa.Table:
    """Rows of `items`; `places` and `items` run alike."""
    return _entities(ITEMS, log_id, partition, places, items)


def users_table(log_id: str, partition: int, places: Sequence[Place], users: Sequence[pb.User]) -> pa.Table:
    """Rows of `users`; `places` and `users` run alike."""
    return _entities(USERS, log_id, partition, places, users)


def to_items(frame: pl.DataFrame) -> list[pb.Item]:
    """Messages from rows of `items`, in the frame's order."""
    return _messages(pb.Item, frame)


def to_users(frame: pl.DataFrame) -> list[pb.User]:
    """Messages from rows of `users`, in the frame's order."""
    return _messages(pb.User, frame)


def impressions_table(
    log_id: str, partition: int, places: Sequence[Place], impressions: Sequence[PackedImpression]
) -> pa.Table:
    """Rows of `impressions`; `places` and `impressions` run alike. Times must be before the year 10000."""
    columns = _log_columns(log_id, partition, places)
    for name in ("request_id", "user_id", "time_us", "usecase", "features", "int_features", "layout_hash"):
        columns[name] = [getattr(each, name) for each in impressions]
    for name in ("model_name", "model_version", "rung", "arm", "deadline_ms", "candidates"):
        columns[name] = [getattr(each, name) for each in impressions]
    for name in ("model_digest", "rules", "rule_codes"):
        columns[name] = [getattr(each, name) for each in impressions]
    for name in ARRAYS:
        columns[name] = _lists(name, [length(each, name) for each in impressions], numbers(impressions, name))
    columns["reasons"] = _joined("reasons", [each.reasons for each in impressions])
    for name in ("device", "surface", "country", "session_id"):
        columns[name] = [getattr(each.context, name) for each in impressions]
    columns["row_epoch"] = [each.row.epoch for each in impressions]
    columns["row_interactions_offset"] = [each.row.interactions_offset for each in impressions]
    columns["row_users_offset"] = [each.row.users_offset for each in impressions]
    for field, parts in {"marker_partitions": "partition", "marker_offsets": "offset"}.items():
        columns[field] = _joined(field, [[getattr(part, parts) for part in each.item_markers] for each in impressions])
    for field, parts in {"stages": "stage", "stage_micros": "micros"}.items():
        columns[field] = _joined(field, [[getattr(part, parts) for part in each.stages] for each in impressions])
    columns["event_date"] = _dates(np.array(columns["time_us"], np.int64))
    return _table(IMPRESSIONS, columns)


def decisions_table(
    log_id: str, partition: int, places: Sequence[Place], decisions: Sequence[decisions_pb2.Decision]
) -> pa.Table:
    """Rows of `decisions`; `places` and `decisions` run alike."""
    columns = _log_columns(log_id, partition, places)
    for name in ("usecase", "kind", "reason", "actor", "time_us"):
        columns[name] = [getattr(each, name) for each in decisions]
    columns["state"] = [MessageToJson(each.state, indent=None) for each in decisions]
    columns["record"] = [each.SerializeToString(deterministic=True) for each in decisions]
    return _table(DECISIONS, columns)


def attributes_to_json(attributes: Mapping[str, pb.AttributeValue]) -> str:
    """`{"genre": {"categories": [1, 2]}, "year": {"number": 1990.0}}`, sorted by name. Numbers must be finite."""
    plain: dict[str, Any] = {}
    for name, value in attributes.items():
        kind = value.WhichOneof("kind")
        held = list(value.categories.codes) if kind == "categories" else getattr(value, kind) if kind else None
        plain[name] = {kind: held} if kind else {}
    return json.dumps(plain, sort_keys=True, allow_nan=False, ensure_ascii=False)


def attributes_from_json(text: str) -> dict[str, pb.AttributeValue]:
    """The inverse of `attributes_to_json`."""
    make: dict[str, Callable[[Any], pb.AttributeValue]] = {
        "number": lambda held: pb.AttributeValue(number=held),
        "text": lambda held: pb.AttributeValue(text=held),
        "categories": lambda held: pb.AttributeValue(categories=pb.CategoryCodes(codes=held)),
    }
    found = {}
    for name, value in json.loads(text).items():
        found[name] = pb.AttributeValue()
        for kind, held in value.items():
            found[name] = make[kind](held)
    return found


def _entities(
    spec: TableSpec, log_id: str, partition: int, places: Sequence[Place], entities: Sequence[Entity]
) -> pa.Table:
    columns = _log_columns(log_id, partition, places)
    columns["id"] = [each.id for each in entities]
    columns["external_id"] = [each.external_id for each in entities]
    columns["attributes"] = [attributes_to_json(each.attributes) for each in entities]
    columns["embedding"] = [list(each.embedding) for each in entities]
    columns["deleted"] = [each.deleted for each in entities]
    return _table(spec, columns)


def _messages(message_type: type[Entity], frame: pl.DataFrame) -> list[Entity]:
    return [
        message_type(
            id=row["id"],
            external_id=row["external_id"],
            attributes=attributes_from_json(row["attributes"]),
            embedding=row["embedding"],
            deleted=row["deleted"],
        )
        for row in frame.iter_rows(named=True)
    ]


def _log_columns(log_id: str, partition: int, places: Sequence[Place]) -> dict[str, Any]:
    return {
        "log_id": _constant(log_id, len(places)),
        "partition": np.full(len(places), partition, np.int32),
        "offset": [offset for offset, _ in places],
        "timestamp_us": [timestamp_us for _, timestamp_us in places],
    }


def _constant(text: str, n: int) -> pa.Array:
    return pa.repeat(pa.scalar(text, pa.string()), n)


def _dates(time_us: npt.NDArray[np.int64]) -> pa.Array:
    return pa.array((time_us // _DAY_US).astype(np.int32)).cast(pa.date32())


def _joined(name: str, lists: Sequence[Sequence[Any]]) -> pa.Array:
    """A list column of `impressions`."""
    return _lists(name, list(map(len, lists)), list(chain.from_iterable(lists)))


def _lists(name: str, lengths: Sequence[int], values: Sequence[Any] | npt.NDArray[Any]) -> pa.Array:
    """A list column of `impressions` from the values of all lists."""
    kind = IMPRESSIONS.schema.field(name).type
    offsets = np.cumsum([0, *lengths], dtype=np.int32)
    return pa.ListArray.from_arrays(offsets, pa.array(values, kind.value_type), type=kind)


def _table(spec: TableSpec, columns: Mapping[str, Iterable[Any]]) -> pa.Table:
    return pa.table(
        {field.name: pa.array(columns[field.name], field.type) for field in spec.schema}, schema=spec.schema
    )
