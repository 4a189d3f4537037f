"""What compiled readers share: how a plan becomes arrays that a kernel walks, and the arithmetic of a column."""

from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from definitions.compiled import inlined
from definitions.plan import DecayedColumn, WindowColumn
from definitions.tiles import decayed, end_tile, first_tile, ratio_of

Ids = npt.NDArray[np.uint64]
Codes = npt.NDArray[np.uint32]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Features = npt.NDArray[np.float32]

NONE: Final = -1  # no denominator, no time to live, no window
SECOND_US: Final = 1e6

_Columns = Sequence[WindowColumn] | Sequence[DecayedColumn]


def or_none(number: int | None) -> int:
    """A number of a row, or `NONE`."""
    return NONE if number is None else number


def rows_of(width: int, rows: Iterable[Sequence[int]]) -> Ints:
    """int64 (n, width), also where there are none."""
    return np.array(list(rows), np.int64).reshape(-1, width)


def columns_of(columns: _Columns) -> Ints:
    """int64 (n, 4): position, numerator, denominator, ttl_us."""
    return rows_of(4, ((c.position, c.num, or_none(c.den), or_none(c.ttl_us)) for c in columns))


def scales_of(columns: _Columns) -> Floats:
    """float64 (n, 3): scale, prior mean, prior weight."""
    rows = [(column.scale, column.prior.mean, column.prior.weight) for column in columns]
    return np.array(rows, np.float64).reshape(-1, 3)


# The arithmetic of `tiles`, compiled.
first_tile_at, end_tile_at, ratio_at, decayed_at = (inlined(each) for each in (first_tile, end_tile, ratio_of, decayed))
