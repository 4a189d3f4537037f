"""Training rows: features point in time, the use case's label, where each row comes from."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
from definitions.backfill import Queries, backfill
from definitions.dedupe import first_occurrences
from definitions.events import EventColumns
from definitions.layout import Layout
from millrace.events.v1 import events_pb2 as pb
from stores.offline import Lake
from stores.offline.rows import to_events, to_items, to_users
from stores.offline.schemas import EXAMPLES

from pipelines.datasets.dataset import Dataset
from pipelines.datasets.split import Split
from pipelines.errors import TrainingError


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
    """n rows in time order.

    features float32 (n, F), user_ints int64 (n, Ku), item_ints int64 (n, Ki) as the layout names them; label int64 (n,)
    0/1; weight float32 (n,); event_id, user_id, item_id uint64 (n,); time_us int64 (n,).
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
    source: str = field(default="backfill")

    def __len__(self) -> int:
        return len(self.label)

    def digest(self) -> str:
        """sha256 over features, labels, ids and times, in hex: what the model was made of."""
        state = hashlib.sha256()
        for column in (self.features, self.label, self.event_id, self.time_us):
            state.update(column.tobytes())
        return state.hexdigest()


def build_examples(layout: Layout, log: Log) -> Examples:
    """One row for each event that the use case calls an example, features as of strictly before its time.

    Events of erased users are none.

    Raises:
        TrainingError: no example, or labels of one kind only.
    """
    usecase, events = layout.usecase, log.events
    erased = np.array([key for key, user in log.users.items() if user.deleted], np.uint64)
    asked = events.take(usecase.is_example(events.action) & ~np.isin(events.user_id, erased))
    asked = asked.take(np.argsort(asked.event_time_us, kind="stable"))
    label = usecase.is_positive(asked.action, asked.value).astype(np.int64)
    if len(label) == 0 or label.min() == label.max():
        raise TrainingError(
            f"{usecase.name}: {len(label)} examples with {int(label.sum())} positive; both kinds are needed: check "
            "`label` in the use case and the loaded data"
        )
    queries = Queries(
        user_id=asked.user_id,
        item_id=asked.item_id,
        time_us=asked.event_time_us,
        device=asked.device,
        surface=asked.surface,
        country=asked.country,
    )
    filled = backfill(layout, events, log.users, log.items, queries)
    return Examples(
        features=filled.features,
        user_ints=filled.user_ints,
        item_ints=filled.item_ints,
        label=label,
        weight=np.ones(len(label), np.float32),
        event_id=asked.event_id,
        user_id=asked.user_id,
        item_id=asked.item_id,
        time_us=asked.event_time_us,
        layout_hash=layout.layout_hash,
    )


def examples_table(examples: Examples, split: Split, training_set: str) -> pa.Table:
    """Rows of the lake's table `examples`."""
    n = len(examples)
    parts = np.select([split.fit, split.valid], ["train", "valid"], "test")
    ints = np.hstack([examples.user_ints, examples.item_ints])
    columns = {
        "request_id": np.zeros(n, np.uint64),
        "event_id": examples.event_id,
        "user_id": examples.user_id,
        "item_id": examples.item_id,
        "time_us": examples.time_us,
        "label": examples.label.astype(np.float32),
        "weight": examples.weight,
        "features": _lists(examples.features),
        "int_features": _lists(ints),
        "layout_hash": np.full(n, examples.layout_hash, np.uint32),
        "source": pa.array([examples.source]).take(pa.array(np.zeros(n, np.int32))),
        "split": pa.array(parts.tolist(), pa.string()),
        "training_set": pa.array([training_set]).take(pa.array(np.zeros(n, np.int32))),
    }
    return pa.table([columns[each.name] for each in EXAMPLES.schema], schema=EXAMPLES.schema)


def _lists(matrix: npt.NDArray[np.float32] | npt.NDArray[np.int64]) -> pa.ListArray:
    n, width = matrix.shape
    ends = pa.array(np.arange(0, (n + 1) * width, width, dtype=np.int32) if width else np.zeros(n + 1, np.int32))
    return pa.ListArray.from_arrays(ends, pa.array(np.ascontiguousarray(matrix).ravel()))
