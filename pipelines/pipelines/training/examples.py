"""Training rows: features point in time, the use case's label, where each row comes from."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
from definitions.backfill import Backfilled, backfill
from definitions.dedupe import first_occurrences
from definitions.events import EventColumns
from definitions.layout import Layout
from definitions.learning import Negatives
from definitions.usecase import UseCase
from millrace.events.v1 import events_pb2 as pb
from stores.offline import Lake
from stores.offline.rows import to_events, to_items, to_users
from stores.offline.schemas import EXAMPLES

from pipelines.datasets.dataset import Dataset
from pipelines.datasets.split import Split
from pipelines.errors import BadInputError, TrainingError
from pipelines.training.candidates import NONE, Candidates
from pipelines.training.labels import Labels, label_candidates
from pipelines.training.logged import Shown, shown_items
from pipelines.training.negatives import draw_negatives, mixed

Mode = Literal["backfill", "logged", "auto"]
"""Where features come from."""

Number = TypeVar("Number", np.float32, np.int64)


@dataclass(frozen=True)
class Log:
    """All that was known: events in log order with each event_id once, users and items as they are now.

    Those that are `deleted` stay among them, not to be taken for merely unknown: an erased user has no history.
    """

    events: EventColumns
    users: Mapping[int, pb.User]
    items: Mapping[int, pb.Item]
    source: str

    @classmethod
    def of_dataset(cls, dataset: Dataset) -> "Log":
        """A data set is a log in its own order."""
        users = {user.id: user for user in dataset.users}
        return cls(dataset.interactions, users, {item.id: item for item in dataset.items}, dataset.source)

    @classmethod
    def of_lake(cls, lake: Lake, window: int) -> "Log":
        """What the archiver wrote.

        Repeats of an event_id are dropped by the log's own rule inside a partition (`window` offsets), and altogether
        between logs: an embedded broker starts a new log each time, and the same data may be on several.

        Raises:
            TrainingError: the lake holds no interactions.
        """
        frame = lake.scan("interactions").sort("log_id", "partition", "offset").collect()
        if frame.height == 0:
            raise TrainingError("the lake holds no interactions; load data first: millrace load")
        events = to_events(frame)
        logs = frame["log_id"].rank("dense").to_numpy()
        keep = np.zeros(len(events), bool)
        met = np.empty(0, np.uint64)
        for log in np.unique(logs)[::-1]:
            rows = np.flatnonzero(logs == log)
            part = events.take(rows)
            fresh = first_occurrences(part.event_id, part.partition, part.offset, window)
            fresh &= ~np.isin(part.event_id, met)
            keep[rows[fresh]] = True
            met = np.concatenate([met, part.event_id[fresh]])
        users = {user.id: user for user in to_users(_newest(lake.scan("users")))}
        items = {item.id: item for item in to_items(_newest(lake.scan("items")))}
        events = events.take(keep)
        return cls(events, users, items, "lake")

    def plus(self, later: Dataset) -> "Log":
        """The same with the events of `later` that are not in it yet."""
        new = ~np.isin(later.interactions.event_id, self.events.event_id)
        events = EventColumns.concat([self.events, later.interactions.take(new)])
        return Log(events, self.users, self.items, f"{self.source} + {later.source}")


def _newest(frame: pl.LazyFrame) -> pl.DataFrame:
    """The newest record of each id; broker time decides between logs, the offset inside one."""
    return frame.sort("timestamp_us", "offset").unique("id", keep="last", maintain_order=True).collect()


@dataclass(frozen=True)
class Examples:
    """n rows in time order, equal times in a seeded random order.

    features float32 (n, F), user_ints int64 (n, Ku), item_ints int64 (n, Ki) as the layout names them; label int64 (n,)
    0/1; weight float32 (n,); user_id, item_id uint64 (n,); time_us int64 (n,), when the features were evaluated.
    Provenance: event_id uint64 (n,), of the row's own event, else of the one that gave the label (0: neither);
    request_id uint64 (n,), what the row answers (0 = organic); logged bool (n,): whether the features are those that
    the model scored then, else they were backfilled. `value` float32 (n,), what a regression predicts; `heads`: name ->
    float32 (n,).
    """

    features: npt.NDArray[np.float32]
    user_ints: npt.NDArray[np.int64]
    item_ints: npt.NDArray[np.int64]
    label: npt.NDArray[np.int64]
    weight: npt.NDArray[np.float32]
    event_id: npt.NDArray[np.uint64]
    user_id: npt.NDArray[np.uint64]
    item_id: npt.NDArray[np.uint64]
    time_us: npt.NDArray[np.int64]
    layout_hash: int
    request_id: npt.NDArray[np.uint64]
    logged: npt.NDArray[np.bool_]
    value: npt.NDArray[np.float32]
    heads: Mapping[str, npt.NDArray[np.float32]]

    def __len__(self) -> int:
        return len(self.label)

    def take(self, rows: npt.NDArray[np.bool_]) -> "Examples":
        """Those of a mask."""
        columns: dict[str, Any] = {name: each for name, each in vars(self).items() if isinstance(each, np.ndarray)}
        arrays = {name: column[rows] for name, column in columns.items()}
        return replace(self, **arrays, heads={name: column[rows] for name, column in self.heads.items()})

    @property
    def keys(self) -> npt.NDArray[np.uint64]:
        """What tells a row from the others, uint64 (n,): the same in every training set that has it."""
        return mixed(self.user_id, self.item_id, self.request_id, self.time_us.view(np.uint64))

    def digest(self) -> str:
        """sha256 over features, labels, ids and times, in hex: what the model was made of."""
        state = hashlib.sha256()
        columns: list[npt.NDArray[Any]] = [self.features, self.label, self.event_id, self.time_us]
        columns += [self.value, self.logged, *(self.heads[name] for name in sorted(self.heads))]
        for column in columns:
            state.update(column.tobytes())
        return state.hexdigest()


def of_events(layout: Layout) -> Layout:
    """The same with every event that the label calls an example as a row, wherever training takes its negatives."""
    return replace(layout, usecase=layout.usecase.model_copy(update={"negatives": Negatives()}))


def build_examples(
    layout: Layout, log: Log, *, mode: Mode = "backfill", lake: Lake | None = None, seed: int = 0
) -> Examples:
    """One row for each candidate that the use case calls an example (`label`, `negatives`), once its label is final.

    Examples are events of the label's actions, or with `negatives.source: impressions` the shown items. Features are
    those of strictly before the row's time. Erased users have no rows.

    Args:
        layout: of the columns; its use case says what is an example.
        log: the facts. It is known up to its newest event: rows whose attribution window ends later are left out.
        mode: `backfill` computes all features from the log; `logged` takes rows only whose features were logged when
            they were served, by request_id; `auto` takes what was logged and backfills the rest.
        lake: where impressions are; None: nothing was logged.
        seed: of the order among equal times, and of drawn negatives.

    Raises:
        BadInputError: impressions are wanted and there is no lake.
        TrainingError: no example, or labels of one kind only.
    """
    usecase = layout.usecase
    of_impressions = usecase.negatives.source == "impressions"
    if lake is None and (of_impressions or mode == "logged"):
        raise BadInputError(
            f"{usecase.name}: logged impressions are in the lake of a running stack, not in a data set; train without "
            "naming one, or use backfill and negatives.source: events"
        )
    shown = shown_items(lake, layout) if lake is not None and (of_impressions or mode != "backfill") else None
    rows = _candidates(usecase, log, shown, mode)
    if usecase.negatives.source in ("uniform", "popularity"):
        drawn = draw_negatives(
            rows, usecase.negatives.source, usecase.negatives.per_positive, log.events, log.items, seed=seed
        )
        rows = Candidates.concat([rows, drawn])
    rows = rows.take(np.lexsort((mixed(rows.item_id, rows.user_id, np.full(len(rows), seed, np.uint64)), rows.time_us)))
    known_until_us = int(log.events.event_time_us.max(initial=0))
    labels = label_candidates(usecase, rows, log.events, known_until_us)
    kept = labels.closed & ~(rows.sampled & (labels.label != 0))
    rows, labels = rows.take(kept), labels.take(kept)
    _check_kinds(usecase, labels)
    features = _features(layout, log, rows, shown)
    return Examples(
        features=features.features,
        user_ints=features.user_ints,
        item_ints=features.item_ints,
        label=labels.label,
        weight=np.ones(len(rows), np.float32),
        event_id=labels.event_id,
        user_id=rows.user_id,
        item_id=rows.item_id,
        time_us=rows.time_us,
        layout_hash=layout.layout_hash,
        request_id=rows.request_id,
        logged=rows.shown != NONE,
        value=labels.value,
        heads=labels.heads,
    )


def _candidates(usecase: UseCase, log: Log, shown: Shown | None, mode: Mode) -> Candidates:
    """Of users that were not erased."""
    events = log.events
    if shown is not None and usecase.negatives.source == "impressions":
        rows = shown.candidates
    else:
        is_example = usecase.is_example(events.action)
        if usecase.negatives.source not in ("events", "impressions"):  # negatives are drawn, or the batch's
            is_example &= usecase.is_positive(events.action, events.value)
        rows = Candidates.of_events(events, np.flatnonzero(is_example))
        rows = rows if shown is None else shown.answered_by(rows)
    if mode == "logged":
        rows = rows.take(rows.shown != NONE)
    elif mode == "backfill":
        rows = replace(rows, shown=np.full(len(rows), NONE, np.int64))
    erased = np.array([key for key, user in log.users.items() if user.deleted], np.uint64)
    return rows.take(~np.isin(rows.user_id, erased))


def _check_kinds(usecase: UseCase, labels: Labels) -> None:
    n, positive = len(labels.label), int(labels.label.sum())
    one_kind = n == 0 or labels.label.min() == labels.label.max()
    if usecase.task.type == "regression" or usecase.negatives.source == "in_batch":
        one_kind = n == 0
    if one_kind:
        raise TrainingError(
            f"{usecase.name}: {n} examples with {positive} positive; both kinds are needed: check `label` and "
            "`negatives` in the use case, that label windows have closed, and the loaded data"
        )


def _features(layout: Layout, log: Log, rows: Candidates, shown: Shown | None) -> Backfilled:
    """Logged where a row has them, backfilled where not."""
    is_logged = rows.shown != NONE
    if shown is None or not is_logged.any():
        return backfill(layout, log.events, log.users, log.items, rows.queries)
    missing = np.flatnonzero(~is_logged)
    filled = backfill(layout, log.events, log.users, log.items, rows.queries.take(missing))
    place = rows.shown[is_logged]

    def joined(logged: npt.NDArray[Number], computed: npt.NDArray[Number]) -> npt.NDArray[Number]:
        out = np.empty((len(rows), logged.shape[1]), computed.dtype)
        out[is_logged], out[missing] = logged[place], computed
        return out

    return Backfilled(
        joined(shown.features, filled.features),
        joined(shown.user_ints, filled.user_ints),
        joined(shown.item_ints, filled.item_ints),
    )


def examples_table(examples: Examples, split: Split, training_set: str) -> pa.Table:
    """Rows of the lake's table `examples`. `split` is empty where a row is in no part: in a gap, or thinned out."""
    n = len(examples)
    ints = np.hstack([examples.user_ints, examples.item_ints])
    columns = {
        "request_id": examples.request_id,
        "event_id": examples.event_id,
        "user_id": examples.user_id,
        "item_id": examples.item_id,
        "time_us": examples.time_us,
        "label": examples.label.astype(np.float32),
        "weight": examples.weight,
        "features": _lists(examples.features),
        "int_features": _lists(ints),
        "layout_hash": np.full(n, examples.layout_hash, np.uint32),
        "source": _named(("backfill", "logged"), examples.logged.astype(np.int32)),
        "split": _named(("", "train", "valid", "test"), split.fit + 2 * split.valid + 3 * split.test),
        "training_set": _named((training_set,), np.zeros(n, np.int32)),
    }
    return pa.table([columns[each.name] for each in EXAMPLES.schema], schema=EXAMPLES.schema)


def _named(names: tuple[str, ...], codes: npt.NDArray[np.integer[Any]]) -> pa.Array:
    return pa.array(names).take(pa.array(codes.astype(np.int32)))


def _lists(matrix: npt.NDArray[np.float32] | npt.NDArray[np.int64]) -> pa.ListArray:
    n, width = matrix.shape
    ends = pa.array(np.arange(0, (n + 1) * width, width, dtype=np.int32) if width else np.zeros(n + 1, np.int32))
    return pa.ListArray.from_arrays(ends, pa.array(np.ascontiguousarray(matrix).ravel()))
