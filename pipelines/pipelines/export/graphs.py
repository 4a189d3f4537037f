"""Models as ONNX graphs: `features` float32 [n, F] (and `int_features` int64 [n, K] where codes are used) -> `score`
float32 [n, 1]; encoding, scaling and calibration inside.

Written node by node, not by a converter (docs/adr/0020-graphs-written-node-by-node.md): the inputs and outputs are
serving's, every node is on the allow-list of `bundle.admission`, and what converters got wrong (static label shapes,
thresholds left as doubles) cannot arise.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from pipelines.errors import TrainingError
from pipelines.training.encoding import Encoder
from pipelines.training.linear import LinearModel
from pipelines.training.trees import TreeModel

# Old enough for every ONNX Runtime that serves, also the one beside the native Triton.
OPSETS = {"": 17, "ai.onnx.ml": 3}
IR_VERSION = 8


def export_linear(model: LinearModel, encoder: Encoder, path: Path) -> None:
    """Write `model` on `encoder`'s inputs to `path`."""
    graph = _Graph(encoder)
    n = len(model.center)
    graph.constants(
        logged=model.logged[None, :],
        zero=np.array(0, np.float32),
        one=np.array(1, np.float32),
        center=model.center.astype(np.float32)[None, :],
        scale=model.scale.astype(np.float32)[None, :],
        w_scaled=model.weights[:n].astype(np.float32)[:, None],
        step_columns=model.step_columns,
        edges=model.edges[None, :],
        w_steps=model.weights[n:].astype(np.float32)[:, None],
        bias=np.array([model.bias], np.float32),
    )
    graph.node("Max", ["x", "zero"], "positive")
    graph.node("Add", ["positive", "one"], "shifted")
    graph.node("Log", ["shifted"], "log")
    graph.node("Where", ["logged", "log", "x"], "bent")
    graph.node("Sub", ["bent", "center"], "centered")
    graph.node("Mul", ["centered", "scale"], "standard")
    graph.node("MatMul", ["standard", "w_scaled"], "logit_scaled")
    graph.node("Gather", ["x", "step_columns"], "stepped", axis=1)
    graph.node("GreaterOrEqual", ["stepped", "edges"], "above")
    graph.node("Cast", ["above"], "above_f", to=TensorProto.FLOAT)
    graph.node("MatMul", ["above_f", "w_steps"], "logit_steps")
    graph.node("Add", ["logit_scaled", "logit_steps"], "logit_sum")
    graph.node("Add", ["logit_sum", "bias"], "logit")
    graph.save(path)


def export_trees(model: TreeModel, encoder: Encoder, path: Path) -> None:
    """Write `model` on `encoder`'s inputs to `path`.

    LightGBM compares doubles: `x <= t`. Inputs are float32, so `t` rounded down to float32 decides every one alike.

    Raises:
        TrainingError: a split that this graph cannot say (categorical, zero as missing).
    """
    columns = _TreeColumns()
    for number, tree in enumerate(model.booster.dump_model(num_iteration=model.trees)["tree_info"]):
        columns.add(number, tree["tree_structure"])
    graph = _Graph(encoder)
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
    graph.save(path)


class _Graph:
    """Collects nodes from `x` (the encoder's output) to `logit`; adds what is the same in every graph."""

    def __init__(self, encoder: Encoder) -> None:
        self._features = len(encoder.feature_names)
        self._ints = len(encoder.int_names)
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, npt.NDArray[Any]] = {}
        parts = ["features"]
        for i, group in enumerate(encoder.groups):
            self.constants(**{f"places_{i}": group.places, f"codes_{i}": group.codes[None, None, :]})
            self.constants(last=np.array([2], np.int64))
            self.node("Gather", ["int_features", f"places_{i}"], f"found_{i}", axis=1)
            self.node("Unsqueeze", [f"found_{i}", "last"], f"found_3d_{i}")
            self.node("Equal", [f"found_3d_{i}", f"codes_{i}"], f"is_{i}")
            self.node("Cast", [f"is_{i}"], f"is_f_{i}", to=TensorProto.FLOAT)
            self.node("ReduceMax", [f"is_f_{i}"], f"coded_{i}", axes=[1], keepdims=0)
            parts.append(f"coded_{i}")
        self.node("Concat", parts, "x", axis=1)

    def constants(self, **values: npt.NDArray[Any]) -> "_Graph":
        self._constants |= values
        return self

    def node(self, operator: str, inputs: list[str], output: str, **attributes: Any) -> None:
        self._nodes.append(helper.make_node(operator, inputs, [output], **attributes))

    def save(self, path: Path) -> None:
        self.node("Sigmoid", ["logit"], "score")
        inputs = [helper.make_tensor_value_info("features", TensorProto.FLOAT, [None, self._features])]
        if self._ints:
            inputs.append(helper.make_tensor_value_info("int_features", TensorProto.INT64, [None, self._ints]))
        graph = helper.make_graph(
            self._nodes,
            "score",
            inputs,
            [helper.make_tensor_value_info("score", TensorProto.FLOAT, [None, 1])],
            [numpy_helper.from_array(value, name) for name, value in self._constants.items()],
        )
        opsets = [helper.make_opsetid(domain, version) for domain, version in OPSETS.items()]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="millrace")
        onnx.checker.check_model(model)
        path.write_bytes(model.SerializeToString())


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
