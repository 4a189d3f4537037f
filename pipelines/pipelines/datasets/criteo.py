"""Criteo's click logs: numbers and hashed categories without user, item or time, for models of ready columns."""

import gzip
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from pipelines.datasets import cells
from pipelines.datasets.cells import Origin, Source
from pipelines.datasets.files import parse_rows
from pipelines.errors import DataFileError

LICENCE: Final = (
    "Criteo's click logs (Kaggle Display Advertising Challenge, 1TB Click Logs) are Criteo's: CC BY-NC-SA 4.0, no "
    "commercial use. Clicks and non-clicks were sampled at undisclosed rates: probabilities are those of the sample."
)
_NUMBERS: Final = tuple(f"I{i}" for i in range(1, 14))
_CODES: Final = tuple(f"C{i}" for i in range(1, 27))
_BATCH_BYTES: Final = 64 << 20  # some 270,000 rows


@dataclass(frozen=True, eq=False)
class ClickRows:
    """n shown ads in time order, the file's own.

    label int64 (n,) 0/1; numbers float32 (n, 13), NaN = missing; codes int64 (n, 26): 1 + the 32-bit hash of the
    category, 0 = missing.
    """

    label: npt.NDArray[np.int64]
    numbers: npt.NDArray[np.float32]
    codes: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.label)


def criteo_rows(path: Path, *, batch_bytes: int = _BATCH_BYTES) -> Iterator[ClickRows]:
    """Batches of `train.txt`, or of one day (`day_0.gz`, packed or not), each of about so many bytes of text.

    Raises:
        DataFileError: missing, empty or broken; file, column and row are named.
    """
    before = 0
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            while lines := file.readlines(batch_bytes):
                yield _rows(b"".join(lines), str(path), before)
                before += len(lines)
    except (OSError, EOFError) as exc:
        raise DataFileError(str(path), f"cannot be read ({exc})", "Give train.txt, or a day's file") from exc
    if not before:
        raise DataFileError(str(path), "is empty", "Give train.txt, or a day's file")


def _rows(raw: bytes, name: str, before: int) -> ClickRows:
    names = ("label", *_NUMBERS, *_CODES)
    table = parse_rows(raw.decode("ascii", "replace"), name, names, separator="\t", before=before)
    n = table.height
    source = Source(name, table, Origin((name,), np.zeros(n, np.int64), before + 1 + np.arange(n), {}))
    label = source.column("label")
    source.refuse(label, ~label.is_in(["0", "1"]), "{cell} is no label", "A label is 0 or 1; test.txt has none")
    numbers = [cells.numbers(source, source.column(column), optional=True) for column in _NUMBERS]
    return ClickRows(
        label.cast(pl.Int64).to_numpy(),
        np.column_stack(numbers).astype(np.float32),
        np.column_stack([_codes(source, column) for column in _CODES]),
    )


def _codes(source: Source, column: str) -> npt.NDArray[np.int64]:
    found = source.column(column)
    values = found.str.to_integer(base=16, strict=False, dtype=pl.Int64)
    bad = found.is_not_null() & (values.is_null() | (values < 0) | (values >= 2**32))
    source.refuse(found, bad, "{cell} is no hash", "Categories are up to 8 hexadecimal digits; correct the cell")
    return (values + 1).fill_null(0).to_numpy()
