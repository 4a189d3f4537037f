"""Models as ONNX graphs: `features` float32 [n, F] -> `score` float32 [n, 1], preprocessing and calibration inside.

Written node by node: the inputs and outputs are serving's, every node is on the allow-list of `bundle.admission`, and
the traps of models.md section 7 (static label shapes, double thresholds) cannot arise.
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from pipelines.errors import TrainingError
from pipelines.training.linear import LinearModel
from pipelines.training.trees import TreeModel

# Old enough for every ONNX Runtime that serves, also the one beside the native Triton.
OPSETS = {"": 17, "ai.onnx.ml": 3}
IR_VERSION = 8


def export_linear(model: LinearModel, path: Path) -> None:
    """Write `model` to `path`."""
    steps = model.edges.size
    n = len(model.scaled)
    constants: dict[str, npt.NDArray[Any]] = {
        "scaled": model.scaled,
        "logged": model.logged[None, :],
        "zero": np.array(0, np.float32),
        "one": np.array(1, np.float32),
        "center": model.center.astype(np.float32)[None, :],
        "scale": model.scale.astype(np.float32)[None, :],
        "edges": model.edges[None],
        "last": np.array([2], np.int64),
        "flat": np.array([-1, steps], np.int64),
        "w_scaled": model.weights[:n].astype(np.float32)[:, None],
        "w_steps": model.weights[n : n + steps].astype(np.float32)[:, None],
        "bias": np.array([model.bias], np.float32),
    }
    nodes = [
        helper.make_node("Gather", ["features", "scaled"], ["raw"], axis=1),
        helper.make_node("Max", ["raw", "zero"], ["positive"]),
        helper.make_node("Add", ["positive", "one"], ["shifted"]),
        helper.make_node("Log", ["shifted"], ["log"]),
        helper.make_node("Where", ["logged", "log", "raw"], ["bent"]),
        helper.make_node("Sub", ["bent", "center"], ["centered"]),
        helper.make_node("Mul", ["centered", "scale"], ["standard"]),
        helper.make_node("MatMul", ["standard", "w_scaled"], ["logit_scaled"]),
        helper.make_node("Unsqueeze", ["raw", "last"], ["raw_3d"]),
        helper.make_node("GreaterOrEqual", ["raw_3d", "edges"], ["above"]),
        helper.make_node("Cast", ["above"], ["above_f"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["above_f", "flat"], ["above_2d"]),
        helper.make_node("MatMul", ["above_2d", "w_steps"], ["logit_steps"]),
        helper.make_node("Add", ["logit_scaled", "logit_steps"], ["logit_numbers"]),
    ]
    last = "logit_numbers"
    if model.codes:
        constants["code_columns"] = np.array([column for column, _ in model.codes], np.int64)
        constants["code_values"] = np.array([[code for _, code in model.codes]], np.float32)
        constants["w_codes"] = model.weights[n + steps :].astype(np.float32)[:, None]
        nodes += [
            helper.make_node("Gather", ["features", "code_columns"], ["code_raw"], axis=1),
            helper.make_node("Equal", ["code_raw", "code_values"], ["is_code"]),
            helper.make_node("Cast", ["is_code"], ["is_code_f"], to=TensorProto.FLOAT),
            helper.make_node("MatMul", ["is_code_f", "w_codes"], ["logit_codes"]),
            helper.make_node("Add", ["logit_numbers", "logit_codes"], ["logit_all"]),
        ]
        last = "logit_all"
    nodes += [helper.make_node("Add", [last, "bias"], ["logit"]), helper.make_node("Sigmoid", ["logit"], ["score"])]
    _save(nodes, constants, model.columns, path)


def export_trees(model: TreeModel, path: Path) -> None:
    """Write `model` to `path`.

    LightGBM compares doubles: `x <= t`. Features are float32, so `t` rounded down to float32 decides every one alike.

    Raises:
        TrainingError: a split that this graph cannot say (categorical, zero as missing).
    """
    dump = model.booster.dump_model(num_iteration=model.trees)
    columns = _TreeColumns()
    for number, tree in enumerate(dump["tree_info"]):
        columns.add(number, tree["tree_structure"])
    ensemble = helper.make_node(
        "TreeEnsembleRegressor",
        ["features"],
        ["raw"],
        domain="ai.onnx.ml",
        n_targets=1,
        aggregate_function="SUM",
        post_transform="NONE",
        **columns.attributes(),
    )
    constants = {"slope": np.array([model.slope], np.float32), "shift": np.array([model.shift], np.float32)}
    nodes = [
        ensemble,
        helper.make_node("Mul", ["raw", "slope"], ["sloped"]),
        helper.make_node("Add", ["sloped", "shift"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["score"]),
    ]
    _save(nodes, constants, dump["max_feature_idx"] + 1, path)


class _TreeColumns:
    """The parallel attribute arrays of TreeEnsembleRegressor."""

    def __init__(self) -> None:
        self._nodes: list[tuple[int, int, int, str, float, int, int, int]] = []
        self._leaves: list[tuple[int, int, float]] = []

    def add(self, tree: int, root: dict[str, Any]) -> None:
        """Number the nodes of one tree in the order met; iterative, as trees may be deep."""
        waiting, next_id = [(0, root)], 1
        while waiting:
            number, node = waiting.pop()
            if "leaf_value" in node:
                self._nodes.append((tree, number, 0, "LEAF", 0.0, 0, 0, 0))
                self._leaves.append((tree, number, float(node["leaf_value"])))
                continue
            left, right, next_id = next_id, next_id + 1, next_id + 2
            threshold, missing_left = _split(node)
            feature = int(node["split_feature"])
            self._nodes.append((tree, number, feature, "BRANCH_LEQ", threshold, left, right, missing_left))
            waiting += [(left, node["left_child"]), (right, node["right_child"])]

    def attributes(self) -> dict[str, Any]:
        """Sorted by tree and node, as the operator wants them."""
        trees, ids, features, modes, values, trues, falses, missing = zip(*sorted(self._nodes), strict=True)
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
    threshold = np.float32(exact)
    if float(threshold) > exact:
        threshold = np.nextafter(threshold, np.float32(-np.inf))
    # Without NaN in training LightGBM reads NaN as 0.
    left = bool(node["default_left"]) if node["missing_type"] == "NaN" else exact >= 0
    return float(threshold), int(left)


def _save(nodes: list[onnx.NodeProto], constants: dict[str, npt.NDArray[Any]], columns: int, path: Path) -> None:
    graph = helper.make_graph(
        nodes,
        "score",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, [None, columns])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, [None, 1])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid(domain, version) for domain, version in OPSETS.items()]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="millrace")
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
