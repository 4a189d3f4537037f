"""One ONNX graph in this process: ONNX Runtime, on CPU unless a GPU is asked for."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from bundle.devices import Device, check_device, providers_of
from bundle.errors import AdmissionError, ScoringError

FEATURES = "features"
INT_FEATURES = "int_features"
SCORE = "score"
HEADS = "heads"
_ERRORS_ONLY = 3


def open_graph(path: Path, threads: int = 1, device: Device = "cpu") -> ort.InferenceSession:
    """A session of the graph in a file. AdmissionError where ONNX Runtime cannot load it, DeviceError without a GPU."""
    # From bytes: a graph cannot reach for a file beside it.
    return open_bytes(path.read_bytes(), path.name, threads, device)


def open_bytes(graph: bytes, name: str, threads: int = 1, device: Device = "cpu") -> ort.InferenceSession:
    """The same of a graph in memory; `name` is what an error calls it."""
    providers = providers_of(device)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY
    try:
        session = ort.InferenceSession(graph, options, providers=providers)
    except Exception as exc:  # ONNX Runtime raises a dozen unrelated types
        raise AdmissionError(f"{name}: ONNX Runtime cannot load it ({exc}); export the model again") from exc
    check_device(session, device)
    return session


class OnnxScorer:
    """Scores candidate rows with one graph. Thread-safe: ONNX Runtime sessions are; the GIL is free meanwhile.

    Raises:
        AdmissionError: ONNX Runtime cannot load the graph, or its inputs and outputs are not ours.
        DeviceError: the device is not there.
    """

    def __init__(self, path: Path, threads: int = 1, device: Device = "cpu") -> None:
        self._session = open_graph(path, threads, device)
        self._name = path.name
        inputs = {i.name: i for i in self._session.get_inputs()}
        outputs = {o.name: o for o in self._session.get_outputs()}
        if not set(inputs) <= {FEATURES, INT_FEATURES} or FEATURES not in inputs or outputs.keys() - {HEADS} != {SCORE}:
            raise AdmissionError(
                f"{path.name}: inputs {sorted(inputs)} and outputs {sorted(outputs)}; expected `{FEATURES}`, "
                f"perhaps `{INT_FEATURES}`, and `{SCORE}`, perhaps `{HEADS}`"
            )
        _expect(path.name, inputs[FEATURES], "tensor(float)")
        for output in outputs.values():
            _expect(path.name, output, "tensor(float)")
        self.heads: int = int(outputs[HEADS].shape[1]) if HEADS in outputs else 0
        self.columns: int = int(inputs[FEATURES].shape[1])
        self.int_columns: int = 0
        if INT_FEATURES in inputs:
            _expect(path.name, inputs[INT_FEATURES], "tensor(int64)")
            self.int_columns = int(inputs[INT_FEATURES].shape[1])

    def score(
        self, features: npt.NDArray[np.float32], ints: npt.NDArray[np.int64] | None = None
    ) -> npt.NDArray[np.float32]:
        """Scores of n candidate rows.

        Args:
            features: float32 (n, F), the layout's float columns in order.
            ints: int64 (n, K), the manifest's `int_names`; ignored by a graph that takes none.

        Returns:
            float32 (n,), a fresh array; may hold NaN if the graph gives it (callers that serve must check).

        Raises:
            ScoringError: wrong shape or type, or ONNX Runtime failed.
        """
        return self._run(SCORE, 1, features, ints)[:, 0]

    def predictions(
        self, features: npt.NDArray[np.float32], ints: npt.NDArray[np.int64] | None = None
    ) -> npt.NDArray[np.float32]:
        """What is served of n candidate rows: float32 (n, heads), to be weighted; of a graph without heads `score`."""
        return self._run(HEADS, self.heads, features, ints) if self.heads else self.score(features, ints)

    def _run(
        self, output: str, width: int, features: npt.NDArray[np.float32], ints: npt.NDArray[np.int64] | None
    ) -> npt.NDArray[np.float32]:
        if features.ndim != 2 or features.shape[1] != self.columns or features.dtype != np.float32:
            raise ScoringError(
                f"{self._name}: features are {features.dtype} {features.shape}, expected float32 (n, {self.columns})"
            )
        feed: dict[str, npt.NDArray[np.generic]] = {FEATURES: features}
        if self.int_columns:
            if ints is None or ints.shape != (len(features), self.int_columns) or ints.dtype != np.int64:
                found = "absent" if ints is None else f"{ints.dtype} {ints.shape}"
                raise ScoringError(
                    f"{self._name}: int_features are {found}, expected int64 ({len(features)}, {self.int_columns})"
                )
            feed[INT_FEATURES] = ints
        if len(features) == 0:
            return np.empty((0, width), np.float32)
        try:
            scores = np.asarray(self._session.run([output], feed)[0])
        except Exception as exc:  # ONNX Runtime raises a dozen unrelated types
            raise ScoringError(f"{self._name}: ONNX Runtime failed ({exc})") from exc
        if scores.shape != (len(features), width) or scores.dtype != np.float32:
            raise ScoringError(
                f"{self._name}: `{output}` is {scores.dtype} {scores.shape}, expected float32 (n, {width})"
            )
        return scores


def _expect(name: str, tensor: ort.NodeArg, kind: str) -> None:
    if tensor.type != kind or len(tensor.shape) != 2 or not isinstance(tensor.shape[1], int):
        raise AdmissionError(f"{name}: {tensor.name} is {tensor.type} {tensor.shape}, expected {kind} [rows, columns]")
