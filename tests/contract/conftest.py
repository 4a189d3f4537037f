"""What several contract suites take: small real bundles, and where to deploy them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from bundle import Bundle, Golden, Manifest, OnnxScorer, TrainingWindow, load_bundle, write_bundle
from local_stack.topics import create_topics, declared_topics
from pipelines.export.graphs_linear import export_linear
from pipelines.training.encoding import Encoder, OneHot
from pipelines.training.inputs import Inputs
from pipelines.training.linear import LinearModel
from pipelines.triton_repository import Repository
from servicekit.settings import checkout_root

ENCODER = Encoder(Inputs.of_names(("a", "b"), ("code",)), (OneHot("code", np.array([0]), np.array([7])),))


@pytest.fixture(scope="session")
def log(kafka: str) -> str:
    """Kafka with the topic `decisions`."""
    create_topics(kafka, declared_topics(checkout_root() / "infra" / "kafka" / "topics.yaml", ["films"]))
    return kafka


@pytest.fixture
def repository(triton_repository: Path) -> Repository:
    """Where the running Triton looks."""
    return Repository(triton_repository, checkout_root() / "infra" / "triton")


@pytest.fixture
def make_bundle() -> Callable[[Path, str, int], Bundle]:
    """`make_bundle(folder, name, version)`: below `folder/bundles`; name is the model's and the use case's."""
    return _made


def _made(folder: Path, name: str, version: int) -> Bundle:
    """A small model with an integer input; each version scores otherwise."""
    model = LinearModel(
        logged=np.zeros(3, bool),
        center=np.zeros(3),
        scale=np.ones(3),
        step_columns=np.zeros(1, np.int64),
        edges=np.zeros(1, np.float32),
        weights=np.array([0.5, -0.5, 1.0, 0.2]),
        bias=0.1 * version,
    )
    graph = folder / f"{version}.onnx"
    export_linear(model, ENCODER, graph)
    features = np.random.default_rng(version).normal(size=(40, 2)).astype(np.float32)
    ints = np.tile([[7], [0]], (20, 1))
    scores = OnnxScorer(graph).score(features, ints)
    Golden(features, ints, scores, scores).save(folder / "golden.npz")
    manifest = Manifest(
        name=name, version=version, usecase=name, revision=1, layout_hash=1, feature_names=("a", "b"),
        int_names=("code",), window=TrainingWindow(from_us=0, to_us=1), commit="unknown", seeds=(0,), dataset="none",
        data_hash="00", metrics={}, parity={}, created_us=1,
    )  # fmt: skip
    target = folder / "bundles" / name / str(version)
    write_bundle(target, manifest, {"model.onnx": graph, "fallback.onnx": graph, "golden.npz": folder / "golden.npz"})
    return load_bundle(target)
