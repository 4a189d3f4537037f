"""Item-item scores: a candidate against the user's newest items, by matrices of what was known before.

Serving computes them inside the graph, from codes and values of the user's history. Training rows get theirs from
matrices of their own past, rebuilt block by block: matrices of the whole training time have the rows' own labels in
them (docs/adr/0032-item-item-scores-inside-the-graph.md).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from bundle.inputs import dense_codes
from definitions.events import UNITS_PER_VALUE, micros
from definitions.layout import Layout
from scipy import linalg

from pipelines.errors import TrainingError
from pipelines.progress import SILENT, Progress
from pipelines.training.examples import Log
from pipelines.training.inputs import CodeColumn, HistoryColumns, Inputs, Ints

Floats = npt.NDArray[np.float32]

BLOCKS = 20  # rebuilds over the training time; the first block's rows have no past and score 0
MEAN_WEIGHT = 5.0  # events by which an item's mean leans on the mean of all
USER_WEIGHT = 5.0  # events by which a user's mean residual leans on 0
KNN_SHRINK = 50.0  # common users at which a similarity counts half
KNN_FLOOR = 1.0  # similarity by which the weighted mean leans on 0
RIDGE, EASE = 100.0, 250.0
_CHUNK = 20_000  # rows scored at once
_USERS = 4096  # users multiplied at once

# Score of the use case -> its columns, and the matrix that they are read from.
COLUMNS = {
    "residual_knn": ("residual_knn", "support"),
    "ridge": ("ridge",),
    "ease": ("ease",),
    "ease_residual": ("ease_residual",),
}
MATRICES = {"residual_knn": "knn", "ridge": "ridge", "ease": "ease", "ease_residual": "ease"}
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


def interactions(layout: Layout, inputs: Inputs, log: Log) -> Interactions:
    """The events that the graph's history is made of, of users who are not erased.

    Raises:
        TrainingError: the use case has no history_score.
    """
    _, item = sides(inputs)
    events = log.events
    erased = np.array([key for key, user in log.users.items() if user.deleted], np.uint64)
    counts = np.zeros(len(events), bool)
    for action, bound in layout.user.histories[layout.graph_scores[0].history].selector:
        counts |= (events.action == action) & (True if bound is None else micros(events.value) >= bound)
    events = events.take(counts & ~np.isin(events.user_id, erased))
    codes = dense_codes(events.item_id.view(np.int64), inputs.vocabularies[item.name])
    values = micros(events.value) / UNITS_PER_VALUE
    return Interactions(events.user_id, codes, values, events.event_time_us)


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
    """The matrices at one time, of v items, and their `means` float64 (v,), multiples of RESIDUAL_STEP.

    `matrices`: those that the wanted scores read, of `knn`, `ridge`, `ease`.
    """

    inputs: Inputs
    means: npt.NDArray[np.float64]
    matrices: Mapping[str, Matrix]

    @property
    def wanted(self) -> tuple[str, ...]:
        """Columns of the scores in order, by their short names."""
        return _columns(self.inputs)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the S columns of `score`."""
        past, _ = sides(self.inputs)
        return tuple(f"{past.feature}_{column}" for column in self.wanted)

    def score(self, ints: Ints) -> Floats:
        """float32 (n, S) of int64 (n, K), columns as `names`."""
        past, item = sides(self.inputs)
        parts = [np.empty((0, len(self.wanted)), np.float32)]
        for start in range(0, len(ints), _CHUNK):
            some = ints[start : start + _CHUNK]
            codes, values = past.read(some)
            parts.append(self._score(some[:, item.places[:1]], codes, values))
        return np.concatenate(parts)

    def _score(self, item: Ints, past: Ints, values: npt.NDArray[np.float64]) -> Floats:
        stepped = np.rint(values / RESIDUAL_STEP) * RESIDUAL_STEP
        there = past > 0
        gap = np.where(there, stepped - self.means[past], 0.0)
        mean = gap.sum(axis=1, keepdims=True) / (there.sum(axis=1, keepdims=True) + USER_WEIGHT)
        residual = np.where(there, gap - np.rint(mean / RESIDUAL_STEP) * RESIDUAL_STEP, 0.0)
        at = item * len(self.means) + past
        weights = {name: matrix.at(at) for name, matrix in self.matrices.items()}
        found: dict[str, npt.NDArray[np.float64]] = {}
        if "knn" in weights:
            found["support"] = np.abs(weights["knn"]).sum(axis=1)
            found["residual_knn"] = (weights["knn"] * residual).sum(axis=1) / (found["support"] + KNN_FLOOR)
        if "ridge" in weights:
            found["ridge"] = (weights["ridge"] * residual).sum(axis=1)
        if "ease" in weights:
            found["ease"] = weights["ease"].sum(axis=1)
            found["ease_residual"] = (weights["ease"] * residual).sum(axis=1)
        return np.stack([found[column] for column in self.wanted], axis=1).astype(np.float32)


def sides(inputs: Inputs) -> tuple[HistoryColumns, CodeColumn]:
    """The history and the candidate among the inputs.

    Raises:
        TrainingError: the use case has no history_score.
    """
    if inputs.history is None or inputs.item is None:
        raise TrainingError(
            "the use case has no feature of kind history_score, so there is no history to score against"
        )
    return inputs.history, inputs.item


def _columns(inputs: Inputs) -> tuple[str, ...]:
    return tuple(column for score in sides(inputs)[0].scores for column in COLUMNS[score])


def fit_history(inputs: Inputs, events: Interactions) -> History:
    """Matrices of `events`: shrunk correlation of residuals (value - item mean - user mean), and ridge regressions of
    each item on all others, of residuals and of presence (EASE: Steck, Embarrassingly Shallow Autoencoders, WWW 2019).
    """
    past, candidate = sides(inputs)
    v = candidate.size
    known = events.item > 0
    users, user = np.unique(events.user_id[known], return_inverse=True)
    item, value = events.item[known], events.value[known]
    overall = float(value.mean()) if len(value) else 0.0
    totals, counts = np.bincount(item, value, minlength=v), np.bincount(item, minlength=v)
    means = np.rint((totals + MEAN_WEIGHT * overall) / (counts + MEAN_WEIGHT) / RESIDUAL_STEP) * RESIDUAL_STEP
    gaps = value - means[item]
    # What a user gives above the items' means says nothing about the items.
    own = np.bincount(user, gaps, minlength=len(users)) / (np.bincount(user, minlength=len(users)) + USER_WEIGHT)
    common, product, squares = _products(user, item, gaps - own[user], (len(users), v))
    wanted = {MATRICES[score] for score in past.scores}
    matrices = {}
    if "knn" in wanted:
        knn = product / np.sqrt(np.maximum(squares * squares.T, 1e-9)) * (common / (common + KNN_SHRINK))
        np.fill_diagonal(knn, 0)
        matrices["knn"] = Matrix.of(knn)
    if "ridge" in wanted:
        matrices["ridge"] = Matrix.of(_regression(product, RIDGE))
    if "ease" in wanted:
        matrices["ease"] = Matrix.of(_regression(common, EASE))
    return History(inputs, means, matrices)


def _products(
    user: Ints, item: Ints, residual: npt.NDArray[np.float64], shape: tuple[int, int]
) -> tuple[Floats, Floats, Floats]:
    """For each two items float32 (v, v), over the users who have both: how many, the sums of r_i r_j and of r_i^2.

    A user's newest event of an item counts. Users are taken in blocks, so that memory is bounded by the items.
    """
    users, v = shape
    common, product, squares = (np.zeros((v, v), np.float32) for _ in range(3))
    order = np.argsort(user, kind="stable")
    user, item, residual = user[order], item[order], residual[order]
    for start in range(0, users, _USERS):
        rows = slice(*np.searchsorted(user, [start, start + _USERS]))
        there = np.zeros((min(_USERS, users - start), v), np.float32)
        given = np.zeros_like(there)
        there[user[rows] - start, item[rows]] = 1
        given[user[rows] - start, item[rows]] = residual[rows]
        common += there.T @ there
        product += given.T @ given
        squares += (given * given).T @ there
    return common, product, squares


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
    scores = np.zeros((len(ints), len(_columns(inputs))), np.float32)
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
