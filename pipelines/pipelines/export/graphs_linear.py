"""Logistic regression as a graph."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto

from pipelines.export.graphs import encoded

if TYPE_CHECKING:
    from pipelines.training.encoding import Encoder
    from pipelines.training.linear import LinearModel


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
    graph.node("Sigmoid", ["logit"], "score")
    graph.save(path)
