"""The lake's tables, declared once with the types that readers see, and how Delta holds them.

Delta has no unsigned numbers: uint64 is stored as int64 with the same bits, uint32 as int64 with the same value.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

import polars as pl
import pyarrow as pa

U64: Final = pa.uint64()
U32: Final = pa.uint32()

# Columns that tables got after there were lakes; an older table gets them with its next commit.
ADDED: Final = frozenset({"model_digest", "rules", "rule_codes", "unknown", "candidates"})

LOG_FIELDS: Final = (
    ("log_id", pa.string()),  # which log: a new or wiped broker has another
    ("partition", pa.int32()),
    ("offset", pa.int64()),
    ("timestamp_us", pa.int64()),  # the broker's
)
"""Every row that comes from the log keeps its place there: (log_id, partition, offset) is unique in a table."""


@dataclass(frozen=True)
class TableSpec:
    """`schema` is what readers and writers see. `shared`: one table for all use cases.

    `dictionaries`: whether commits look for values that repeat, column by column.
    """

    name: str
    schema: pa.Schema
    partition_by: tuple[str, ...] = ()
    shared: bool = False
    dictionaries: bool = True

    @property
    def stored(self) -> pa.Schema:
        """The types inside Delta."""
        return pa.schema([pa.field(field.name, _stored_type(field.type)) for field in self.schema])


def _stored_type(seen: pa.DataType) -> pa.DataType:
    if pa.types.is_list(seen):
        return pa.list_(_stored_type(seen.value_type))
    return pa.int64() if seen in (U64, U32) else seen


def to_stored(spec: TableSpec, rows: pa.Table) -> pa.Table:
    """Rows as Delta holds them. ValueError if `rows` has not exactly the table's columns and types."""
    if not rows.schema.equals(spec.schema):
        missing = [str(field) for field in spec.schema if field not in list(rows.schema)]
        raise ValueError(f"table {spec.name}: rows must have its schema; wrong or missing: {', '.join(missing)}")
    return rows.cast(spec.stored, safe=False)  # unsafe is the bit-cast; the check above leaves nothing else to lose


def restored(spec: TableSpec, frame: pl.LazyFrame, stored: Collection[str]) -> pl.LazyFrame:
    """What was stored, with the table's own types, in its own column order.

    A table may be older than some of its columns: one that is not among `stored`, or not in all of its files, is empty
    there (text, list) as a field is that nobody set.
    """
    return frame.select(_restored(field, is_stored=field.name in stored) for field in spec.schema)


def _restored(field: pa.Field, *, is_stored: bool) -> pl.Expr:
    if (blank := _blank(field)) is not None:
        stored = pl.col(field.name).cast(pl.UInt32) if field.type == U32 else pl.col(field.name)
        return (stored.fill_null(blank) if is_stored else blank).alias(field.name)
    column = pl.col(field.name)
    if field.type == U64:
        return column.reinterpret(signed=False)
    if field.type == U32:
        return column.cast(pl.UInt32)
    if field.type == pa.list_(U64):
        return column.list.eval(pl.element().reinterpret(signed=False))
    if field.type == pa.list_(U32):
        return column.cast(pl.List(pl.UInt32))
    return column


def _blank(field: pa.Field) -> pl.Expr | None:
    """What stands for a value that was never written; None for columns that every table has had from the first."""
    if field.name not in ADDED:
        return None
    blanks = {
        pa.string(): pl.lit(""),
        pa.binary(): pl.lit(b""),
        pa.list_(pa.bool_()): pl.lit([], pl.List(pl.Boolean)),
        U32: pl.lit(0, pl.UInt32),
    }
    return blanks[field.type]


def empty(spec: TableSpec) -> pl.LazyFrame:
    """The table before anything was written."""
    frame = pl.from_arrow(spec.schema.empty_table())
    assert isinstance(frame, pl.DataFrame)  # noqa: S101  for the type checker: a table gives a frame
    return frame.lazy()


def _log_table(name: str, *fields: tuple[str, pa.DataType], **options: bool | tuple[str, ...]) -> TableSpec:
    return TableSpec(name, pa.schema([*LOG_FIELDS, *fields]), **options)  # type: ignore[arg-type]


_ENTITY = (
    ("id", U64),
    ("external_id", pa.string()),
    ("attributes", pa.string()),  # JSON: name -> {number | categories | text}
    ("embedding", pa.list_(pa.float32())),
    ("deleted", pa.bool_()),
)

INTERACTIONS: Final = _log_table(
    "interactions",
    ("event_id", U64),
    ("user_id", U64),
    ("item_id", U64),
    ("action", U32),
    ("value", pa.float32()),
    ("event_time_us", pa.int64()),
    ("request_id", U64),
    ("position", U32),
    ("session_id", U64),
    ("device", U32),
    ("surface", U32),
    ("country", U32),
    ("category", U32),
    ("event_date", pa.date32()),  # of event_time_us, UTC
    partition_by=("event_date",),
)

IMPRESSIONS: Final = _log_table(
    "impressions",
    ("request_id", U64),
    ("user_id", U64),
    ("time_us", pa.int64()),
    ("usecase", pa.string()),
    ("item_ids", pa.list_(U64)),
    ("scores", pa.list_(pa.float32())),
    ("propensities", pa.list_(pa.float32())),
    ("positions", pa.list_(U32)),
    ("features", pa.binary()),  # float32 little-endian, candidates x float columns of the layout
    ("int_features", pa.binary()),  # int64 little-endian: user columns once, then candidates x item columns
    ("layout_hash", U32),
    ("row_epoch", U32),  # with the offsets: the user row that was used; all 0 if there was none
    ("row_interactions_offset", U64),
    ("row_users_offset", U64),
    ("marker_partitions", pa.list_(U32)),  # with marker_offsets: which item aggregates were known
    ("marker_offsets", pa.list_(U64)),
    ("model_name", pa.string()),
    ("model_version", pa.int64()),
    ("rung", pa.int32()),
    ("arm", pa.string()),
    ("device", U32),
    ("surface", U32),
    ("country", U32),
    ("session_id", U64),
    ("deadline_ms", U32),
    ("stages", pa.list_(pa.string())),
    ("stage_micros", pa.list_(U32)),
    ("reasons", pa.list_(pa.string())),
    ("event_date", pa.date32()),  # of time_us, UTC
    ("model_digest", pa.string()),  # what follows is empty in rows of before these columns were there
    ("rules", pa.string()),
    ("rule_codes", pa.binary()),  # uint32 little-endian, candidates x codes that the rules read
    ("unknown", pa.list_(pa.bool_())),  # empty: the rung knew of all candidates
    ("candidates", U32),  # that were ranked, logged or not
    partition_by=("event_date",),
    dictionaries=False,  # features and scores do not repeat: a commit takes a fifth less time, its file 6 % more room
)

USERS: Final = _log_table("users", *_ENTITY)
ITEMS: Final = _log_table("items", *_ENTITY)

DECISIONS: Final = _log_table(
    "decisions",
    ("usecase", pa.string()),
    ("kind", pa.int32()),
    ("reason", pa.string()),
    ("actor", pa.string()),
    ("time_us", pa.int64()),
    ("state", pa.string()),  # JSON of ServingState
    ("record", pa.binary()),  # the Decision as it was on the log: the audit
    shared=True,
)

EXAMPLES: Final = TableSpec(
    "examples",
    pa.schema(
        [
            ("request_id", U64),  # 0: not logged at serving but backfilled
            ("event_id", U64),  # the example itself, or what answered the shown item; 0: nothing did
            ("user_id", U64),
            ("item_id", U64),
            ("time_us", pa.int64()),  # when the features were evaluated
            ("label", pa.float32()),
            ("weight", pa.float32()),
            ("features", pa.list_(pa.float32())),  # the layout's float columns
            ("int_features", pa.list_(pa.int64())),  # the layout's user ints, then its item ints
            ("layout_hash", U32),
            ("source", pa.string()),  # `logged` or `backfill`
            ("split", pa.string()),  # `train`, `valid`, `test`
            ("training_set", pa.string()),  # name of the set that the row belongs to
        ]
    ),
    partition_by=("training_set",),
)

TABLES: Final = {spec.name: spec for spec in (INTERACTIONS, IMPRESSIONS, USERS, ITEMS, DECISIONS, EXAMPLES)}
