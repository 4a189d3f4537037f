"""Graphs of several heads: `score` as before, and `heads` float32 [n, H], what serving weighs."""

from collections.abc import Sequence
from pathlib import Path

import onnx
from onnx import TensorProto, compose, helper

_INPUTS = {"features", "int_features"}


def add_heads(graph: Path, heads: Sequence[Path]) -> None:
    """Give the graph at `graph` the output `heads`, whose columns are the `score` of each of `heads`.

    All were written by `export.graphs.Graph` on the same inputs.
    """
    whole = onnx.load(graph)
    given = {value.name: value for value in whole.graph.input}
    scores = []
    for number, path in enumerate(heads):
        part = compose.add_prefix(onnx.load(path), f"head_{number}.", rename_inputs=False)
        whole.graph.node.extend(part.graph.node)
        whole.graph.initializer.extend(part.graph.initializer)
        given |= {value.name: value for value in part.graph.input if value.name not in given}
        scores.append(part.graph.output[0].name)
    del whole.graph.input[:]
    whole.graph.input.extend(value for name, value in given.items() if name in _INPUTS)
    whole.graph.node.append(helper.make_node("Concat", scores, ["heads"], axis=1))
    whole.graph.output.append(helper.make_tensor_value_info("heads", TensorProto.FLOAT, [None, len(scores)]))
    onnx.checker.check_model(whole)
    graph.write_bytes(whole.SerializeToString())
