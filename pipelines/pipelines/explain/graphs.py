"""Contributions of a served model from its bundle alone: no framework's file, no pickle is kept beside the graph.

Our linear graphs hold their coefficients, our tree graphs their splits and how many fit rows each node had, which is
all that exact SHAP needs; what the encoder makes of a row is read from the graph itself. Any other graph is asked for
scores.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from bundle import Bundle, OnnxScorer
from bundle.contributions import Contributions, Matrix
from bundle.scorer import open_bytes
from bundle.shapley import SAMPLED, BlackBox, Ints
from onnx import numpy_helper

from pipelines.explain import tabular
from pipelines.explain.tree_text import CodeSet, Forest, booster_of
from pipelines.training.linear import LinearModel

_ENCODED = "x"  # pipelines.export.graphs.encoded
_CODE_SET = re.compile(r"set_\d+_of")
_LINEAR = {"logged", "center", "scale", "w_scaled", "bias"}
_STEPS = {"stepped_from", "edges", "w_steps"}  # all of them, or none where no column has steps


class GraphExplainer:
    """Explains a graph of a bundle. `method`: `coefficients`, `tree SHAP` or `sampled Shapley`."""

    def __init__(self, bundle: Bundle, graph: Path | None = None, heads: Mapping[str, float] | None = None) -> None:
        """Reads the graph; a black box is compared with the mean of the bundle's golden rows.

        `graph`: its fallback, say; by default `model.onnx`. `heads`: weights of a multi-head model, where rules say
        others than it was trained with.

        Raises:
            TrainingError: trees that compare otherwise than ours.
        """
        graph = graph or bundle.model_path
        model = onnx.load_from_string(graph.read_bytes())
        said = {each.key: each.value for each in model.metadata_props}
        constants = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
        trees = [node for node in model.graph.node if node.op_type == "TreeEnsembleRegressor"]
        self._columns: tuple[str, ...] = tuple(json.loads(said.get("columns", "[]")))
        self._linear: LinearModel | None = None
        self._trees: _Trees | None = None
        self._box: BlackBox | None = None
        if self._columns and len(trees) == 1 and {"slope", "shift"} <= set(constants):
            self._trees = _Trees.of(trees[0], constants, len(self._columns))
            self._encode = _session_for(model, _ENCODED)
            self.method = "tree SHAP"
        elif self._columns and set(constants) >= _LINEAR and set(constants) & _STEPS in (_STEPS, set()):
            self._linear = _linear_model(constants)
            self._encode = _session_for(model, _ENCODED)
            self.method = "coefficients"
        else:
            scorer = OnnxScorer(graph)
            self._box = BlackBox(bundle, lambda rows, ints: bundle.weighed(scorer.predictions(rows, ints), heads))
            self.method = SAMPLED

    def contributions(self, features: Matrix, ints: Ints) -> Contributions:
        """Of rows float32 (n, F) and int64 (n, K), the graph's inputs; the raw score is the logit of a probability."""
        if self._box is not None:
            return self._box.contributions(features, ints)
        feed: dict[str, npt.NDArray[Any]] = {"features": features}
        if ints.shape[1]:
            feed["int_features"] = ints
        x = np.asarray(self._encode.run(None, feed)[0], np.float32)
        if self._linear is not None:
            return tabular.of_linear(self._linear, self._columns, x)
        assert self._trees is not None  # noqa: S101  one of the three, see above
        return self._trees.contributions(self._columns, x)


@dataclass(frozen=True, eq=False)
class _Trees:
    """The trees' sum on the encoder's columns, and the calibration behind it."""

    booster: lightgbm.Booster
    slope: float
    shift: float

    @classmethod
    def of(cls, node: onnx.NodeProto, constants: Mapping[str, npt.NDArray[Any]], columns: int) -> "_Trees":
        """Behind the encoder's columns the graph has those of `export.graphs_trees.CodeSets`; here they are splits."""
        sets = []
        for number in sorted(int(name[4:-3]) for name in constants if _CODE_SET.fullmatch(name)):
            codes = np.flatnonzero(constants[f"set_{number}_table"] == 0)
            sets.append(CodeSet(int(constants[f"set_{number}_of"][0]), tuple(codes.tolist())))
        slope, shift = (float(constants[name].ravel()[0]) for name in ("slope", "shift"))
        return cls(booster_of(Forest.of_node(node), columns, sets), slope, shift)

    def contributions(self, names: tuple[str, ...], x: Matrix) -> Contributions:
        """Of the logit."""
        return tabular.calibrated(tabular.of_trees(self.booster, -1, names, x), self.slope, self.shift)


def _linear_model(constants: Mapping[str, npt.NDArray[Any]]) -> LinearModel:
    flat = {name: constants[name].ravel() for name in _LINEAR}
    step_columns, edges, w_steps = np.empty(0, np.int64), np.empty(0, np.float32), np.empty(0, np.float32)
    if "edges" in constants:  # a grid, as `export.graphs_linear` lays it out
        grid = constants["edges"][0]
        at = np.flatnonzero(~np.isnan(grid))
        step_columns = int(constants["stepped_from"][0]) + at % grid.shape[1]
        edges, w_steps = grid.ravel()[at], constants["w_steps"].ravel()[at]
    return LinearModel(
        logged=flat["logged"].astype(bool),
        center=flat["center"].astype(np.float64),
        scale=flat["scale"].astype(np.float64),
        step_columns=step_columns,
        edges=edges,
        weights=np.r_[flat["w_scaled"], w_steps].astype(np.float64),
        bias=float(flat["bias"][0]),
    )


def _session_for(model: onnx.ModelProto, output: str) -> onnxruntime.InferenceSession:
    """A session that gives an inner tensor instead of the score."""
    inner = onnx.ModelProto()
    inner.CopyFrom(model)
    del inner.graph.output[:]
    inner.graph.output.append(onnx.helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, None))
    return open_bytes(inner.SerializeToString(), f"model.onnx up to {output}")
