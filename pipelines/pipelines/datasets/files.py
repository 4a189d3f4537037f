"""CSV and Parquet files as tables. What cannot be read is named: file, row where known, remedy."""

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from pipelines.errors import DataFileError

_PARQUET_MAGIC = b"PAR1"
_SNIFFED = 4096


def read_table(path: Path) -> pl.DataFrame:
    """All columns of a file, in file order. CSV cells stay text (empty = null); Parquet keeps its types.

    The content decides, not the name: `PAR1` is Parquet; else UTF-8 text with a header and a comma, semicolon, tab
    or bar between cells.

    Raises:
        DataFileError: missing, empty, neither CSV nor Parquet, or a row with too many cells.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_SNIFFED)
    except OSError as exc:
        raise DataFileError(
            str(path), f"cannot be read ({exc.strerror})", "Give the path of a CSV or Parquet file"
        ) from exc
    if not head.strip():
        raise DataFileError(str(path), "is empty", "Give a file with a header and at least one row")
    table = _read_parquet(path) if head.startswith(_PARQUET_MAGIC) else _read_csv(path, head)
    if table.height == 0:
        raise DataFileError(str(path), "has a header and no rows", "Give a file with at least one row")
    return table


def read_rows(path: Path, columns: Sequence[str], *, separator: str = "\t", encoding: str = "utf-8") -> pl.DataFrame:
    """A text file without a header and without quotes, as public data sets come. Cells stay text (empty = null).

    Args:
        path: of the file.
        columns: names of its cells, in their order.
        separator: between cells, of any length.
        encoding: of the text.

    Raises:
        DataFileError: missing, empty, in another encoding, or a row with another number of cells.
    """
    try:
        text = path.read_bytes().decode(encoding)
    except OSError as exc:
        raise DataFileError(str(path), f"cannot be read ({exc.strerror})", "Unpack the data set again") from exc
    except UnicodeDecodeError as exc:
        row = exc.object.count(b"\n", 0, exc.start) + 1
        raise DataFileError(str(path), f"is not {encoding} text", "Unpack the data set again", row=row) from exc
    return parse_rows(text, str(path), columns, separator=separator)


def parse_rows(text: str, name: str, columns: Sequence[str], *, separator: str, before: int = 0) -> pl.DataFrame:
    """The same for text that is part of the file `name`, behind `before` rows."""
    lines = pl.Series(text.rstrip("\r\n").split("\n"), dtype=pl.String).str.strip_chars_end("\r")
    if not text.strip():
        raise DataFileError(name, "is empty", "Give a file with at least one row")
    cells = lines.str.split(separator)
    wrong = (cells.list.len() != len(columns)).arg_true()
    if len(wrong):
        row, found = int(wrong[0]), len(cells[int(wrong[0])])
        raise DataFileError(
            name, f"has {found} cells instead of {len(columns)} ({', '.join(columns)})",
            "Give the file as it was published", row=before + row + 1,
        )  # fmt: skip
    table = cells.list.to_struct(fields=list(columns)).struct.unnest()
    return table.with_columns(pl.all().replace("", None))


def _read_parquet(path: Path) -> pl.DataFrame:
    try:
        return pl.read_parquet(path)
    except (pl.exceptions.PolarsError, OSError) as exc:
        raise DataFileError(
            str(path), f"is no readable Parquet file ({_first_line(exc)})", "Write it again, or export it as CSV"
        ) from exc


def _read_csv(path: Path, head: bytes) -> pl.DataFrame:
    if b"\x00" in head:
        raise DataFileError(
            str(path), "is neither CSV nor Parquet (it holds zero bytes)", "Export it as CSV or Parquet"
        )
    raw = path.read_bytes()
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError as exc:
        before = raw.count(b"\n", 0, exc.start)
        raise DataFileError(str(path), "is not UTF-8 text", "Save it as UTF-8", row=before or None) from exc
    header = raw.partition(b"\n")[0].decode("utf-8-sig").rstrip("\r")
    separator = max(",;\t|", key=header.count)
    if header.count(separator) == 0:
        raise DataFileError(
            str(path), f"is neither CSV nor Parquet: its first line {header[:40]!r} holds no separator",
            "Give a header with column names between commas, semicolons, tabs or bars",
        )  # fmt: skip
    try:
        return pl.read_csv(raw, separator=separator, infer_schema=False, quote_char=None if separator == "\t" else '"')
    except pl.exceptions.PolarsError as exc:
        row = _ragged_row(raw.decode("utf-8-sig"), separator)
        problem = "has more cells than the header" if row else f"is no valid CSV ({_first_line(exc)})"
        raise DataFileError(str(path), problem, "Quote cells that hold the separator", row=row) from exc


def _ragged_row(text: str, separator: str) -> int | None:
    """The first data row with too many cells, 1-based; a plain count, good enough to point at."""
    lines = text.splitlines()
    cells = lines[0].count(separator)
    return next((i for i, line in enumerate(lines[1:], 1) if line.count(separator) > cells and '"' not in line), None)


def _first_line(exc: BaseException) -> str:
    return (str(exc).strip().splitlines() or [type(exc).__name__])[0]
