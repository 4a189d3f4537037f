"""Splits by time that never cut inside equal times: rows of one moment know nothing of each other."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from pipelines.errors import TrainingError


@dataclass(frozen=True, eq=False)
class Split:
    """Boolean masks over the rows, (n,) each, disjoint: every fit time < valid time < test time.

    Rows in none of them lie in a gap, or are left out of training. `valid_from_us`, `test_from_us`: the first event
    time of each later part.
    """

    fit: npt.NDArray[np.bool_]
    valid: npt.NDArray[np.bool_]
    test: npt.NDArray[np.bool_]
    valid_from_us: int
    test_from_us: int

    def fitted_on(self, rows: npt.NDArray[np.bool_]) -> "Split":
        """The same with only those fit rows that are in the mask `rows` (n,)."""
        return replace(self, fit=self.fit & rows)


def split_times(
    times_us: npt.NDArray[np.int64], shares: Sequence[float] = (0.8, 0.1, 0.1), *, gap_us: int = 0
) -> Split:
    """Cut rows by time into fit, validation and test.

    A cut that would fall inside a group of equal times moves to the group's start, so the earlier part is the
    smaller one.

    Args:
        times_us: int64 (n,), any order.
        shares: of the three parts; they add up to 1.
        gap_us: how long a row's label takes (`UseCase.attribution_us`): a row whose label was not known yet when the
            next part began belongs to no part, since that label is made of the next part's events.

    Raises:
        ValueError: shares are not three positive numbers that add up to 1, or the gap is negative.
        TrainingError: a part would be empty.
    """
    if len(shares) != 3 or min(shares) <= 0 or abs(sum(shares) - 1) > 1e-9:
        raise ValueError(f"shares {tuple(shares)}: give three positive numbers that add up to 1")
    if gap_us < 0:
        raise ValueError(f"gap of {gap_us} us: give 0 or more")
    n = len(times_us)
    if n < 3:
        raise TrainingError(f"{n} examples cannot be split in three; load more data")
    ordered = np.sort(times_us)
    valid_from = int(ordered[min(int(n * shares[0]), n - 1)])
    test_from = int(ordered[min(int(n * (shares[0] + shares[1])), n - 1)])
    split = Split(
        fit=times_us < valid_from - gap_us,
        valid=(times_us >= valid_from) & (times_us < test_from - gap_us),
        test=times_us >= test_from,
        valid_from_us=valid_from,
        test_from_us=test_from,
    )
    for name in ("fit", "valid", "test"):
        if not getattr(split, name).any():
            why = "too many equal times" if not gap_us else f"less time than the gap of {gap_us / 1e6:,.0f} s"
            raise TrainingError(f"the {name} part of the time split is empty: {why}; load more data")
    return split
