"""Item-item scores: a candidate against the user's newest items, by matrices of what was known before.

Serving computes them inside the graph, from codes and values of the user's history. Training rows get theirs from
matrices of their own past, rebuilt block by block: matrices of the whole training time have the rows' own labels in
them (docs/adr/0032-item-item-scores-inside-the-graph.md).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import linalg

from pipelines.progress import SILENT, Progress
from pipelines.training.inputs import Inputs, Ints

Floats = npt.NDArray[np.float32]

BLOCKS = 20  # rebuilds over the training time; the first block's rows have no past and score 0
MEAN_WEIGHT = 5.0  # events by which an item's mean leans on the mean of all
KNN_SHRINK = 20.0  # common users at which a similarity counts half
KNN_FLOOR = 1.0  # similarity by which the weighted mean leans on 0
RIDGE, EASE = 100.0, 100.0
_CHUNK = 20_000

NAMES = ("history_knn", "history_knn_support", "history_ridge", "history_ease", "history_ease_residual")
# Residuals are multiples of this and weights of 2^-15 of a power of two: sums of products are exact in float64, so
# every runtime gives the same bits in any order of summation, and no threshold of a tree is crossed by rounding.
RESIDUAL_STEP = 2.0**-10


@dataclass(frozen=True, eq=False)
class Interactions:
    """Events that a history is made of, (n,) each: user_id uint64, item codes int64, values float64 in the data's own
    unit, event times int64.
    """

    user_id: npt.NDArray[np.uint64]
    item: Ints
    value: npt.NDArray[np.float64]
    time_us: Ints

    def before(self, time_us: int) -> "Interactions":
        """Those strictly before."""
        known = self.time_us < time_us
        return Interactions(self.user_id[known], self.item[known], self.value[known], self.time_us[known])


@dataclass(frozen=True, eq=False)
class Matrix:
    """Weights int16 (v, v), [candidate, history item], times `scale`, a power of two."""

    weights: npt.NDArray[np.int16]
    scale: float

    @classmethod
    def of(cls, weights: npt.NDArray[np.floating]) -> "Matrix":
        """Rounded to 15 bits; row and column 0 (the unknown item) are emptied."""
        largest = float(np.abs(weights).max(initial=0.0)) or 1.0
        scale = 2.0 ** (np.ceil(np.log2(largest)) - 15)
        rounded = np.clip(np.rint(weights / np.float32(scale)), -32767, 32767).astype(np.int16)
        rounded[0], rounded[:, 0] = 0, 0
        return cls(np.ascontiguousarray(rounded), float(scale))

    def at(self, places: Ints) -> npt.NDArray[np.float64]:
        """Weights at flat places, of their shape."""
        return np.asarray(self.weights.ravel()[places] * self.scale, np.float64)


@dataclass(frozen=True, eq=False)
class History:
    """The matrices at one time, of v items, and their `means` float64 (v,), multiples of RESIDUAL_STEP."""

    inputs: Inputs
    means: npt.NDArray[np.float64]
    knn: Matrix
    ridge: Matrix
    ease: Matrix

    def score(self, ints: Ints) -> Floats:
        """float32 (n, S) of int64 (n, K), columns as NAMES."""
        history, item = self.inputs.history, self.inputs.item
        if history is None or item is None:
            raise ValueError("the inputs have no history")
        parts = [np.empty((0, len(NAMES)), np.float32)]
        for start in range(0, len(ints), _CHUNK):
            some = ints[start : start + _CHUNK]
            past, values = history.read(some)
            parts.append(self._score(some[:, item.places[:1]], past, values))
        return np.concatenate(parts)

    def _score(self, item: Ints, past: Ints, values: npt.NDArray[np.float64]) -> Floats:
        at = item * len(self.means) + past
        stepped = np.rint(values / RESIDUAL_STEP) * RESIDUAL_STEP
        residual = np.where(past > 0, stepped - self.means[past], 0.0)
        knn, ridge, ease = self.knn.at(at), self.ridge.at(at), self.ease.at(at)
        support = np.abs(knn).sum(axis=1)
        columns = (
            (knn * residual).sum(axis=1) / (support + KNN_FLOOR),
            support,
            (ridge * residual).sum(axis=1),
            ease.sum(axis=1),
            (ease * residual).sum(axis=1),
        )
        return np.stack(columns, axis=1).astype(np.float32)


def fit_history(inputs: Inputs, events: Interactions) -> History:
    """Matrices of `events`: shrunk correlation of residuals, and ridge regressions of each item on all others, of
    residuals and of presence (EASE: Steck, Embarrassingly Shallow Autoencoders, WWW 2019).
    """
    if inputs.item is None:
        raise ValueError("the inputs have no item codes")
    v = inputs.item.size
    known = events.item > 0
    users, user = np.unique(events.user_id[known], return_inverse=True)
    item, value = events.item[known], events.value[known]
    overall = float(value.mean()) if len(value) else 0.0
    totals, counts = np.bincount(item, value, minlength=v), np.bincount(item, minlength=v)
    means = np.rint((totals + MEAN_WEIGHT * overall) / (counts + MEAN_WEIGHT) / RESIDUAL_STEP) * RESIDUAL_STEP
    there, residual = np.zeros((len(users), v), np.float32), np.zeros((len(users), v), np.float32)
    there[user, item] = 1
    residual[user, item] = value - means[item]
    common, product = there.T @ there, residual.T @ residual
    squares = (residual * residual).T @ there
    knn = product / np.sqrt(np.maximum(squares * squares.T, 1e-9)) * (common / (common + np.float32(KNN_SHRINK)))
    np.fill_diagonal(knn, 0)
    return History(
        inputs, means, Matrix.of(knn), Matrix.of(_regression(product, RIDGE)), Matrix.of(_regression(common, EASE))
    )


def _regression(gram: Floats, strength: float) -> Floats:
    """Weights [of, from] of the ridge regression of each column on all others: -P / diag(P), P the inverse."""
    inverse = linalg.inv(gram + np.float32(strength) * np.eye(len(gram), dtype=np.float32), check_finite=False)
    weights = -inverse / np.diag(inverse)[:, None]
    np.fill_diagonal(weights, 0)
    return np.asarray(weights, np.float32)


def past_scores(
    inputs: Inputs, events: Interactions, ints: Ints, time_us: Ints, until_us: int, *, progress: Progress = SILENT
) -> tuple[History, Floats]:
    """The matrices of all events before `until_us`, and float32 (n, S): every row's scores by matrices of its past.

    Args:
        inputs: with a history.
        events: of all times.
        ints: int64 (n, K) of the rows.
        time_us: of the rows. Those from `until_us` on are scored as serving will score them.
        until_us: where the test rows begin.
        progress: is told each block.
    """
    scores = np.zeros((len(ints), len(NAMES)), np.float32)
    learnt = time_us[time_us < until_us]
    starts = np.unique(np.quantile(learnt, np.linspace(0, 1, BLOCKS + 1)[1:-1], method="higher"))
    progress.stage("item-item matrices of the past", len(starts) + 1)
    for start, end in zip(starts.tolist(), [*starts[1:].tolist(), until_us], strict=True):
        rows = (time_us >= start) & (time_us < end)
        scores[rows] = fit_history(inputs, events.before(start)).score(ints[rows])
        progress.advance(1)
    final = fit_history(inputs, events.before(until_us))
    later = time_us >= until_us
    scores[later] = final.score(ints[later])
    progress.advance(1)
    return final, scores
