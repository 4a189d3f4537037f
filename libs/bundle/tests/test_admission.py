"""Only self-contained graphs of known operators are served."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from bundle import AdmissionError, OnnxScorer, admission
from onnx import TensorProto, helper

Linear = Callable[..., Path]


def test_a_plain_graph_is_admitted(tmp_path: Path, linear: Linear) -> None:
    """The check passes what the rest of the project serves."""
    admission.check_graph(linear(tmp_path / "m.onnx", [1.0, 2.0]))


def test_a_foreign_domain_is_refused(tmp_path: Path, linear: Linear) -> None:
    """Custom operators are native code from elsewhere."""
    path = linear(tmp_path / "m.onnx", [1.0], nodes=[helper.make_node("Gelu", ["logit"], ["score"], domain="com.evil")])
    with pytest.raises(AdmissionError, match=r"com\.evil"):
        admission.check_graph(path)


@pytest.mark.parametrize("operator", ["RandomUniformLike", "StringNormalizer"])
def test_an_operator_that_is_not_listed_is_refused(tmp_path: Path, linear: Linear, operator: str) -> None:
    """The list allows; everything else is refused, by name."""
    path = linear(tmp_path / "m.onnx", [1.0], nodes=[helper.make_node(operator, ["logit"], ["score"])])
    with pytest.raises(AdmissionError, match=operator):
        admission.check_graph(path)


def test_external_weights_are_refused(tmp_path: Path, linear: Linear) -> None:
    """A graph that reads another file is not the file whose hash was checked."""
    model = onnx.load(linear(tmp_path / "m.onnx", [1.0]))
    onnx.save(model, tmp_path / "e.onnx", save_as_external_data=True, location="w.data", size_threshold=0)
    with pytest.raises(AdmissionError, match="another file"):
        admission.check_graph(tmp_path / "e.onnx")


def test_external_weights_inside_a_constant_are_refused(tmp_path: Path, linear: Linear) -> None:
    """Tensors hide in attributes too."""
    tensor = TensorProto(data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL, name="t")
    tensor.external_data.add(key="location", value="/etc/passwd")
    nodes = [helper.make_node("Constant", [], ["c"], value=tensor), helper.make_node("Add", ["logit", "c"], ["score"])]
    with pytest.raises(AdmissionError, match="another file"):
        admission.check_graph(linear(tmp_path / "m.onnx", [1.0], nodes=nodes))


def test_control_flow_is_refused(tmp_path: Path, linear: Linear) -> None:
    """A loop has no bound on its time."""
    body = helper.make_graph([], "b", [], [])
    path = linear(tmp_path / "m.onnx", [1.0], nodes=[helper.make_node("Loop", ["", "logit"], ["score"], body=body)])
    with pytest.raises(AdmissionError, match="Loop"):
        admission.check_graph(path)


def test_a_graph_within_an_allowed_operator_is_refused(tmp_path: Path, linear: Linear) -> None:
    """Whatever the operator's name: nothing is looked at inside."""
    inner = helper.make_graph([], "b", [], [])
    path = linear(tmp_path / "m.onnx", [1.0], nodes=[helper.make_node("Identity", ["logit"], ["score"], body=inner)])
    with pytest.raises(AdmissionError, match="Identity"):
        admission.check_graph(path)


def test_a_field_that_is_said_twice_is_looked_at_twice(tmp_path: Path, linear: Linear) -> None:
    """Of a field of one value a runtime takes the last that the file has."""
    model = onnx.load(linear(tmp_path / "m.onnx", [1.0]))
    said = helper.make_node("Sigmoid", ["logit"], ["score"]).SerializeToString()
    node = said + onnx.NodeProto(op_type="Loop").SerializeToString()
    assert onnx.NodeProto.FromString(node).op_type == "Loop"
    del model.graph.node[-1]
    graph = model.graph.SerializeToString() + bytes([1 << 3 | 2, len(node)]) + node
    model.ClearField("graph")
    twice = model.SerializeToString() + b"\x3a" + _length(len(graph)) + graph
    assert onnx.ModelProto.FromString(twice).graph.node[-1].op_type == "Loop"
    (tmp_path / "m.onnx").write_bytes(twice)
    with pytest.raises(AdmissionError, match="Loop"):
        admission.check_graph(tmp_path / "m.onnx")


def _length(size: int) -> bytes:
    """A varint of two bytes."""
    assert 128 <= size < 1 << 14
    return bytes([size & 0x7F | 0x80, size >> 7])


def test_an_oversized_file_is_refused(tmp_path: Path, linear: Linear, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cap is checked before anything is read."""
    monkeypatch.setattr(admission, "MAX_BYTES", 10)
    with pytest.raises(AdmissionError, match="at most 10"):
        admission.check_graph(linear(tmp_path / "m.onnx", [1.0]))


@pytest.mark.parametrize("raw", [b"", b"no model", bytes(range(256)), b"\x08\x01"])
def test_other_bytes_are_refused(tmp_path: Path, raw: bytes) -> None:
    """Whatever is no ONNX file is named as such, not as a crash of the parser."""
    (tmp_path / "m.onnx").write_bytes(raw)
    with pytest.raises(AdmissionError, match="no ONNX file"):
        admission.check_graph(tmp_path / "m.onnx")


def test_a_graph_with_other_outputs_is_refused(tmp_path: Path) -> None:
    """Serving knows inputs and outputs by name."""
    graph = helper.make_graph(
        [helper.make_node("Sigmoid", ["features"], ["probability"])],
        "g",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, [None, 1])],
        [helper.make_tensor_value_info("probability", TensorProto.FLOAT, [None, 1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(AdmissionError, match="probability"):
        OnnxScorer(tmp_path / "m.onnx")


def test_integer_columns_are_fed_and_checked(tmp_path: Path) -> None:
    """A graph with int_features gets int64 (n, K), or says that it needs them."""
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["int_features"], ["f"], to=TensorProto.FLOAT),
            helper.make_node("Add", ["features", "f"], ["score"]),
        ],
        "g",
        [
            helper.make_tensor_value_info("features", TensorProto.FLOAT, [None, 1]),
            helper.make_tensor_value_info("int_features", TensorProto.INT64, [None, 1]),
        ],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, [None, 1])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), tmp_path / "m.onnx")
    scorer = OnnxScorer(tmp_path / "m.onnx")

    scores = scorer.score(np.array([[0.5], [1.5]], np.float32), np.array([[2], [3]], np.int64))

    np.testing.assert_array_equal(np.array([2.5, 4.5], np.float32), scores)
    with pytest.raises(Exception, match="int_features are absent"):
        scorer.score(np.array([[0.5]], np.float32))
