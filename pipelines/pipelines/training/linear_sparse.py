"""Logistic regression on categories alone, one weight a code: one-hot, or hashed into a fixed number of weights."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import sparse
from sklearn.linear_model import LogisticRegression

from pipelines.errors import TrainingError
from pipelines.evaluation.metrics import log_loss
from pipelines.export.graphs_linear import export_sparse
from pipelines.progress import Progress
from pipelines.training.inputs import Inputs, Ints
from pipelines.training.linear import fit_calibration, sigmoid
from pipelines.training.ranker import Rows, TrainData

Vector = npt.NDArray[np.float64]

STRENGTHS = (0.01, 0.03, 0.1)  # inverse regularisation: what validation chooses among
BUCKETS = 4093  # hashed weights of all columns together; a prime, since codes modulo it are the hash
# Odd numbers that set the columns apart: the same code of two columns falls into two buckets.
_SPREAD = 1_000_003


@dataclass(frozen=True, eq=False)
class SparseRanker:
    """score = sigmoid(bias + the sum of the weights of the row's codes); code 0 weighs nothing.

    `places` int64 (c,): the int columns that are read. One-hot: a code's weight lies at its column's `offsets` (c,) +
    code; hashed (`buckets` > 0): at (code + offset) modulo `buckets`.
    """

    inputs: Inputs
    places: Ints
    offsets: Ints
    buckets: int
    weights: npt.NDArray[np.float32]
    bias: float
    name: str

    def at(self, ints: Ints) -> tuple[Ints, npt.NDArray[np.bool_]]:
        """Place of each code's weight int64 (n, c), and whether there is a code, of int64 (n, K)."""
        codes = ints[:, self.places]
        places = codes + self.offsets
        return places % self.buckets if self.buckets else places, codes != 0

    def logits(self, ints: Ints) -> Vector:
        """float64 (n,)."""
        places, there = self.at(ints)
        told = np.where(there, self.weights[places].astype(np.float64), 0.0)
        return np.asarray(told.sum(axis=1) + self.bias)

    def score(self, features: npt.NDArray[np.float32], ints: Ints) -> Vector:
        """Probabilities, float64 (n,)."""
        del features
        return sigmoid(self.logits(ints))

    def export(self, path: Path) -> None:
        """One graph, as `Ranker` says."""
        export_sparse(self, path)


def fit_one_hot(data: TrainData, *, seed: int, threads: int, progress: Progress) -> SparseRanker:
    """A weight for every code of every category, the candidate's id among them."""
    del threads, progress
    return _fit(data, "lr_one_hot", 0, seed)


def fit_hashed(data: TrainData, *, seed: int, threads: int, progress: Progress) -> SparseRanker:
    """The same with BUCKETS weights in all: memory is fixed, codes that collide share theirs."""
    del threads, progress
    return _fit(data, "lr_hashed", BUCKETS, seed)


def _fit(data: TrainData, name: str, buckets: int, seed: int) -> SparseRanker:
    inputs = data.inputs
    columns = (*inputs.codes, *([inputs.item] if inputs.item else []))
    if not columns:
        raise TrainingError(f"{name}: the use case has no category; declare one, or a history_score for the item's id")
    places = np.concatenate([column.places for column in columns])
    sizes = np.array([column.size for column in columns], np.int64)
    widths = [len(column.places) for column in columns]
    first = np.r_[0, np.cumsum(sizes)[:-1]] if not buckets else _SPREAD * np.arange(len(columns), dtype=np.int64)
    blank = SparseRanker(
        inputs=inputs,
        places=places,
        offsets=np.repeat(first, widths),
        buckets=buckets,
        weights=np.zeros(buckets or int(sizes.sum()), np.float32),
        bias=0.0,
        name=name,
    )
    rows = _indicators(blank, data.fit)
    found = []
    for strength in STRENGTHS:
        solver = LogisticRegression(C=strength, solver="lbfgs", max_iter=200, random_state=seed)
        solver.fit(rows, data.fit.label, sample_weight=data.fit.weight)
        model = replace(blank, weights=solver.coef_[0].astype(np.float32), bias=float(solver.intercept_[0]))
        found.append((log_loss(data.valid.label, sigmoid(model.logits(data.valid.ints))), model))
    best = min(found, key=lambda each: each[0])[1]
    slope, shift = fit_calibration(best.logits(data.valid.ints), data.valid.label)
    return replace(best, weights=best.weights * np.float32(slope), bias=best.bias * slope + shift)


def _indicators(model: SparseRanker, rows: Rows) -> sparse.csr_matrix:
    places, there = model.at(rows.ints)
    ends = np.r_[0, np.cumsum(there.sum(axis=1))]
    cells = np.ones(int(ends[-1]), np.float32)
    return sparse.csr_matrix((cells, places[there], ends), shape=(len(rows), len(model.weights)))
