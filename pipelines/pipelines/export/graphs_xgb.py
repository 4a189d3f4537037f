"""XGBoost's trees as a graph."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.errors import TrainingError
from pipelines.export.graphs import encoded
from pipelines.export.graphs_trees import TreeColumns, put_trees

if TYPE_CHECKING:
    import xgboost

    from pipelines.training.encoding import Encoder
    from pipelines.training.xgb import XgbModel


def export_xgb(model: XgbModel, encoder: Encoder, path: Path) -> None:
    """Write `model` on `encoder`'s inputs to `path`.

    XGBoost compares float32, `x < t`, as the graph does. The booster's objective does not matter: its trees are read,
    and all of them, since `XgbModel.booster` ends at the best one.

    Raises:
        TrainingError: a split of categories, or a base score: the margin would not be the trees' sum.
    """
    columns = TreeColumns()
    for number, tree in enumerate(_trees(model.booster)):
        _add(columns, number, tree)
    graph = encoded(encoder)
    put_trees(graph, columns, model.slope, model.shift)
    graph.save(path)


def _trees(booster: xgboost.Booster) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(bytes(booster.save_raw("json")))["learner"]["gradient_booster"]["model"][
        "trees"
    ]
    return found


def _add(columns: TreeColumns, number: int, tree: dict[str, Any]) -> None:
    if any(tree["split_type"]):
        raise TrainingError("XGBoost split a category natively; encode it one_hot for XGBoost")
    for node, (left, right) in enumerate(zip(tree["left_children"], tree["right_children"], strict=True)):
        value, rows = float(tree["split_conditions"][node]), float(tree["sum_hessian"][node])
        if left == -1:
            columns.leaf(number, node, value, rows)
            continue
        feature, missing = int(tree["split_indices"][node]), int(tree["default_left"][node])
        columns.branch(number, node, feature, "BRANCH_LT", value, (left, right), missing, rows)
