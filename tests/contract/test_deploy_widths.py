"""A model with other inputs is deployed, and rolled back from, on a real Triton: both answer meanwhile."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from bundle import Bundle, Golden, Manifest, OnnxScorer, TrainingWindow, load_bundle, write_bundle
from local_stack.topics import create_topics, declared_topics
from onnx import TensorProto, helper, numpy_helper
from pipelines.decisions import serving_state
from pipelines.deploy import deploy, rollback
from pipelines.triton_client import Triton, triton_scores
from pipelines.triton_repository import Repository
from servicekit.settings import checkout_root

pytestmark = pytest.mark.real

NAME = "widths"


def make_bundle(folder: Path, version: int, columns: int) -> Bundle:
    """score = the sum of all columns."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["features", "w"], ["score"])],
        "sum",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, [None, columns])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, [None, 1])],
        [numpy_helper.from_array(np.ones((columns, 1), np.float32), "w")],
    )
    path = folder / f"{version}.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    features = np.random.default_rng(version).normal(size=(40, columns)).astype(np.float32)
    scores = OnnxScorer(path).score(features, np.empty((40, 0), np.int64))
    Golden(features, np.empty((40, 0), np.int64), scores, scores).save(folder / "golden.npz")
    manifest = Manifest(
        name=NAME, version=version, usecase=NAME, revision=1, layout_hash=1,
        feature_names=tuple(f"c{n}" for n in range(columns)), window=TrainingWindow(from_us=0, to_us=1),
        commit="unknown", seeds=(0,), dataset="none", data_hash="00", metrics={}, parity={}, created_us=1,
    )  # fmt: skip
    target = folder / "bundles" / NAME / str(version)
    write_bundle(target, manifest, {"model.onnx": path, "fallback.onnx": path, "golden.npz": folder / "golden.npz"})
    return load_bundle(target)


def test_other_inputs_are_served_beside_and_returned_from(
    triton: str, kafka: str, triton_repository: Path, tmp_path: Path
) -> None:
    """Both versions score under the names that the state says; the third deploy takes the place of the second."""
    create_topics(kafka, declared_topics(checkout_root() / "infra" / "kafka" / "topics.yaml", [NAME]))
    repository = Repository(triton_repository, checkout_root() / "infra" / "triton")
    first, wider, widest = (make_bundle(tmp_path, version, columns) for version, columns in ((1, 2), (2, 3), (3, 4)))

    def scores_of(bundle: Bundle, name: str) -> None:
        golden = bundle.golden
        found = triton_scores(triton, bundle.manifest, bundle.manifest.version, golden.features, name=name)
        np.testing.assert_allclose(golden.scores, found, atol=1e-5)

    deploy(first.folder, kafka=kafka, triton=triton, repository=repository)
    deploy(wider.folder, kafka=kafka, triton=triton, repository=repository)

    state = serving_state(kafka, NAME)
    assert ("widths.2", "widths") == (state.pin.triton_name, state.previous.triton_name)
    scores_of(first, "widths")
    scores_of(wider, "widths.2")

    assert 1 == rollback(NAME, bundles=tmp_path / "bundles", kafka=kafka, triton=triton, repository=repository).version
    state = serving_state(kafka, NAME)
    assert ("widths", "widths.2") == (state.pin.triton_name, state.previous.triton_name)
    scores_of(wider, "widths.2")

    deploy(widest.folder, kafka=kafka, triton=triton, repository=repository)

    scores_of(first, "widths")
    scores_of(widest, "widths.2")
    assert [3] == repository.versions("widths.2")
    with Triton(triton) as client:
        assert {3} == {version for version, (state, _) in client.states("widths.2").items() if state == "READY"}
