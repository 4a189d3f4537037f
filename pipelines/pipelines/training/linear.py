"""Logistic regression: columns scaled (long-tailed ones by log1p first), and bent by steps at their quantiles."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression

from pipelines.evaluation.metrics import log_loss
from pipelines.export.graphs_linear import export_linear
from pipelines.progress import Progress
from pipelines.training.encoded import EncodedRanker
from pipelines.training.encoding import fit_encoder, without_nan
from pipelines.training.ranker import TrainData

Matrix = npt.NDArray[np.float32]
Vector = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]

# (inverse regularisation, quantiles a column): what validation chooses among.
GRID = ((0.0003, 8), (0.001, 8), (0.003, 8), (0.001, 16))
_LONG_TAIL = 10  # largest value over median: above it the logarithm is the better scale


@dataclass(frozen=True)
class LinearModel:
    """score = sigmoid(inputs(x) @ weights + bias) of x float32 (n, columns).

    `inputs`: first every column (log1p'd where `logged`, minus `center`, times `scale`), then one 0/1 column for each
    pair of `step_columns` and `edges` (both (s,)): x[:, column] >= edge.
    """

    logged: npt.NDArray[np.bool_]
    center: Vector
    scale: Vector
    step_columns: npt.NDArray[np.int64]
    edges: Matrix
    weights: Vector
    bias: float

    def inputs(self, x: Matrix) -> Vector:
        """float64 (n, columns + s)."""
        values = x.astype(np.float64)
        bent = np.where(self.logged, np.log1p(np.maximum(values, 0)), values)
        return np.hstack([(bent - self.center) * self.scale, x[:, self.step_columns] >= self.edges])

    def logits(self, x: Matrix) -> Vector:
        """float64 (n,)."""
        out: Vector = self.inputs(x) @ self.weights + self.bias
        return out

    def score(self, x: Matrix) -> Vector:
        """Probabilities, float64 (n,)."""
        return sigmoid(self.logits(x))

    def calibrated(self, slope: float, shift: float) -> "LinearModel":
        """The same model with its logits mapped to slope * logit + shift."""
        return replace(self, weights=self.weights * slope, bias=self.bias * slope + shift)


@dataclass(frozen=True, eq=False)
class LinearRanker(EncodedRanker[LinearModel]):
    """A LinearModel of what an encoder makes of the inputs."""

    name: str = "lr"

    def export(self, path: Path) -> None:
        """One graph, as `Ranker` says."""
        export_linear(self.model, self.encoder, path)


def fit(data: TrainData, *, seed: int, threads: int, progress: Progress) -> LinearRanker:
    """Logistic regression on point-in-time columns, calibrated on the validation rows."""
    del threads, progress  # seconds of BLAS, which the caller limits
    encoder = without_nan(fit_encoder(data))
    valid = encoder.rows(data.valid)
    rows, later = (encoder.rows(data.fit), data.fit.label), (valid, data.valid.label)
    model = fit_linear(rows, later, numbers=encoder.numbers, seed=seed)
    return LinearRanker(encoder, model.calibrated(*fit_calibration(model.logits(valid), data.valid.label)))


def fit_linear(fit: tuple[Matrix, Labels], valid: tuple[Matrix, Labels], *, numbers: int, seed: int = 0) -> LinearModel:
    """The grid's best on validation log-loss.

    Args:
        fit: x float32 (n, columns) and labels 0/1 (n,): weights, scaling and steps come from these.
        valid: later rows, used to choose from GRID only.
        numbers: how many leading columns are numbers; the others are 0/1 and stay as they are.
        seed: of the solver.
    """
    candidates = []
    for strength, quantiles in GRID:
        model = _fit_one(fit, numbers, strength, quantiles, seed)
        candidates.append((log_loss(valid[1], model.score(valid[0])), model))
    return min(candidates, key=lambda candidate: candidate[0])[1]


def _fit_one(fit: tuple[Matrix, Labels], numbers: int, strength: float, quantiles: int, seed: int) -> LinearModel:
    blank = _prepare(fit[0], numbers, quantiles)
    # Few columns, many rows: Newton's steps are exact and need a handful of passes.
    solver = LogisticRegression(C=strength, solver="newton-cholesky", random_state=seed)
    solver.fit(blank.inputs(fit[0]).astype(np.float32), fit[1])  # half the memory and time of float64, same figures
    return replace(blank, weights=solver.coef_[0].astype(np.float64), bias=float(solver.intercept_[0]))


def _prepare(x: Matrix, numbers: int, quantiles: int) -> LinearModel:
    """Scaling and steps from the fit rows; weights still empty."""
    raw = x[:, :numbers].astype(np.float64)
    long_tail = raw.max(axis=0) > _LONG_TAIL * np.maximum(np.median(raw, axis=0), 0.1)
    logged = (raw.min(axis=0) >= 0) & long_tail
    bent = np.where(logged, np.log1p(np.maximum(raw, 0)), raw)
    spread = bent.std(axis=0)
    codes = x.shape[1] - numbers
    edges = [
        np.unique(np.quantile(x[:, column], np.linspace(0, 1, quantiles + 1)[1:-1], method="higher"))
        for column in range(numbers)
    ]
    return LinearModel(
        logged=np.r_[logged, np.zeros(codes, bool)],
        center=np.r_[bent.mean(axis=0), np.zeros(codes)],
        scale=np.r_[np.where(spread > 1e-9, 1 / np.maximum(spread, 1e-9), 0.0), np.ones(codes)],
        step_columns=np.repeat(np.arange(numbers), [len(each) for each in edges]).astype(np.int64),
        edges=np.concatenate(edges).astype(np.float32) if edges else np.empty(0, np.float32),
        weights=np.empty(0),
        bias=0.0,
    )


def fit_calibration(logits: Vector, labels: Labels) -> tuple[float, float]:
    """Platt's slope and shift: sigmoid(slope * logit + shift) fits `labels` (n,) best. Both float64 (n,)."""
    solver = LogisticRegression(C=1e6, solver="newton-cholesky")
    solver.fit(logits[:, None], labels)
    return float(solver.coef_[0, 0]), float(solver.intercept_[0])


def sigmoid(logits: Vector) -> Vector:
    """1 / (1 + exp(-x)) without overflow."""
    out: Vector = 0.5 * (1 + np.tanh(0.5 * logits))
    return out
