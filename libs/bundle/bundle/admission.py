"""Which ONNX graphs may be served: one self-contained file, known operators, bounded size.

Parses the fields of onnx.proto that decide (their numbers of IR version 3 to 13), so that serving checks what it loads
without carrying the `onnx` package. The rest, weights and trees, never becomes a Python object: a gateway does this
while it answers requests, and is silent for as long as one thread holds the interpreter.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

from bundle.errors import AdmissionError

MAX_BYTES = 512 * 2**20  # a protobuf ends at 2 GiB; ours are some MB
DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml"})
# No control flow (unbounded time), no randomness (audit recomputes bits), no strings (ids arrive as codes).
_ALLOWED = """
    Abs Add And ArgMax ArgMin ArrayFeatureExtractor BatchNormalization Cast CastLike Ceil Clip Concat Constant
    ConstantOfShape CumSum Div Einsum Equal Erf Exp Expand Flatten Floor FeatureVectorizer Gather GatherElements
    GatherND Gelu Gemm Greater GreaterOrEqual Identity Imputer IsInf IsNaN LayerNormalization LeakyRelu Less
    LessOrEqual LinearClassifier LinearRegressor Log LogSoftmax MatMul Max Mean Min Mod Mul Neg Normalizer Not
    OneHot OneHotEncoder Or PRelu Pad Pow Range Reciprocal ReduceL1 ReduceL2 ReduceLogSumExp ReduceMax ReduceMean
    ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Round Scaler ScatterElements ScatterND Shape
    Sigmoid Sign Slice Softmax Softplus Split Sqrt Squeeze Sub Sum Tanh Tile TopK Transpose TreeEnsemble
    TreeEnsembleClassifier TreeEnsembleRegressor Trilu Unsqueeze Where Xor
"""
OPERATORS = frozenset(_ALLOWED.split())
_EXTERNAL = 1  # TensorProto.DataLocation.EXTERNAL


_PACKAGE: Final = "millrace.admission"
_BYTES, _TEXT, _NUMBER = (
    FieldDescriptorProto.TYPE_BYTES,
    FieldDescriptorProto.TYPE_STRING,
    FieldDescriptorProto.TYPE_INT64,
)
# message -> field -> (number, type). All are repeated: the format lets a file say a single field twice, and runtimes
# take the last or merge them, so every one of them is looked at.
_SCHEMA: Final[dict[str, dict[str, tuple[int, int | str]]]] = {
    "Model": {"graph": (7, "Graph"), "opset": (8, "Opset"), "training": (20, _BYTES), "function": (25, _BYTES)},
    "Opset": {"domain": (1, _TEXT)},
    "Graph": {"node": (1, "Node"), "initializer": (5, "Tensor"), "sparse": (15, _BYTES)},
    "Node": {"operator": (4, _TEXT), "attribute": (5, "Attribute"), "domain": (7, _TEXT)},
    "Attribute": {
        "tensor": (5, "Tensor"), "tensors": (10, "Tensor"), "graph": (6, _BYTES), "graphs": (11, _BYTES),
        "sparse": (22, _BYTES), "sparses": (23, _BYTES),
    },
    "Tensor": {"external": (13, _BYTES), "location": (14, _NUMBER)},
}  # fmt: skip


def check_graph(path: Path) -> None:
    """Refuse `path` unless it is one self-contained ONNX graph of known operators.

    Raises:
        AdmissionError: not ONNX, too large, external data, a foreign domain or operator, model-local functions.
    """
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise AdmissionError(f"{path.name}: {size} bytes, at most {MAX_BYTES} are served; train a smaller model")
    model = _MODEL()
    try:
        model.ParseFromString(path.read_bytes())
    except DecodeError as exc:
        raise AdmissionError(f"{path.name}: is no ONNX file; export the model again") from exc
    _check_model(path.name, model)


def _check_model(name: str, model: Any) -> None:
    if len(model.graph) != 1:
        raise AdmissionError(f"{name}: is no ONNX file; export the model again")
    if model.training or model.function:
        raise AdmissionError(f"{name}: holds training info or local functions; export with functions inlined")
    _check_domains(name, (domain for opset in model.opset for domain in opset.domain))
    (graph,) = model.graph
    if graph.sparse:
        raise AdmissionError(f"{name}: holds a sparse tensor; export dense weights")
    _check_tensors(name, graph.initializer)
    for node in graph.node:
        _check_node(name, node)


def _check_node(name: str, node: Any) -> None:
    _check_domains(name, node.domain)
    for operator in node.operator or [""]:
        if operator not in OPERATORS:
            raise AdmissionError(f"{name}: operator {operator!r} is not on the allow-list of bundle.admission")
    for each in node.attribute:
        _check_tensors(name, (*each.tensor, *each.tensors))
        if each.graph or each.graphs or each.sparse or each.sparses:
            raise AdmissionError(f"{name}: operator {node.operator[-1]!r} holds a graph or a sparse tensor")


def _check_tensors(name: str, tensors: Iterable[Any]) -> None:
    if any(each.external or _EXTERNAL in each.location for each in tensors):
        raise AdmissionError(f"{name}: weights lie in another file; export with external_data=False")


def _check_domains(name: str, domains: Iterable[str]) -> None:
    for domain in domains:
        if domain not in DOMAINS:
            raise AdmissionError(f"{name}: operators of domain {domain!r} are not served, only ai.onnx and ai.onnx.ml")


def _model_class() -> Any:
    """The message class of `_SCHEMA`'s Model."""
    file = FileDescriptorProto(name="millrace/admission.proto", package=_PACKAGE, syntax="proto3")
    for message, fields in _SCHEMA.items():
        declared = file.message_type.add(name=message)
        for field, (number, kind) in fields.items():
            one = declared.field.add(name=field, number=number, label=FieldDescriptorProto.LABEL_REPEATED)
            if isinstance(kind, str):
                one.type, one.type_name = FieldDescriptorProto.TYPE_MESSAGE, f".{_PACKAGE}.{kind}"
            else:
                one.type = FieldDescriptorProto.Type.ValueType(kind)
    pool = DescriptorPool()
    pool.Add(file)
    return GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.Model"))


_MODEL: Final = _model_class()
