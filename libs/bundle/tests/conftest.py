"""A small honest bundle's parts: a linear graph, its golden rows, its manifest."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from bundle import Golden, Manifest, OnnxScorer, TrainingWindow
from onnx import TensorProto, helper, numpy_helper

COLUMNS = 3


def linear(path: Path, weights: list[float], *, nodes: list[onnx.NodeProto] | None = None) -> Path:
    """score = sigmoid(features @ weights), or the graph of `nodes` from `logit` to `score`."""
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["features", "w"], ["logit"]),
            *(nodes or [helper.make_node("Sigmoid", ["logit"], ["score"])]),
        ],
        "linear",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, [None, len(weights)])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, [None, 1])],
        [numpy_helper.from_array(np.array(weights, np.float32)[:, None], "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)
    return path


@pytest.fixture(name="linear")
def linear_fixture() -> Callable[..., Path]:
    return linear


@pytest.fixture
def manifest() -> Manifest:
    return Manifest(
        name="movies",
        version=1,
        usecase="movies",
        revision=1,
        layout_hash=7,
        feature_names=("a", "b", "c"),
        window=TrainingWindow(from_us=0, to_us=10),
        commit="unknown",
        seeds=(0,),
        dataset="none",
        data_hash="00",
        metrics={"lr": {"auc": 0.5}},
        parity={"onnx.max_abs": 0.0},
        created_us=1,
    )


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Model, fallback and golden rows that agree."""
    honest = linear(tmp_path / "honest.onnx", [1.0, -1.0, 0.5])
    fallback = linear(tmp_path / "fallback.onnx", [0.5, 0.0, 0.0])
    features = np.random.default_rng(0).normal(size=(5, COLUMNS)).astype(np.float32)
    Golden(
        features,
        np.empty((5, 0), np.int64),
        OnnxScorer(honest).score(features),
        OnnxScorer(fallback).score(features),
    ).save(tmp_path / "golden.npz")
    return {
        "model.onnx": honest,
        "fallback.onnx": fallback,
        "golden.npz": tmp_path / "golden.npz",
    }
