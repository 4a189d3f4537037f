"""One data set as the platform's own types, whatever it came from."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import polars as pl
from definitions.attributes import category_code, main_category
from definitions.events import EventColumns
from definitions.usecase import UseCase
from definitions.usecase_parts import AttributeSpec, Column
from millrace.events.v1 import events_pb2 as pb
from millrace.ids import stable_id

from pipelines.datasets import cells
from pipelines.datasets.cells import Source

Entity = TypeVar("Entity", pb.Item, pb.User)
Ids = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Tables:
    """What a loader read: raw tables with file column names, and what the user must be told."""

    interactions: Source
    items: Source | None = None
    users: Source | None = None
    source: str = ""
    licence: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Dataset:
    """Events sorted by time (equal times in a seeded random order), the catalogue, the users.

    `interactions` has partition 0 and offsets 0..n-1: it is a log in its own order. `licence` is told to whoever loads
    it, as are `notes`. `shifted`: which of user_id, item_id were integers with a 0 among them, and so are 1 up;
    `textual`: which were not all integers, so that also those that look like one are stable ids of their text.
    """

    interactions: EventColumns
    users: list[pb.User]
    items: list[pb.Item]
    source: str
    licence: str
    notes: tuple[str, ...] = ()
    shifted: frozenset[str] = field(default_factory=frozenset)
    textual: frozenset[str] = field(default_factory=frozenset)

    def part(self, which: npt.NDArray[np.bool_] | slice) -> "Dataset":
        """The same with some of the interactions only; users and items stay."""
        return replace(self, interactions=self.interactions.take(which))


def build_dataset(usecase: UseCase, tables: Tables, *, seed: int = 0) -> Dataset:
    """Raw tables to a data set, by the use case's `columns`, `item_columns` and `user_columns`.

    Raises:
        DataFileError: a column is missing or a cell cannot be used.
    """
    users, items = _Ids("user_id"), _Ids("item_id")
    users.read(tables.interactions, _column(usecase.columns, "user_id"))
    items.read(tables.interactions, _column(usecase.columns, "item_id"))
    if tables.users is not None:
        users.read(tables.users, _column(usecase.user_columns, "user_id"))
    if tables.items is not None:
        items.read(tables.items, _column(usecase.item_columns, "item_id"))
    user_ids, item_ids = users.resolved(), items.resolved()
    catalogue = (
        _entities(pb.Item, tables.items, item_ids[1], items.external(1), usecase.attributes.item, usecase.item_columns)
        if tables.items is not None
        else _bare_items(item_ids[0], items.external(0))
    )
    people = (
        _entities(pb.User, tables.users, user_ids[1], users.external(1), usecase.attributes.user, usecase.user_columns)
        if tables.users is not None
        else []
    )
    events = _events(usecase, tables.interactions, user_ids[0], item_ids[0], catalogue, seed)
    shifted = frozenset(each.name for each in (users, items) if each.shift)
    textual = frozenset(each.name for each in (users, items) if each.textual)
    return Dataset(events, people, catalogue, tables.source, tables.licence, tables.notes, shifted, textual)


class _Ids:
    """One id space over several files: they are integers only if all of them are, and shift together."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.shift = 0
        self.textual = False
        self._read: list[tuple[Source, pl.Series, Ids, bool]] = []

    def read(self, source: Source, column: Column) -> None:
        found = source.cells(self.name, column)
        self._read.append((source, found, *cells.ids(source, found, stable_id)))

    def resolved(self) -> list[Ids]:
        """Ids of each file read, in the order read."""
        self.textual = not all(integers for *_, integers in self._read)
        if self.textual:
            return [np.array([stable_id(text) for text in self.external(i)], np.uint64) for i in range(len(self._read))]
        self.shift = int(any((values == 0).any() for *_, values, _ in self._read))
        return [values + np.uint64(self.shift) for *_, values, _ in self._read]

    def external(self, which: int) -> list[str]:
        """The original text of each row's id in the file read as number `which`."""
        found = self._read[which][1]
        if found.dtype.is_float():
            found = found.cast(pl.UInt64)
        return found.cast(pl.String).str.strip_chars().to_list()


def _column(columns: Mapping[str, Column], name: str) -> Column:
    return columns.get(name) or Column.model_validate({"from": name})


def _events(
    usecase: UseCase, source: Source, user_ids: Ids, item_ids: Ids, items: list[pb.Item], seed: int
) -> EventColumns:
    n = len(user_ids)
    time_column = _column(usecase.columns, "event_time_us")
    columns: dict[str, npt.NDArray[np.generic]] = {
        "user_id": user_ids,
        "item_id": item_ids,
        "event_time_us": cells.times_us(source, source.cells("event_time_us", time_column), time_column.unit),
        "action": _actions(usecase, source, n),
    }
    for name, column in usecase.columns.items():
        if name in columns:
            continue
        found = source.cells(name, column)
        if name == "value":
            columns[name] = cells.numbers(source, found).astype(np.float32)
        elif name in ("event_id", "request_id", "session_id"):
            columns[name] = cells.ids(source, found, stable_id)[0]
        else:
            columns[name] = cells.small_codes(source, found)
    if "category" not in columns:
        columns["category"] = _main_categories(usecase, items, item_ids)
    if "event_id" not in columns:
        columns["event_id"] = _event_ids(usecase.name, columns)
    order = np.lexsort((np.random.default_rng(seed).permutation(n), columns["event_time_us"]))
    ordered = {name: values[order] for name, values in columns.items()}
    return EventColumns.of(n, **ordered, offset=np.arange(n), timestamp_us=ordered["event_time_us"])


def _actions(usecase: UseCase, source: Source, n: int) -> npt.NDArray[np.uint32]:
    column = usecase.columns.get("action")
    if column is None and len(usecase.actions) == 1:
        return np.zeros(n, np.uint32)
    found = source.cells("action", column or _column(usecase.columns, "action"))
    return cells.codes_of(source, found, usecase.action_names, "action")


def _event_ids(usecase: str, columns: Mapping[str, npt.NDArray[np.generic]]) -> Ids:
    """Ids from what the row says, not from where it stands: loading a file twice, or two overlapping exports, adds
    nothing twice. Rows that say exactly the same are counted, and stay distinct."""
    said = zip(
        *(columns[name].tolist() for name in ("user_id", "item_id", "action", "event_time_us")),
        columns["value"].tolist() if "value" in columns else [0.0] * len(columns["user_id"]),
        strict=True,
    )
    times_met: dict[tuple[object, ...], int] = {}
    out = np.empty(len(columns["user_id"]), np.uint64)
    for index, row in enumerate(said):
        nth = times_met.get(row, 0)
        times_met[row] = nth + 1
        out[index] = stable_id(f"{usecase}:{':'.join(map(str, row))}:{nth}")
    return out


def _main_categories(usecase: UseCase, items: list[pb.Item], item_ids: Ids) -> npt.NDArray[np.uint32]:
    """What the collector would stamp on each event."""
    first = {item.id: main_category(usecase, item) for item in items}
    return np.array([first.get(each, 0) for each in item_ids.tolist()], np.uint32)


def _bare_items(item_ids: Ids, external: list[str]) -> list[pb.Item]:
    """A catalogue of ids only, from the interactions: what is not in the catalogue is never recommended."""
    first = np.unique(item_ids, return_index=True)[1]
    return [pb.Item(id=int(item_ids[row]), external_id=external[row]) for row in sorted(first.tolist())]


def _entities(
    kind: type[Entity],
    source: Source,
    entity_ids: Ids,
    external: list[str],
    specs: Mapping[str, AttributeSpec],
    columns: Mapping[str, Column],
) -> list[Entity]:
    """One message a row. An empty cell is an absent attribute.

    Raises:
        DataFileError: an id is there twice, or a cell cannot be used.
    """
    _, first = np.unique(entity_ids, return_index=True)
    if len(first) < len(entity_ids):
        row = int(np.setdiff1d(np.arange(len(entity_ids)), first)[0])
        raise source.error_at(row, None, f"id {external[row]!r} is there twice", "Remove one of the rows")
    out = [kind(id=each, external_id=text) for each, text in zip(entity_ids.tolist(), external, strict=True)]
    for name, spec in specs.items():
        column = _column(columns, name)
        found = source.cells(name, column)
        if spec.kind == "number":
            for message, number in zip(out, cells.numbers(source, found, optional=True).tolist(), strict=True):
                if not math.isnan(number):
                    message.attributes[name].number = number
            continue
        for message, text in zip(out, found.cast(pl.String).to_list(), strict=True):
            if text is None or not text.strip():
                continue
            if spec.kind in ("text", "category"):  # a category's text becomes its code where it is read
                message.attributes[name].text = text.strip()
            else:
                parts = text.split(column.split) if column.split else [text]
                codes = [category_code(part.strip()) for part in parts if part.strip()]
                message.attributes[name].categories.codes.extend(codes)
    return out
