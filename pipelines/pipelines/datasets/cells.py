"""File columns as typed arrays. The first cell that cannot be used is an error with file, column, row and remedy."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt
import polars as pl
from definitions.usecase_parts import Column

from pipelines.errors import DataFileError

MAX_ABS_VALUE = 1e9  # the log refuses larger ones (definitions.records)
MAX_TIME_US = 253_402_300_800 * 1_000_000  # end of the year 9999, the log's bound
_UNIT_US = {"s": 1e6, "ms": 1e3, "us": 1.0, "ns": 1e-3}
_MAX_ID = 2**64 - 1


@dataclass(frozen=True, eq=False)
class Origin:
    """Where the n rows of a table that was put together come from.

    `files`, of which `file` (n,) is the place, with `row` (n,) 1-based in it, the header not counted. `columns`: name
    in the table -> name in the file, where they differ.
    """

    files: tuple[str, ...]
    file: npt.NDArray[np.int64]
    row: npt.NDArray[np.int64]
    columns: Mapping[str, str]


@dataclass(frozen=True, eq=False)
class Source:
    """One table and what to call it in messages: the file itself, or its rows' own files by `origin`."""

    name: str
    table: pl.DataFrame
    origin: Origin | None = None

    def cells(self, field: str, column: Column) -> pl.Series:
        """The file column that `field` of the use case maps to; a constant repeated.

        Raises:
            DataFileError: the file has no such column.
        """
        if column.const is not None:
            return pl.Series(field, [column.const]).extend_constant(column.const, self.table.height - 1)
        name = str(column.source)
        return self.column(name, f"name the one that holds {field} under the use case's columns")

    def column(self, name: str, remedy: str = "use a file of the documented format") -> pl.Series:
        """A column by its name in the file.

        Raises:
            DataFileError: the file has no such column; `remedy` follows what it has.
        """
        if name not in self.table.columns:
            has = ", ".join(map(repr, self.table.columns))
            raise DataFileError(self.name, "is missing", f"The file has {has}; {remedy}", column=name)
        return self.table[name]

    def refuse(self, cells: pl.Series, bad: pl.Series, problem: str, remedy: str) -> None:
        """DataFileError at the first row where `bad` is true (null counts as true); nothing if there is none."""
        rows = bad.fill_null(value=True).arg_true()
        if len(rows):
            place = int(rows[0])
            raise self.error_at(place, cells.name, problem.format(cell=repr(cells[place])), remedy)

    def error_at(self, place: int, column: str | None, problem: str, remedy: str) -> DataFileError:
        """What is wrong with a cell, or with the whole row, at a place (from 0) in the table."""
        if self.origin is None:
            return DataFileError(self.name, problem, remedy, column=column, row=place + 1)
        file, row = self.origin.files[self.origin.file[place]], int(self.origin.row[place])
        column = None if column is None else self.origin.columns.get(column, column)
        return DataFileError(file, problem, remedy, column=column, row=row)


def ids(source: Source, cells: pl.Series, to_id: Callable[[str], int]) -> tuple[npt.NDArray[np.uint64], bool]:
    """(ids uint64 (n,), whether the column is integers): integers as they are, 0 included; text by `to_id`.

    A column is integers if every cell is one. The caller shifts them by 1 where any is 0, since 0 means absent.
    """
    if cells.dtype.is_float():
        whole = cells.cast(pl.UInt64, strict=False)
        source.refuse(cells, (whole.cast(pl.Float64) != cells), "{cell} is no id", "Ids are integers or text")
        cells = whole.alias(cells.name)
    if cells.dtype.is_integer():
        source.refuse(cells, cells.is_null(), "is empty", "Every row needs an id; remove the row")
        source.refuse(cells, cells < 0, "{cell} is negative", "Integer ids are from 0 to 2^64 - 1; use text otherwise")
        return cells.cast(pl.UInt64).to_numpy(), True
    text = cells.cast(pl.String).str.strip_chars()
    source.refuse(cells, text.is_null() | (text == ""), "is empty", "Every row needs an id; remove the row")
    if bool(text.str.contains(r"^[0-9]+$").all()):
        numbers = text.cast(pl.UInt64, strict=False)
        source.refuse(cells, numbers.is_null(), "{cell} is too large", f"Integer ids end at {_MAX_ID}")
        return numbers.to_numpy(), True
    distinct = text.unique()
    codes = pl.Series([to_id(each) for each in distinct], dtype=pl.UInt64)
    return text.replace_strict(distinct, codes, return_dtype=pl.UInt64).to_numpy(), False


def numbers(source: Source, cells: pl.Series, *, optional: bool = False) -> npt.NDArray[np.float64]:
    """float64 (n,); empty cells are NaN where `optional`, else an error."""
    text = cells.str.strip_chars() if cells.dtype == pl.String else cells
    empty = text.is_null() | ((text == "") if text.dtype == pl.String else pl.repeat(False, len(cells), eager=True))  # noqa: FBT003
    values = text.cast(pl.Float64, strict=False)
    bad = ~(values.abs() <= MAX_ABS_VALUE)
    if optional:
        bad = bad.fill_null(value=True) & ~empty
    source.refuse(
        cells, bad, "{cell} is not a number", f"Numbers are finite and within ±{MAX_ABS_VALUE:.0e}; correct the cell"
    )
    return values.fill_null(math.nan).to_numpy()


def times_us(source: Source, cells: pl.Series, unit: str | None) -> npt.NDArray[np.int64]:
    """Microseconds since the epoch, int64 (n,), from numbers in `unit`, ISO text (`iso`), or dates of the file."""
    remedy = "Correct the cell, or the `unit` of event_time_us in the use case (s, ms, us, ns or iso)"
    if cells.dtype.is_temporal():
        stamps = cells.cast(pl.Datetime("us")).cast(pl.Int64)
    elif unit == "iso":
        stamps = pl.Series(cells.name, [_iso_us(cell) for cell in cells.cast(pl.String)], dtype=pl.Int64)
    elif unit is None:
        raise DataFileError(source.name, "holds times of an unknown unit", remedy, column=cells.name)
    else:
        whole = cells.cast(pl.Int64, strict=False)
        if unit != "ns" and whole.null_count() == 0 and not cells.dtype.is_float():
            factor = int(_UNIT_US[unit])
            stamps = whole.clip(0, MAX_TIME_US // factor) * factor  # the bounds themselves are refused below
        else:
            stamps = (cells.cast(pl.Float64, strict=False) * _UNIT_US[unit]).round().cast(pl.Int64, strict=False)
    good = (stamps > 0) & (stamps < MAX_TIME_US)
    source.refuse(cells, ~good, "{cell} is no time after 1970 and before 10000", remedy)
    return stamps.to_numpy()


def codes_of(source: Source, cells: pl.Series, names: Sequence[str], what: str) -> npt.NDArray[np.uint32]:
    """Position of each cell in `names`, uint32 (n,)."""
    text = cells.cast(pl.String).str.strip_chars()
    known = text.is_in(list(names))
    source.refuse(
        cells, ~known, "{cell} is an unknown " + what, f"Use one of {', '.join(names)}, or add it to the use case"
    )
    return text.replace_strict(list(names), list(range(len(names))), return_dtype=pl.UInt32).to_numpy()


def small_codes(source: Source, cells: pl.Series) -> npt.NDArray[np.uint64]:
    """Unsigned integers below 2^32, uint64 (n,); empty = 0."""
    given = cells.str.strip_chars().replace("", None) if cells.dtype == pl.String else cells
    values = given.cast(pl.UInt32, strict=False)
    bad = values.is_null() & given.is_not_null()
    source.refuse(cells, bad, "{cell} is no code", "Codes are integers from 0 to 4294967295; correct the cell")
    return values.fill_null(0).cast(pl.UInt64).to_numpy()


def _iso_us(cell: str | None) -> int | None:
    try:
        moment = datetime.fromisoformat((cell or "").strip())
    except ValueError:
        return None
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
    since = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
