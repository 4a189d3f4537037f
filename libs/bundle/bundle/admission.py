"""Which ONNX graphs may be served: one self-contained file, known operators, bounded size.

Reads the protobuf wire format itself (field numbers of onnx.proto, IR version 3 to 13), so that serving checks what
it loads without carrying the `onnx` package.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet

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


def check_graph(path: Path) -> None:
    """Refuse `path` unless it is one self-contained ONNX graph of known operators.

    Raises:
        AdmissionError: not ONNX, too large, external data, a foreign domain or operator, model-local functions.
    """
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise AdmissionError(f"{path.name}: {size} bytes, at most {MAX_BYTES} are served; train a smaller model")
    try:
        _check_model(path.name, path.read_bytes())
    except (DecodeError, UnicodeDecodeError, TypeError, AttributeError) as exc:
        raise AdmissionError(f"{path.name}: is no ONNX file; export the model again") from exc


def _check_model(name: str, raw: bytes) -> None:
    graphs = 0
    for number, value in _fields(raw):
        if number == 7:  # ModelProto.graph
            graphs += 1
            _check_graph(name, value)
        elif number == 8:  # opset_import
            _check_domain(name, _text(value, 1))
        elif number in (20, 25):  # training_info, functions
            raise AdmissionError(f"{name}: holds training info or local functions; export with functions inlined")
    if graphs != 1:
        raise AdmissionError(f"{name}: is no ONNX file; export the model again")


def _check_graph(name: str, raw: bytes) -> None:
    for number, value in _fields(raw):
        if number == 1:  # node
            _check_node(name, value)
        elif number == 5:  # initializer
            _check_tensor(name, value)
        elif number == 15:  # sparse_initializer
            raise AdmissionError(f"{name}: holds a sparse tensor; export dense weights")


def _check_node(name: str, raw: bytes) -> None:
    operator = _text(raw, 4)
    _check_domain(name, _text(raw, 7))
    if operator not in OPERATORS:
        raise AdmissionError(f"{name}: operator {operator!r} is not on the allow-list of bundle.admission")
    for number, attribute in _fields(raw):
        if number != 5:
            continue
        for kind, value in _fields(attribute):
            if kind in (5, 10):  # tensor, tensors
                _check_tensor(name, value)
            elif kind in (6, 11, 22, 23):  # graphs, sparse tensors
                raise AdmissionError(f"{name}: operator {operator!r} holds a graph or a sparse tensor")


def _check_tensor(name: str, raw: bytes) -> None:
    for number, value in _fields(raw):
        if number == 13 or (number == 14 and value == _EXTERNAL):
            raise AdmissionError(f"{name}: weights lie in another file; export with external_data=False")


def _check_domain(name: str, domain: str) -> None:
    if domain not in DOMAINS:
        raise AdmissionError(f"{name}: operators of domain {domain!r} are not served, only ai.onnx and ai.onnx.ml")


def _fields(raw: bytes) -> Iterator[tuple[int, Any]]:
    """(field number, value) of one message; varints come as int, messages and strings as bytes."""
    message = Empty()
    message.ParseFromString(raw)
    fields: Any = UnknownFieldSet(message)  # its stub knows no iteration
    for field in fields:
        yield field.field_number, field.data


def _text(raw: bytes, number: int) -> str:
    return next((value.decode() for found, value in _fields(raw) if found == number), "")
