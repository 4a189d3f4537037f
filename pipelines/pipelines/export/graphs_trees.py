"""Boosted trees as a graph."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import TensorProto

from pipelines.errors import TrainingError
from pipelines.export.graphs import Graph, encoded

if TYPE_CHECKING:
    from pipelines.training.encoding import Encoder
    from pipelines.training.trees import TreeModel


def export_trees(model: TreeModel, encoder: Encoder, path: Path) -> None:
    """Write a LightGBM `model` on `encoder`'s inputs to `path`.

    LightGBM compares doubles: `x <= t`. Inputs are float32, so `t` rounded down to float32 decides every one alike.
    A split of codes into two sets reads a column of its own, 0 for codes of the left set.

    Raises:
        TrainingError: a split that this graph cannot say (zero as missing).
    """
    columns = TreeColumns()
    sets = CodeSets(len(encoder.names))
    for number, tree in enumerate(model.booster.dump_model(num_iteration=model.trees)["tree_info"]):
        columns.add(number, tree["tree_structure"], sets)
    graph = encoded(encoder)
    put_trees(graph, columns, model.slope, model.shift, sets.put(graph))
    graph.save(path)


def put_trees(graph: Graph, columns: TreeColumns, slope: float, shift: float, x: str = "x") -> None:
    """Add the nodes from `x` float32 [n, M] to `score`: sigmoid(slope * the trees' sum + shift)."""
    graph.constants(slope=np.array([slope], np.float32), shift=np.array([shift], np.float32))
    graph.node(
        "TreeEnsembleRegressor",
        [x],
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


class CodeSets:
    """Columns behind the `first` ones: for each set of codes that some tree asks for, 0 where the code is in it."""

    def __init__(self, first: int) -> None:
        self._first = first
        self._sets: dict[tuple[int, frozenset[int]], int] = {}

    def column(self, feature: int, codes: frozenset[int]) -> int:
        """Number of the column of this set."""
        return self._first + self._sets.setdefault((feature, codes), len(self._sets))

    def put(self, graph: Graph) -> str:
        """Add their nodes; the name of the trees' input."""
        if not self._sets:
            return "x"
        parts: dict[int, str] = {}  # column -> a part of one column
        for (feature, codes), number in self._sets.items():
            table = np.ones(max(codes) + 2, np.float32)  # the last stands for all greater codes
            table[sorted(codes)] = 0
            name = f"set_{number}"
            places = {f"{name}_of": np.array([feature], np.int64), f"{name}_end": np.array(len(table) - 1, np.int64)}
            graph.constants(**places)
            graph.constants(**{f"{name}_table": table})
            graph.node("Gather", ["x", f"{name}_of"], f"{name}_float", axis=1)
            graph.node("Cast", [f"{name}_float"], f"{name}_code", to=TensorProto.INT64)
            graph.node("Min", [f"{name}_code", f"{name}_end"], f"{name}_place")
            graph.node("Gather", [f"{name}_table", f"{name}_place"], name)
            parts[number] = name
        graph.node("Concat", ["x", *(parts[number] for number in range(len(parts)))], "x_sets", axis=1)
        return "x_sets"


class TreeColumns:
    """The parallel attribute arrays of TreeEnsembleRegressor."""

    def __init__(self) -> None:
        self._nodes: list[tuple[int, int, int, str, float, int, int, int, float]] = []
        self._leaves: list[tuple[int, int, float]] = []

    def branch(
        self, tree: int, number: int, feature: int, mode: str, threshold: float, sides: tuple[int, int], missing: int,
        rows: float,
    ) -> None:  # fmt: skip
        """A node that sends rows to sides[0] where the comparison `mode` with `threshold` holds, else to sides[1];
        NaN to the first if `missing`.
        """
        self._nodes.append((tree, number, feature, mode, threshold, *sides, missing, rows))

    def leaf(self, tree: int, number: int, value: float, rows: float) -> None:
        """A node that adds `value`."""
        self._nodes.append((tree, number, 0, "LEAF", 0.0, 0, 0, 0, rows))
        self._leaves.append((tree, number, value))

    def add(self, tree: int, root: dict[str, Any], sets: CodeSets) -> None:
        """Number the nodes of one of LightGBM's trees in the order met; iterative, as trees may be deep."""
        waiting, next_id = [(0, root)], 1
        while waiting:
            number, node = waiting.pop()
            if "leaf_value" in node:
                self.leaf(tree, number, float(node["leaf_value"]), float(node.get("leaf_count", 0)))
                continue
            left, right, next_id = next_id, next_id + 1, next_id + 2
            feature, threshold, missing_left = _split(node, sets)
            rows = float(node["internal_count"])
            self.branch(tree, number, feature, "BRANCH_LEQ", threshold, (left, right), missing_left, rows)
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


def _split(node: dict[str, Any], sets: CodeSets) -> tuple[int, float, int]:
    """(column, threshold rounded down to float32, whether NaN goes left) of one LightGBM split."""
    feature = int(node["split_feature"])
    if node["decision_type"] == "==":
        codes = frozenset(int(code) for code in str(node["threshold"]).split("||"))
        return sets.column(feature, codes), 0.5, 0  # codes are never NaN
    if node["decision_type"] != "<=" or node["missing_type"] == "Zero":
        raise TrainingError(
            f"a split {node['decision_type']} with missing {node['missing_type']} cannot be exported; "
            "train without zero_as_missing"
        )
    exact = float(node["threshold"])
    # Without NaN in training LightGBM reads NaN as 0.
    left = bool(node["default_left"]) if node["missing_type"] == "NaN" else exact >= 0
    return feature, _floor_to_float32(exact), int(left)


def _floor_to_float32(exact: float) -> float:
    """The largest float32 that is not above `exact`; LightGBM writes 1e300 for "every number goes left"."""
    largest = float(np.finfo(np.float32).max)
    if abs(exact) > largest:
        return largest if exact > 0 else -math.inf
    rounded = np.float32(exact)
    return float(rounded if float(rounded) <= exact else np.nextafter(rounded, np.float32(-np.inf)))
