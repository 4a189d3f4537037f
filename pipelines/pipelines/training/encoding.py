"""From a model's inputs to one float matrix: the columns looked at, item-item scores, categories as 0/1 columns."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipelines.training.history import NAMES, History
from pipelines.training.inputs import Inputs, Ints
from pipelines.training.ranker import Rows, TrainData

MAX_COLUMNS = 64  # of one category, its most frequent codes
MIN_ROWS = 50  # a rarer code says nothing that lasts

Matrix = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class OneHot:
    """A category: which int columns hold it, and the codes that get a 0/1 column of their own."""

    name: str
    places: Ints
    codes: Ints

    def columns(self, ints: Ints) -> Matrix:
        """float32 (n, codes): unknown and rare codes are all zeros."""
        return (ints[:, self.places][:, :, None] == self.codes).any(axis=1).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Encoder:
    """float32 (n, F) features and int64 (n, K) codes -> float32 (n, M): `numbers` leading columns, then 0/1 columns."""

    inputs: Inputs
    groups: tuple[OneHot, ...] = ()
    history: History | None = None

    @property
    def numbers(self) -> int:
        """Leading columns that are numbers."""
        return len(self.inputs.floats) + (len(NAMES) if self.history else 0)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the M columns."""
        codes = tuple(f"{group.name}={code}" for group in self.groups for code in group.codes)
        return self.inputs.float_names + (NAMES if self.history else ()) + codes

    def expand(self, features: Matrix, ints: Ints) -> Matrix:
        """What the graph computes."""
        return self._stack(features, ints, self.history.score(ints) if self.history else None)

    def rows(self, rows: Rows) -> Matrix:
        """Of training rows: item-item scores are those of each row's past."""
        return self._stack(rows.features, rows.ints, rows.history if self.history else None)

    def _stack(self, features: Matrix, ints: Ints, scores: Matrix | None) -> Matrix:
        parts = [features[:, self.inputs.floats]]
        if scores is not None:
            parts.append(scores)
        parts += [group.columns(ints) for group in self.groups]
        return np.hstack(parts)


def fit_encoder(data: TrainData) -> Encoder:
    """The codes of the fit rows that are worth a column, and the item-item scores where the data have them."""
    groups = []
    for column in data.inputs.codes:
        codes, counts = np.unique(data.fit.ints[:, column.places], return_counts=True)
        enough = (codes != 0) & (counts >= MIN_ROWS)
        codes, counts = codes[enough], counts[enough]
        kept = np.sort(codes[np.argsort(-counts, kind="stable")[:MAX_COLUMNS]])
        if len(kept):
            groups.append(OneHot(column.name, column.places, kept.astype(np.int64)))
    return Encoder(data.inputs, tuple(groups), data.history)
