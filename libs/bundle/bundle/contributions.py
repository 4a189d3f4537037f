"""What each column adds to the raw score of each row, whatever the model: additive, and complete."""

import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float64]
Matrix = npt.NDArray[np.float32]

_CODED = re.compile(r"[=#@?].*$")  # how `training.encoding` names what it makes of a column


@dataclass(frozen=True)
class Reason:
    """One column of one row: its value, and what it adds; `other` and `gap` where two rows are compared."""

    name: str
    value: float
    contribution: float
    other: float | None = None
    gap: float | None = None


@dataclass(frozen=True, eq=False)
class Contributions:
    """Of n rows: raw score = base + the sum of the row's contributions, to rounding.

    The raw score of a probability is its logit. names (F,); values float32 (n, F), NaN for a column that is no single
    number; contributions float64 (n, F); base float64 (n,), what a row scores before anything is known of it.
    """

    names: tuple[str, ...]
    values: Matrix
    contributions: Vector
    base: Vector

    @property
    def raw(self) -> Vector:
        """Raw scores, float64 (n,)."""
        return np.asarray(self.base + self.contributions.sum(axis=1), np.float64)

    def by_feature(self) -> "Contributions":
        """The columns `name=code`, `name#bucket`, `name@place`, `name?` in one with `name`; its value, else NaN."""
        names = [_CODED.sub("", name) for name in self.names]
        order = list(dict.fromkeys(names))
        place = np.array([order.index(name) for name in names], np.intp)
        summed = np.zeros((len(self.base), len(order)))
        np.add.at(summed.T, place, self.contributions.T)
        values = np.full((len(self.base), len(order)), np.nan, np.float32)
        for column, name in enumerate(self.names):
            if name == names[column]:
                values[:, place[column]] = self.values[:, column]
        return Contributions(tuple(order), values, summed, self.base)

    def reasons(self, row: int, top: int = 10) -> list[Reason]:
        """The columns that move this row's score most, either way."""
        order = np.argsort(-np.abs(self.contributions[row]), kind="stable")[:top]
        return [
            Reason(self.names[i], float(self.values[row, i]), float(self.contributions[row, i])) for i in order.tolist()
        ]

    def versus(self, row: int, other: int, top: int = 10) -> list[Reason]:
        """Why `row` lies above (or below) `other`: the columns whose contributions differ most.

        The gaps of all columns sum to the difference of the raw scores (the bases are equal, or their gap is left).
        """
        gap = self.contributions[row] - self.contributions[other]
        order = np.argsort(-np.abs(gap), kind="stable")[:top]
        return [
            Reason(
                self.names[i],
                float(self.values[row, i]),
                float(self.contributions[row, i]),
                float(self.values[other, i]),
                float(gap[i]),
            )
            for i in order.tolist()
        ]

    def importance(self) -> list[tuple[str, float]]:
        """(name, mean absolute contribution) by descending importance."""
        mean = np.abs(self.contributions).mean(axis=0)
        return [(self.names[i], float(mean[i])) for i in np.argsort(-mean, kind="stable").tolist()]


def logit(scores: npt.NDArray[np.floating]) -> Vector:
    """log(p / (1 - p)), float64 (n,); scores at 0 or 1 are taken as 1e-7 from it."""
    p = np.clip(np.asarray(scores, np.float64), 1e-7, 1 - 1e-7)
    return np.asarray(np.log(p) - np.log1p(-p), np.float64)
