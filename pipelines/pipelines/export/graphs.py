"""Models as ONNX graphs: `features` float32 [n, F] (and `int_features` int64 [n, K] where codes are used) -> `score`
float32 [n, 1]; encoding, scaling and calibration inside.

Written node by node, not by a converter (docs/adr/0020-graphs-written-node-by-node.md): the inputs and outputs are
serving's, every node is on the allow-list of `bundle.admission`, and what converters got wrong (static label shapes,
thresholds left as doubles) cannot arise.
"""

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
from definitions.events import UNITS_PER_VALUE
from onnx import TensorProto, helper

from pipelines.export.nodes import Nodes
from pipelines.training.encoding import Encoder, Group, Hashed, Native, OneHot, filled
from pipelines.training.history import KNN_FLOOR, RESIDUAL_STEP, USER_WEIGHT, History, Matrix, sides
from pipelines.training.inputs import Inputs


class Graph(Nodes):
    """A ranker's: its nodes lead from the inputs to `score`."""

    def __init__(self, inputs: Inputs) -> None:
        super().__init__()
        self._inputs = inputs

    def save(self, path: Path) -> None:
        """Write the graph, whose nodes end in `score`."""
        f, k = len(self._inputs.feature_names), len(self._inputs.int_names)
        inputs = [helper.make_tensor_value_info("features", TensorProto.FLOAT, [None, f])]
        if k:
            inputs.append(helper.make_tensor_value_info("int_features", TensorProto.INT64, [None, k]))
        self.write(path, "score", inputs, helper.make_tensor_value_info("score", TensorProto.FLOAT, [None, 1]))


def encoded(encoder: Encoder) -> Graph:
    """A graph whose nodes so far make `x` float32 [n, M], what `encoder.expand` gives."""
    graph = Graph(encoder.inputs)
    numbers = "features"
    if len(encoder.inputs.floats) != len(encoder.inputs.feature_names):
        graph.columns("features", encoder.inputs.floats, "floats")
        numbers = "floats"
    missing = _put_fillings(graph, encoder, numbers) if encoder.fillings else []
    parts = ["filled" if encoder.fillings else numbers]
    if encoder.history is not None:
        put_history(graph, encoder.history)
        parts.append("history_scores")
    parts += missing
    for i, group in enumerate(encoder.groups):
        _put_codes(graph, group, i)
        parts.append(f"coded_{i}")
    graph.node("Concat", parts, "x", axis=1)
    graph.say(columns=json.dumps(encoder.names))
    return graph


def _put_fillings(graph: Graph, encoder: Encoder, numbers: str) -> list[str]:
    """`filled` float32 [n, numbers]: missing cells replaced. Returns the columns that say what was missing."""
    width = len(encoder.inputs.floats)
    may_miss, default, fill = np.zeros(width, bool), np.zeros(width, np.float32), np.zeros(width, np.float32)
    for each in encoder.fillings:
        may_miss[each.place], default[each.place], fill[each.place] = True, each.default, filled(each)
    graph.constants(may_miss=may_miss[None, :], missing_default=default[None, :], fill=fill[None, :])
    graph.node("IsNaN", [numbers], "is_nan")
    graph.node("Equal", [numbers, "missing_default"], "is_default")
    graph.node("Or", ["is_nan", "is_default"], "is_absent")
    graph.node("And", ["is_absent", "may_miss"], "is_missing")
    graph.node("Where", ["is_missing", "fill", numbers], "filled")
    if not encoder.indicated:
        return []
    graph.node("Cast", ["is_missing"], "is_missing_f", to=TensorProto.FLOAT)
    graph.columns("is_missing_f", np.array([each.place for each in encoder.indicated], np.int64), "missing")
    return ["missing"]


def put_history(graph: Graph, history: History) -> None:
    """Add the nodes from `int_features` to `history_scores` float32 [n, S], what `history.score` gives, bit for bit."""
    past, item = sides(history.inputs)
    graph.constants(
        items=np.array(item.size, np.int64),
        no_item=np.array(0, np.int64),
        item_means=history.means,
        units=np.array(UNITS_PER_VALUE, np.float64),
        step=np.array(RESIDUAL_STEP, np.float64),
        nothing=np.array(0, np.float64),
        knn_floor=np.array(KNN_FLOOR, np.float64),
        user_weight=np.array(USER_WEIGHT, np.float64),
        summed=np.array([1], np.int64),
    )
    graph.columns("int_features", past.ids, "past")
    graph.columns("int_features", past.values, "past_micros")
    graph.columns("int_features", item.places[:1], "candidate")
    graph.node("Mul", ["candidate", "items"], "candidate_row")
    graph.node("Add", ["candidate_row", "past"], "pair")
    graph.node("Cast", ["past_micros"], "past_micros_f", to=TensorProto.DOUBLE)
    graph.node("Div", ["past_micros_f", "units"], "past_values")
    graph.node("Div", ["past_values", "step"], "past_steps")
    graph.node("Round", ["past_steps"], "past_steps_whole")
    graph.node("Mul", ["past_steps_whole", "step"], "past_stepped")
    graph.look_up("item_means", "past", "past_means")
    graph.node("Sub", ["past_stepped", "past_means"], "past_gap")
    graph.node("Greater", ["past", "no_item"], "past_there")
    graph.node("Where", ["past_there", "past_gap", "nothing"], "gap")
    graph.node("Cast", ["past_there"], "past_one", to=TensorProto.DOUBLE)
    graph.node("ReduceSum", ["past_one", "summed"], "past_count", keepdims=1)
    graph.node("ReduceSum", ["gap", "summed"], "gap_sum", keepdims=1)
    graph.node("Add", ["past_count", "user_weight"], "past_weight")
    graph.node("Div", ["gap_sum", "past_weight"], "gap_mean")
    graph.node("Div", ["gap_mean", "step"], "gap_mean_steps")
    graph.node("Round", ["gap_mean_steps"], "gap_mean_whole")
    graph.node("Mul", ["gap_mean_whole", "step"], "gap_mean_stepped")
    graph.node("Sub", ["gap", "gap_mean_stepped"], "gap_own")
    graph.node("Where", ["past_there", "gap_own", "nothing"], "residual")
    for name, matrix in history.matrices.items():
        _put_weights(graph, name, matrix)
    if "knn" in history.matrices:
        graph.node("Abs", ["knn"], "knn_abs")
        graph.node("ReduceSum", ["knn_abs", "summed"], "support", keepdims=1)
        graph.node("Add", ["support", "knn_floor"], "support_floored")
        graph.node("Div", ["knn_residual", "support_floored"], "residual_knn")
    if "ease" in history.matrices:
        graph.node("ReduceSum", ["ease", "summed"], "ease_sum", keepdims=1)
    nodes = {"ridge": "ridge_residual", "ease": "ease_sum"}  # where the column's name is the weights'
    graph.node("Concat", [nodes.get(column, column) for column in history.wanted], "history_exact", axis=1)
    graph.node("Cast", ["history_exact"], "history_scores", to=TensorProto.FLOAT)


def _put_weights(graph: Graph, name: str, matrix: Matrix) -> None:
    """`name` double [n, k], the weights of candidate and past items; `name_residual` [n, 1], their products' sum."""
    scale = np.array(matrix.scale, np.float64)
    graph.constants(**{f"{name}_scale": scale})
    graph.constants(**{f"{name}_matrix": matrix.weights.ravel()})
    graph.look_up(f"{name}_matrix", "pair", f"{name}_whole")
    graph.node("Cast", [f"{name}_whole"], f"{name}_double", to=TensorProto.DOUBLE)
    graph.node("Mul", [f"{name}_double", f"{name}_scale"], name)
    graph.node("Mul", [name, "residual"], f"{name}_products")
    graph.node("ReduceSum", [f"{name}_products", "summed"], f"{name}_residual", keepdims=1)


def _put_codes(graph: Graph, group: Group, i: int) -> None:
    """`coded_i` float32 [n, columns of the group]."""
    graph.columns("int_features", group.places, f"found_{i}")
    match group:
        case Native():
            graph.node("Cast", [f"found_{i}"], f"coded_{i}", to=TensorProto.FLOAT)
        case Hashed():
            graph.constants(no_code=np.array(0, np.int64), one_code=np.array(1, np.int64))
            graph.constants(**{f"modulus_{i}": np.array(group.buckets - 1, np.int64)})
            graph.node("Mod", [f"found_{i}", f"modulus_{i}"], f"rest_{i}")
            graph.node("Add", [f"rest_{i}", "one_code"], f"hashed_{i}")
            graph.node("Equal", [f"found_{i}", "no_code"], f"unknown_{i}")
            graph.node("Where", [f"unknown_{i}", "no_code", f"hashed_{i}"], f"bucket_{i}")
            _put_indicators(graph, i, f"bucket_{i}", np.arange(group.buckets), len(group.places))
        case OneHot():
            _put_indicators(graph, i, f"found_{i}", group.codes, len(group.places))


def _put_indicators(graph: Graph, i: int, codes: str, wanted: npt.NDArray[np.int64], slots: int) -> None:
    """`coded_i`: 1 where one of the [n, slots] codes is the wanted one; 0 counts in the first slot only."""
    if slots == 1:
        graph.constants(**{f"codes_{i}": wanted[None, :].astype(np.int64)})
        graph.node("Equal", [codes, f"codes_{i}"], f"is_{i}")
        graph.node("Cast", [f"is_{i}"], f"coded_{i}", to=TensorProto.FLOAT)
        return
    counts = np.ones((1, slots, len(wanted)), bool)
    counts[:, 1:, wanted == 0] = False
    graph.constants(**{f"codes_{i}": wanted[None, None, :].astype(np.int64), f"counts_{i}": counts})
    graph.constants(last=np.array([2], np.int64))
    graph.node("Unsqueeze", [codes, "last"], f"found_3d_{i}")
    graph.node("Equal", [f"found_3d_{i}", f"codes_{i}"], f"same_{i}")
    graph.node("And", [f"same_{i}", f"counts_{i}"], f"is_{i}")
    graph.node("Cast", [f"is_{i}"], f"is_f_{i}", to=TensorProto.FLOAT)
    graph.node("ReduceMax", [f"is_f_{i}"], f"coded_{i}", axes=[1], keepdims=0)
