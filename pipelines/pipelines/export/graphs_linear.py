"""Logistic regression as a graph."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto

from pipelines.export.graphs import Graph, encoded

if TYPE_CHECKING:
    from pipelines.training.encoding import Encoder
    from pipelines.training.linear import LinearModel
    from pipelines.training.linear_sparse import SparseRanker


def export_linear(model: LinearModel, encoder: Encoder, path: Path) -> None:
    """Write `model` on `encoder`'s inputs to `path`."""
    graph = encoded(encoder)
    n = len(model.center)
    graph.constants(
        logged=model.logged[None, :],
        zero=np.array(0, np.float32),
        one=np.array(1, np.float32),
        center=model.center.astype(np.float32)[None, :],
        scale=model.scale.astype(np.float32)[None, :],
        w_scaled=model.weights[:n].astype(np.float32)[:, None],
        bias=np.array([model.bias], np.float32),
    )
    graph.node("Max", ["x", "zero"], "positive")
    graph.node("Add", ["positive", "one"], "shifted")
    graph.node("Log", ["shifted"], "log")
    graph.node("Where", ["logged", "log", "x"], "bent")
    graph.node("Sub", ["bent", "center"], "centered")
    graph.node("Mul", ["centered", "scale"], "standard")
    graph.node("MatMul", ["standard", "w_scaled"], "logit_scaled")
    logit = "logit_scaled"
    if len(model.step_columns):
        _put_steps(graph, model)
        graph.node("Add", [logit, "logit_steps"], "logit_sum")
        logit = "logit_sum"
    graph.node("Add", [logit, "bias"], "logit")
    graph.node("Sigmoid", ["logit"], "score")
    graph.save(path)


def _put_steps(graph: Graph, model: LinearModel) -> None:
    """`logit_steps` [n, 1]: the weights of the edges that `x` reaches.

    Edges lie in a grid, one column each, in as many rows as the column with most edges needs. So `x` is compared as it
    is: to copy each column once an edge took two thirds of the model's time (98 of 156 us for 100 rows, 375 edges).
    """
    first, stop = int(model.step_columns.min()), int(model.step_columns.max()) + 1
    column = model.step_columns - first
    row = np.array([np.count_nonzero(column[:at] == each) for at, each in enumerate(column)], np.int64)
    shape = (int(row.max()) + 1, stop - first)
    edges, weights = np.full(shape, np.nan, np.float32), np.zeros(shape, np.float32)  # nothing reaches NaN
    edges[row, column] = model.edges
    weights[row, column] = model.weights[len(model.center) :]
    graph.constants(edges=edges[None], w_steps=weights.reshape(-1, 1))
    graph.constants(rows_axis=np.array([1], np.int64), laid_out=np.array([0, edges.size], np.int64))  # 0: n
    graph.columns("x", np.arange(first, stop), "stepped")
    graph.node("Unsqueeze", ["stepped", "rows_axis"], "stepped_rows")
    graph.node("GreaterOrEqual", ["stepped_rows", "edges"], "above")
    graph.node("Cast", ["above"], "above_f", to=TensorProto.FLOAT)
    graph.node("Reshape", ["above_f", "laid_out"], "indicators")
    graph.node("MatMul", ["indicators", "w_steps"], "logit_steps")


def export_sparse(model: SparseRanker, path: Path) -> None:
    """Write `model` to `path`: its weights are looked up, no indicator is ever laid out."""
    graph = Graph(model.inputs)
    graph.constants(
        offsets=model.offsets[None, :],
        weights=model.weights,
        no_code=np.array(0, np.int64),
        nothing=np.array(0, np.float32),
        bias=np.array([model.bias], np.float32),
        summed=np.ones((len(model.places), 1), np.float32),
    )
    graph.columns("int_features", model.places, "codes")
    graph.node("Add", ["codes", "offsets"], "shifted")
    at = "shifted"
    if model.buckets:
        graph.constants(buckets=np.array(model.buckets, np.int64))
        graph.node("Mod", ["shifted", "buckets"], "hashed")
        at = "hashed"
    graph.look_up("weights", at, "weight")
    graph.node("Equal", ["codes", "no_code"], "absent")
    graph.node("Where", ["absent", "nothing", "weight"], "told")
    # Not ReduceSum: it adds in an order that depends on where a row lies among others (export.parity.unstable).
    graph.node("MatMul", ["told", "summed"], "sum")
    graph.node("Add", ["sum", "bias"], "logit")
    graph.node("Sigmoid", ["logit"], "score")
    graph.save(path)
