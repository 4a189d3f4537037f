"""MLflow's aliases: what is trained challenges, what the gate says yes to is champion; both checked by bytes."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from bundle import Bundle, Golden, Manifest, OnnxScorer, TrainingWindow, load_bundle, write_bundle
from onnx import TensorProto, helper, numpy_helper
from pipelines.errors import RegistryError
from pipelines.registry import CHALLENGER, CHAMPION, champion_version, crown, register

pytestmark = pytest.mark.real  # MLflow makes its database in seconds

Write = Callable[[int], Bundle]


def _graph(path: Path, weights: np.ndarray) -> Path:
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["features", "w"], ["score"])],
        "linear",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, [None, len(weights)])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, [None, 1])],
        [numpy_helper.from_array(weights.astype(np.float32)[:, None], "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One registry for all tests: making its database is most of the time."""
    return tmp_path_factory.mktemp("registry")


@pytest.fixture
def write(folder: Path) -> Write:
    """Writes version v of a model whose weights are all v, once."""

    def written(version: int) -> Bundle:
        target = folder / "bundles" / "tiny" / str(version)
        if target.exists():
            return load_bundle(target)
        features = np.random.default_rng(version).normal(size=(4, 300)).astype(np.float32)
        model = _graph(folder / "model.onnx", np.full(300, version))
        scores = OnnxScorer(model).score(features)
        Golden(features, np.empty((4, 0), np.int64), scores, scores).save(folder / "golden.npz")
        manifest = Manifest(
            name="tiny", version=version, usecase="tiny", revision=1, layout_hash=1,
            feature_names=tuple(f"f{i}" for i in range(300)), window=TrainingWindow(from_us=0, to_us=1),
            commit="unknown", seeds=(0,), dataset="none", data_hash="00", metrics={"lr": {"auc": 0.5}}, parity={},
            created_us=1,
        )  # fmt: skip
        write_bundle(
            target, manifest, {"model.onnx": model, "fallback.onnx": model, "golden.npz": folder / "golden.npz"}
        )
        return load_bundle(target)

    return written


def test_a_second_registration_keeps_its_weights_too(folder: Path, write: Write) -> None:
    """`mlflow.onnx` loses them in the second `log_model` of a process; ours gives both back, and scores both."""
    first, second = register(folder, write(1), {"seed": 0}), register(folder, write(2), {"seed": 0})

    assert (CHALLENGER, CHALLENGER, first.version + 1) == (first.alias, second.alias, second.version)


def test_promotion_and_rollback_move_the_champion(folder: Path, write: Write) -> None:
    """Nothing is champion by being trained; a rollback points at the former version again."""
    for version in (1, 2):
        register(folder, write(version), {})
    assert champion_version(folder, "other") is None

    assert CHAMPION == crown(folder, write(1)).alias
    crown(folder, write(2))
    assert 2 == champion_version(folder, "tiny")
    crown(folder, write(1))
    assert 1 == champion_version(folder, "tiny")


def test_what_nobody_registered_is_no_champion(folder: Path, write: Write) -> None:
    """By its digest, not by its name and version."""
    register(folder, write(1), {})

    with pytest.raises(RegistryError, match="trained elsewhere"):
        crown(folder, write(9))


def test_an_artifact_that_changed_in_the_registry_is_found(folder: Path, write: Write) -> None:
    """Before the alias moves: the former champion stays."""
    register(folder, write(1), {})
    crown(folder, write(1))
    register(folder, write(3), {})
    for path in (folder / "artifacts").rglob("manifest.json"):
        if '"version": 3,' in path.read_text():
            (path.parent / "model.onnx").write_bytes(b"something else")

    with pytest.raises(RegistryError, match=r"model\.onnx: changed"):
        crown(folder, write(3))
    assert 1 == champion_version(folder, "tiny")
