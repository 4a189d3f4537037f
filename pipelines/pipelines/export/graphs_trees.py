"""Boosted trees as a graph."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.errors import TrainingError
from pipelines.export.graphs import encoded

if TYPE_CHECKING:
    from pipelines.training.encoding import Encoder
    from pipelines.training.trees import TreeModel


def export_trees(model: TreeModel, encoder: Encoder, path: Path) -> None:
    """Write `model` on `encoder`'s inputs to `path`.

    LightGBM compares doubles: `x <= t`. Inputs are float32, so `t` rounded down to float32 decides every one alike.

    Raises:
        TrainingError: a split that this graph cannot say (categorical, zero as missing).
    """
    columns = _TreeColumns()
    for number, tree in enumerate(model.booster.dump_model(num_iteration=model.trees)["tree_info"]):
        columns.add(number, tree["tree_structure"])
    graph = encoded(encoder)
    graph.constants(slope=np.array([model.slope], np.float32), shift=np.array([model.shift], np.float32))
    graph.node(
        "TreeEnsembleRegressor",
        ["x"],
        "raw",
        domain="ai.onnx.ml",
        n_targets=1,
        aggregate_function="SUM",
        post_transform="NONE",
        **columns.attributes(),
    )
    graph.node("Mul", ["raw", "slope"], "sloped")
    graph.node("Add", ["sloped", "shift"], "logit")
    graph.node("Sigmoid", ["logit"], "score")
    graph.save(path)


class _TreeColumns:
    """The parallel attribute arrays of TreeEnsembleRegressor."""

    def __init__(self) -> None:
        self._nodes: list[tuple[int, int, int, str, float, int, int, int, float]] = []
        self._leaves: list[tuple[int, int, float]] = []

    def add(self, tree: int, root: dict[str, Any]) -> None:
        """Number the nodes of one tree in the order met; iterative, as trees may be deep."""
        waiting, next_id = [(0, root)], 1
        while waiting:
            number, node = waiting.pop()
            if "leaf_value" in node:
                self._nodes.append((tree, number, 0, "LEAF", 0.0, 0, 0, 0, float(node.get("leaf_count", 0))))
                self._leaves.append((tree, number, float(node["leaf_value"])))
                continue
            left, right, next_id = next_id, next_id + 1, next_id + 2
            threshold, missing_left = _split(node)
            feature = int(node["split_feature"])
            rows = float(node["internal_count"])
            self._nodes.append((tree, number, feature, "BRANCH_LEQ", threshold, left, right, missing_left, rows))
            waiting += [(left, node["left_child"]), (right, node["right_child"])]

    def attributes(self) -> dict[str, Any]:
        """Sorted by tree and node, as the operator wants them."""
        trees, ids, features, modes, values, trues, falses, missing, rows = zip(*sorted(self._nodes), strict=True)
        leaf_trees, leaf_ids, weights = zip(*sorted(self._leaves), strict=True)
        return {
            "nodes_treeids": trees,
            "nodes_nodeids": ids,
            "nodes_featureids": features,
            "nodes_modes": modes,
            "nodes_values": values,
            "nodes_truenodeids": trues,
            "nodes_falsenodeids": falses,
            "nodes_missing_value_tracks_true": missing,
            "nodes_hitrates": rows,  # fit rows a node: no runtime reads it, SHAP from the graph does
            "target_treeids": leaf_trees,
            "target_nodeids": leaf_ids,
            "target_ids": [0] * len(leaf_ids),
            "target_weights": weights,
        }


def _split(node: dict[str, Any]) -> tuple[float, int]:
    """(threshold rounded down to float32, whether NaN goes left) of one LightGBM split."""
    if node["decision_type"] != "<=" or node["missing_type"] == "Zero":
        raise TrainingError(
            f"a split {node['decision_type']} with missing {node['missing_type']} cannot be exported; "
            "train without categorical_feature and zero_as_missing"
        )
    exact = float(node["threshold"])
    # Without NaN in training LightGBM reads NaN as 0.
    left = bool(node["default_left"]) if node["missing_type"] == "NaN" else exact >= 0
    return _floor_to_float32(exact), int(left)


def _floor_to_float32(exact: float) -> float:
    """The largest float32 that is not above `exact`; LightGBM writes 1e300 for "every number goes left"."""
    largest = float(np.finfo(np.float32).max)
    if abs(exact) > largest:
        return largest if exact > 0 else -math.inf
    rounded = np.float32(exact)
    return float(rounded if float(rounded) <= exact else np.nextafter(rounded, np.float32(-np.inf)))
