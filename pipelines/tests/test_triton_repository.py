"""The repository changes by rename, and its configuration is the manifest's and the profile's."""

from pathlib import Path

import numpy as np
import pytest
from bundle import Bundle, Golden, Manifest, OnnxScorer, TrainingWindow, load_bundle, write_bundle
from google.protobuf import text_format
from pipelines.errors import DeployError
from pipelines.export.graphs_linear import export_linear
from pipelines.settings import TritonProfile
from pipelines.training.encoding import Encoder, OneHot
from pipelines.training.inputs import Inputs
from pipelines.training.linear import LinearModel
from pipelines.triton_repository import Repository
from servicekit.settings import checkout_root
from tritonclient.grpc import model_config_pb2

ENCODER = Encoder(Inputs.of_names(("a", "b"), ("code",)), (OneHot("code", np.array([0]), np.array([7])),))


def make_bundle(folder: Path, version: int = 1, bias: float = 0.0) -> Bundle:
    model = LinearModel(
        np.zeros(3, bool), np.zeros(3), np.ones(3), np.zeros(1, np.int64), np.zeros(1, np.float32), np.ones(4), bias
    )
    path = folder / f"{version}-{bias}.onnx"
    export_linear(model, ENCODER, path)
    features = np.linspace(0, 1, 8, dtype=np.float32).reshape(4, 2)
    ints = np.array([[7], [0], [7], [1]])
    scores = OnnxScorer(path).score(features, ints)
    Golden(features, ints, scores, scores).save(folder / "golden.npz")
    manifest = Manifest(
        name="films", version=version, usecase="films", revision=1, layout_hash=1, feature_names=("a", "b"),
        int_names=("code",), window=TrainingWindow(from_us=0, to_us=1), commit="unknown", seeds=(0,), dataset="none",
        data_hash="00", metrics={}, parity={}, created_us=1,
    )  # fmt: skip
    target = folder / "bundles" / f"{version}-{bias}"
    write_bundle(target, manifest, {"model.onnx": path, "fallback.onnx": path, "golden.npz": folder / "golden.npz"})
    return load_bundle(target)


def repository(folder: Path, profile: TritonProfile = "python") -> Repository:
    return Repository(folder / "models", checkout_root() / "infra" / "triton", profile)


def parsed(text: str) -> model_config_pb2.ModelConfig:
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def test_a_version_appears_whole(tmp_path: Path) -> None:
    """Graph and wrapper are in place, nothing temporary is left; a second time changes nothing."""
    bundle, models = make_bundle(tmp_path), repository(tmp_path)

    assert models.add(bundle)
    assert not models.add(bundle)

    assert ["1"] == [path.name for path in (tmp_path / "models" / "films").iterdir()]
    assert {"model.onnx", "model.py"} == {path.name for path in (tmp_path / "models" / "films" / "1").iterdir()}
    assert [1] == models.versions("films")


def test_another_model_under_the_same_version_is_refused(tmp_path: Path) -> None:
    """A version means one model for ever."""
    models = repository(tmp_path)
    models.add(make_bundle(tmp_path))
    with pytest.raises(DeployError, match="another model"):
        models.add(make_bundle(tmp_path, bias=1.0))


def test_the_configuration_is_what_triton_parses(tmp_path: Path) -> None:
    """Rows are the batch dimension, no delay, exactly the live versions."""
    config = parsed(repository(tmp_path).render(make_bundle(tmp_path).manifest, [4, 3]))

    assert ("films", "python", 8192) == (config.name, config.backend, config.max_batch_size)
    assert [3, 4] == list(config.version_policy.specific.versions)
    assert config.dynamic_batching.max_queue_delay_microseconds == 0
    assert config.dynamic_batching.default_queue_policy.allow_timeout_override
    assert {("features", 2), ("int_features", 1)} == {(each.name, each.dims[0]) for each in config.input}
    assert [("score", 1)] == [(each.name, each.dims[0]) for each in config.output]


@pytest.mark.parametrize(
    ("profile", "kind"),
    [("onnxruntime_cpu", "KIND_CPU"), ("onnxruntime_gpu", "KIND_GPU"), ("onnxruntime_tensorrt", "KIND_GPU")],
)
def test_the_image_runs_the_graph_itself(tmp_path: Path, profile: TritonProfile, kind: str) -> None:
    """No Python backend in production; both backends read one template, with the same queue and the same tensors."""
    models = repository(tmp_path, profile)
    bundle = make_bundle(tmp_path)
    models.add(bundle)

    config = parsed(models.render(bundle.manifest, [1]))
    native = parsed(repository(tmp_path).render(bundle.manifest, [1]))

    assert ("onnxruntime", "model.onnx") == (config.backend, config.default_model_filename)
    assert kind == model_config_pb2.ModelInstanceGroup.Kind.Name(config.instance_group[0].kind)
    assert not (tmp_path / "models" / "films" / "1" / "model.py").exists()
    assert native.dynamic_batching.default_queue_policy == config.dynamic_batching.default_queue_policy
    assert (list(native.input), list(native.output)) == (list(config.input), list(config.output))


@pytest.mark.parametrize("profile", ["onnxruntime_gpu", "onnxruntime_tensorrt"])
def test_a_gpu_is_warmed_for_every_padded_size(tmp_path: Path, profile: TritonProfile) -> None:
    """Batches are of padded sizes, each has met the GPU before the version is ready, and memory is bounded."""
    config = parsed(repository(tmp_path, profile).render(make_bundle(tmp_path).manifest, [1]))

    sizes = [128, 256, 512, 1024, 2048]
    assert sizes == list(config.dynamic_batching.preferred_batch_size)
    assert sizes == [each.batch_size for each in config.model_warmup]
    assert {"features", "int_features"} == set(config.model_warmup[0].inputs)
    assert str(2**31) == config.parameters["gpu_mem_limit"].string_value
    assert config.dynamic_batching.max_queue_delay_microseconds == 0


def test_tensorrt_has_one_profile_of_all_inputs(tmp_path: Path) -> None:
    """An input without one would build an engine for each new size; precision stays that of the parity bar."""
    bundle = make_bundle(tmp_path)
    config = parsed(repository(tmp_path, "onnxruntime_tensorrt").render(bundle.manifest, [1]))
    plain = parsed(repository(tmp_path, "onnxruntime_gpu").render(bundle.manifest, [1]))

    (accelerator,) = config.optimization.execution_accelerators.gpu_execution_accelerator
    assert accelerator.name == "tensorrt"
    assert accelerator.parameters["precision_mode"] == "FP32"
    assert accelerator.parameters["trt_profile_min_shapes"] == "features:1x2,int_features:1x1"
    assert accelerator.parameters["trt_profile_max_shapes"] == "features:8192x2,int_features:8192x1"
    assert not plain.HasField("optimization")


def test_on_a_cpu_instances_are_the_parallelism(tmp_path: Path) -> None:
    """The image's backend would take every core for each of its two instances."""
    config = parsed(repository(tmp_path, "onnxruntime_cpu").render(make_bundle(tmp_path).manifest, [1]))

    assert ["1", "1"] == [config.parameters[f"{kind}_op_thread_count"].string_value for kind in ("intra", "inter")]
    assert not config.model_warmup
    assert not config.dynamic_batching.preferred_batch_size


def test_a_configuration_is_put_back(tmp_path: Path) -> None:
    """What a refused deploy changed is undone, byte for byte, or to nothing."""
    bundle, models = make_bundle(tmp_path), repository(tmp_path)
    models.add(bundle)
    assert models.read_config("films") is None
    models.configure(bundle.manifest, [1])
    before = models.read_config("films")
    models.configure(bundle.manifest, [1, 2])

    models.restore_config("films", before)
    assert before == models.read_config("films")
    models.restore_config("films", None)
    assert models.read_config("films") is None
    models.remove("films", 1)
    assert models.versions("films") == []
