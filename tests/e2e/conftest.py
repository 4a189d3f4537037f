"""What several end-to-end tests take: a model that is small, honest, and trained in no time."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from bundle import Golden, Manifest, OnnxScorer, TrainingWindow, write_bundle
from definitions.layout import Layout
from onnx import TensorProto, helper, numpy_helper


@pytest.fixture(scope="session")
def small_bundle(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path, Layout, int], None]:
    """`small_bundle(<bundles>/<name>/<version>, layout, version)` writes one."""
    return lambda folder, layout, version: _bundle_of(folder, tmp_path_factory.mktemp("parts"), layout, version)


def _linear(path: Path, weights: np.ndarray) -> Path:
    """score = sigmoid(features @ weights)."""
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["features", "w"], ["logit"]),
            helper.make_node("Sigmoid", ["logit"], ["score"]),
        ],
        "linear",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, [None, len(weights)])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, [None, 1])],
        [numpy_helper.from_array(weights.astype(np.float32)[:, None], "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def _bundle_of(folder: Path, parts: Path, layout: Layout, version: int) -> None:
    """A small honest bundle: two linear graphs over the layout's columns."""
    columns = len(layout.feature_names)
    rng = np.random.default_rng(0)
    model = _linear(parts / "model.onnx", rng.normal(size=columns) * 0.01)
    fallback = _linear(parts / "fallback.onnx", rng.normal(size=columns) * 0.01)
    features = rng.normal(size=(8, columns)).astype(np.float32)
    none = np.empty((8, 0), np.int64)
    golden = Golden(features, none, OnnxScorer(model).score(features), OnnxScorer(fallback).score(features))
    golden.save(parts / "golden.npz")
    manifest = Manifest(
        name=folder.parent.name,
        version=version,
        usecase=layout.usecase.name,
        revision=1,
        layout_hash=layout.layout_hash,
        feature_names=layout.feature_names,
        window=TrainingWindow(from_us=0, to_us=1),
        commit="unknown",
        seeds=(0,),
        dataset="none",
        data_hash="00",
        metrics={},
        parity={},
        created_us=1,
    )
    write_bundle(folder, manifest, {"model.onnx": model, "fallback.onnx": fallback, "golden.npz": parts / "golden.npz"})
