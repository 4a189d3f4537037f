"""Logistic regression on point-in-time columns: each column scaled, and bent by quantile steps or one-hot codes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression

from pipelines.training.metrics import log_loss

Matrix = npt.NDArray[np.float32]
Vector = npt.NDArray[np.float64]

MAX_CODES = 64  # a category column with more values keeps its most frequent
# (inverse regularisation, quantile steps a column): what validation chooses among.
GRID = ((0.003, 32), (0.01, 16), (0.01, 32), (0.03, 16), (0.03, 32), (0.1, 8))


@dataclass(frozen=True)
class LinearModel:
    """score = sigmoid(inputs(features) @ weights + bias).

    `inputs` of one row, in this order: `scaled` columns as (log1p'd where `logged`, minus `center`) times `scale`;
    for each of them the steps `value >= edges[column]`, edges float32 (len(scaled), steps); for each pair in `codes`
    (column, code): `value == code`.
    """

    columns: int
    scaled: npt.NDArray[np.int64]
    logged: npt.NDArray[np.bool_]
    center: Vector
    scale: Vector
    edges: npt.NDArray[np.float32]
    codes: tuple[tuple[int, float], ...]
    weights: Vector
    bias: float

    def inputs(self, features: Matrix) -> npt.NDArray[np.float64]:
        """float32 (n, columns) -> float64 (n, inputs)."""
        raw = features[:, self.scaled]
        values = raw.astype(np.float64)
        bent = np.where(self.logged, np.log1p(np.maximum(values, 0)), values)
        steps = (raw[:, :, None] >= self.edges[None]).reshape(len(raw), -1)
        parts = [(bent - self.center) * self.scale, steps]
        parts += [(features[:, [column]] == np.float32(code)) for column, code in self.codes]
        return np.hstack(parts).astype(np.float64)

    def logits(self, features: Matrix) -> Vector:
        """float64 (n,)."""
        out: Vector = self.inputs(features) @ self.weights + self.bias
        return out

    def score(self, features: Matrix) -> Vector:
        """Probabilities, float64 (n,)."""
        return sigmoid(self.logits(features))

    def calibrated(self, slope: float, shift: float) -> "LinearModel":
        """The same model with its logits mapped to slope * logit + shift."""
        return LinearModel(**{**self.__dict__, "weights": self.weights * slope, "bias": self.bias * slope + shift})


def fit_linear(
    fit: tuple[Matrix, npt.NDArray[np.int64]],
    valid: tuple[Matrix, npt.NDArray[np.int64]],
    *,
    categories: Sequence[int] = (),
    seed: int = 0,
) -> LinearModel:
    """The grid's best on validation log-loss.

    Args:
        fit: features float32 (n, F) and labels 0/1 (n,) that weights, scaling and steps are fitted on.
        valid: later rows, used to choose from GRID only.
        categories: columns that hold codes; one-hot.
        seed: of the solver.
    """
    best: tuple[float, LinearModel] | None = None
    for strength, steps in GRID:
        model = _fit_one(*fit, categories=categories, strength=strength, steps=steps, seed=seed)
        loss = log_loss(valid[1], model.score(valid[0]))
        if best is None or loss < best[0]:
            best = (loss, model)
    if best is None:
        raise AssertionError("the grid is empty")
    return best[1]


def _fit_one(
    features: Matrix,
    labels: npt.NDArray[np.int64],
    *,
    categories: Sequence[int],
    strength: float,
    steps: int,
    seed: int,
) -> LinearModel:
    blank = _prepare(features, categories, steps)
    inputs = blank.inputs(features)
    solver = LogisticRegression(C=strength, max_iter=300, tol=1e-4, random_state=seed)
    solver.fit(inputs, labels)
    return LinearModel(
        **{**blank.__dict__, "weights": solver.coef_[0].astype(np.float64), "bias": float(solver.intercept_[0])}
    )


def _prepare(features: Matrix, categories: Sequence[int], steps: int) -> LinearModel:
    """Scaling, steps and codes of the fit rows; weights still empty."""
    columns = features.shape[1]
    scaled = np.array([c for c in range(columns) if c not in set(categories)], np.int64)
    raw = features[:, scaled].astype(np.float64)
    spread = raw.max(axis=0) / np.maximum(np.median(raw, axis=0), 1e-9)
    logged = (raw.min(axis=0) >= 0) & (spread > 10)
    bent = np.where(logged, np.log1p(np.maximum(raw, 0)), raw)
    deviation = bent.std(axis=0)
    scale = np.where(deviation > 1e-9, 1 / np.maximum(deviation, 1e-9), 0.0)
    quantiles = np.linspace(0, 1, steps + 2)[1:-1]
    edges = np.quantile(features[:, scaled], quantiles, axis=0, method="lower").T.astype(np.float32)
    codes = []
    for column in categories:
        values, counts = np.unique(features[:, column], return_counts=True)
        kept = values[np.argsort(-counts, kind="stable")[:MAX_CODES]]
        codes += [(int(column), float(value)) for value in sorted(kept.tolist())]
    return LinearModel(columns, scaled, logged, bent.mean(axis=0), scale, edges, tuple(codes), np.empty(0), 0.0)


def fit_calibration(logits: Vector, labels: npt.NDArray[np.int64]) -> tuple[float, float]:
    """Platt's slope and shift: sigmoid(slope * logit + shift) fits `labels` (n,) best. Both float64 (n,)."""
    solver = LogisticRegression(C=1e6, max_iter=200)
    solver.fit(logits[:, None], labels)
    return float(solver.coef_[0, 0]), float(solver.intercept_[0])


def sigmoid(logits: Vector) -> Vector:
    """1 / (1 + exp(-x)) without overflow."""
    out: Vector = 0.5 * (1 + np.tanh(0.5 * logits))
    return out
