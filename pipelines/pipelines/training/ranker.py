"""What every model is to the rest: fitted on a TrainData, it scores rows and writes itself as one graph.

`RANKERS` names all of them; those of `pipelines.deep` need torch and are loaded when asked for.
"""

import importlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Protocol, cast

import numpy as np
import numpy.typing as npt
from definitions.layout import Layout

from pipelines.datasets.split import Split
from pipelines.errors import TrainingError
from pipelines.progress import SILENT, Progress
from pipelines.training.examples import Examples, Log
from pipelines.training.history import History, interactions, past_scores
from pipelines.training.inputs import ALL_GROUPS, Inputs, Ints, fit_inputs

SESSION_GAP_US = 30 * 60 * 1_000_000  # a user who comes back after half an hour is asked anew: web analytics' habit


@dataclass(frozen=True, eq=False)
class Rows:
    """n rows in time order.

    features float32 (n, F) and ints int64 (n, K) as `Inputs` names them; history float32 (n, S), the item-item scores
    of `pipelines.training.history` by matrices of each row's past, S = 0 without; label int64 (n,) 0/1; weight float32
    (n,); value float32 (n,), what a regression predicts; heads: name -> float32 (n,), of several tasks; user_id and
    item_id uint64 (n,); time_us int64 (n,); session int64 (n,): rows of one request, or of one user within half an hour
    of each other, the lists of listwise objectives.
    """

    features: npt.NDArray[np.float32]
    ints: Ints
    history: npt.NDArray[np.float32]
    label: Ints
    weight: npt.NDArray[np.float32]
    value: npt.NDArray[np.float32]
    heads: Mapping[str, npt.NDArray[np.float32]]
    user_id: npt.NDArray[np.uint64]
    item_id: npt.NDArray[np.uint64]
    time_us: Ints
    session: Ints

    def __len__(self) -> int:
        return len(self.label)

    def take(self, rows: npt.NDArray[np.bool_] | Ints) -> "Rows":
        """Some of them, by mask or by place."""
        parts = {field.name: getattr(self, field.name) for field in fields(self)}
        heads = {name: head[rows] for name, head in parts.pop("heads").items()}
        return Rows(**{name: part[rows] for name, part in parts.items()}, heads=heads)


@dataclass(frozen=True, eq=False)
class TrainData:
    """What a model may learn from. Test rows are not in it.

    `fit`: weights come from these. `valid`: later rows, for early stopping, choices and calibration. `history`: the
    item-item matrices that serving will use, of all events before the test rows; None without the group `history`.
    """

    layout: Layout
    inputs: Inputs
    fit: Rows
    valid: Rows
    history: History | None = None


class Ranker(Protocol):
    """A fitted model."""

    name: str

    def score(self, features: npt.NDArray[np.float32], ints: Ints) -> npt.NDArray[np.float64]:
        """Scores float64 (n,) of float32 (n, F) and int64 (n, K); probabilities, where the objective has them."""
        ...

    def export(self, path: Path) -> None:
        """Write one self-contained ONNX graph: `features` float32 [n, F], `int_features` int64 [n, K] where K > 0 ->
        `score` float32 [n, 1]; preprocessing and calibration inside.
        """
        ...


class RowsRanker(Ranker, Protocol):
    """One that can also score training rows as it saw them: item-item scores by matrices of each row's past."""

    def score_rows(self, rows: Rows) -> npt.NDArray[np.float64]:
        """float64 (n,)."""
        ...


class Fit(Protocol):
    """Trains one model; the same data, seed and threads give the same one."""

    def __call__(self, data: TrainData, *, seed: int, threads: int, progress: Progress) -> Ranker:
        """Raises TrainingError if the data cannot be learnt from."""
        ...


RANKERS: Mapping[str, str] = {
    "lr": "pipelines.training.linear:fit",
    "lr_one_hot": "pipelines.training.linear_sparse:fit_one_hot",
    "lr_hashed": "pipelines.training.linear_sparse:fit_hashed",
    "lightgbm": "pipelines.training.trees:fit",
    "lambdarank": "pipelines.training.trees:fit_lambdarank",
    "xgboost": "pipelines.training.xgb:fit",
    "fm": "pipelines.deep.rankers:fm",
    "dcn_v2": "pipelines.deep.rankers:dcn_v2",
    "dlrm": "pipelines.deep.rankers:dlrm",
    "sequence": "pipelines.deep.rankers:sequence",
    "two_tower": "pipelines.deep.two_tower_ranker:fit",
}
"""Name -> `module:function` of its Fit."""


def ranker(name: str) -> Fit:
    """The trainer of a model.

    Raises:
        TrainingError: no such model, or torch is not installed.
    """
    if name not in RANKERS:
        raise TrainingError(f"there is no model {name!r}; use one of {', '.join(RANKERS)}")
    module, _, function = RANKERS[name].partition(":")
    try:
        return cast(Fit, getattr(importlib.import_module(module), function))
    except ModuleNotFoundError as exc:
        if exc.name is None or exc.name.partition(".")[0] != "torch":
            raise
        raise TrainingError(f"{name} needs PyTorch, which is not installed; install it: make deep") from exc


def lacking(name: str) -> str:
    """What is not installed that the model needs, and the remedy; empty if nothing is missing."""
    try:
        ranker(name)
    except TrainingError as exc:
        return str(exc)
    return ""


def train_data(
    layout: Layout,
    examples: Examples,
    split: Split,
    *,
    groups: Collection[str] = ALL_GROUPS,
    log: Log | None = None,
    progress: Progress = SILENT,
) -> tuple[TrainData, Rows]:
    """What models of the column `groups` learn from, and the test rows.

    Args:
        layout: of the examples' columns.
        examples: all rows, in time order.
        split: masks over the rows.
        groups: of the columns that models may look at.
        log: what the examples were made of; with it, and where the use case has a `history_score`, item-item scores.
        progress: is told their blocks.
    """
    inputs = fit_inputs(layout, examples.user_ints[split.fit], examples.item_ints[split.fit], groups=groups)
    ints = inputs.ints_of(layout, examples.user_ints, examples.item_ints)
    history, scores = None, np.empty((len(examples), 0), np.float32)
    if log is not None and inputs.history is not None:
        events = interactions(layout, inputs, log)
        history, scores = past_scores(inputs, events, ints, examples.time_us, split.test_from_us, progress=progress)
    rows = Rows(
        features=examples.features,
        ints=ints,
        history=scores,
        label=examples.label,
        weight=examples.weight,
        value=examples.value,
        heads=examples.heads,
        user_id=examples.user_id,
        item_id=examples.item_id,
        time_us=examples.time_us,
        session=sessions(examples.user_id, examples.time_us, examples.request_id),
    )
    return TrainData(layout, inputs, rows.take(split.fit), rows.take(split.valid), history), rows.take(split.test)


def sessions(user_id: npt.NDArray[np.uint64], time_us: Ints, request_id: npt.NDArray[np.uint64] | None = None) -> Ints:
    """Number of each row's list, int64 (n,): rows of one request, or, where that is 0, a user's rows without a gap of
    more than SESSION_GAP_US.
    """
    request = np.zeros(len(user_id), np.uint64) if request_id is None else request_id
    order = np.lexsort((time_us, request, user_id))
    user, asked, time = user_id[order], request[order], time_us[order]
    apart = (time[1:] - time[:-1] > SESSION_GAP_US) & (asked[1:] == 0)
    starts = np.r_[True, (user[1:] != user[:-1]) | (asked[1:] != asked[:-1]) | apart]
    out = np.empty(len(order), np.int64)
    out[order] = np.cumsum(starts) - 1
    return out
