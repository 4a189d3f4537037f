"""Where graphs run: the CPU here, and words for a machine without a GPU."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from bundle import DeviceError, OnnxScorer, bucket_of
from bundle.devices import check_device, providers_of
from onnx import TensorProto, helper


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """score = sum of two columns."""
    features = helper.make_tensor_value_info("features", TensorProto.FLOAT, ["rows", 2])
    score = helper.make_tensor_value_info("score", TensorProto.FLOAT, ["rows", 1])
    axes = helper.make_tensor("axes", TensorProto.INT64, [1], [1])
    node = helper.make_node("ReduceSum", ["features", "axes"], ["score"], keepdims=1)
    made = helper.make_model(
        helper.make_graph([node], "sum", [features], [score], [axes]), opset_imports=[helper.make_opsetid("", 17)]
    )
    made.ir_version = 9
    path = tmp_path / "model.onnx"
    onnx.save(made, path)
    return path


def test_rows_are_padded_to_what_was_warmed_up() -> None:
    """100 candidates are a call of 128 rows, 2,000 the largest; what is larger stays as it is."""
    assert [128, 128, 256, 2048, 5000] == [bucket_of(rows) for rows in (1, 128, 129, 2000, 5000)]


def test_the_cpu_is_the_default(graph: Path) -> None:
    """And asking for it by name is the same."""
    rows = np.array([[1, 2], [3, 4]], np.float32)

    assert [3.0, 7.0] == OnnxScorer(graph).score(rows).tolist() == OnnxScorer(graph, device="cpu").score(rows).tolist()


@pytest.mark.skipif("CUDAExecutionProvider" in ort.get_available_providers(), reason="this ONNX Runtime has CUDA")
def test_a_device_that_is_not_there_is_said_with_the_remedy(graph: Path) -> None:
    """Never a silent fall back to the CPU: a night's scores would be late, and nobody would know why."""
    for device in ("cuda", "tensorrt"):
        with pytest.raises(DeviceError, match="make gpu"):
            OnnxScorer(graph, device=device)


def test_a_session_that_fell_back_is_refused(graph: Path) -> None:
    """ONNX Runtime says so in its log only, where CUDA's libraries are missing."""
    session = ort.InferenceSession(graph.read_bytes(), providers=providers_of("cpu"))

    check_device(session, "cpu")
    with pytest.raises(DeviceError, match="nvidia-smi"):
        check_device(session, "cuda")
