"""Runs model.onnx, which lies beside this file, in Triton's Python backend (whose wheel has no ONNX backend)."""

import os
import sys

# The stub ignores PYTHONPATH, so the packages of its environment are named by MODEL_SITE, before anything is imported.
sys.path[:0] = [path for path in os.environ.get("MODEL_SITE", "").split(":") if path]

from pathlib import Path  # noqa: E402

import numpy as np  # noqa: E402
import onnxruntime as ort  # noqa: E402
import triton_python_backend_utils as pb_utils  # noqa: E402


class TritonPythonModel:
    """One ONNX Runtime session an instance."""

    def initialize(self, args):
        """Load the graph of this version."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1  # instances are the parallelism
        options.inter_op_num_threads = 1
        folder = Path(args["model_repository"]) / args["model_version"]
        graph = (folder / "model.onnx").read_bytes()
        self._session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self._inputs = [each.name for each in self._session.get_inputs()]
        self._outputs = [each.name for each in self._session.get_outputs()]  # `score`, perhaps `heads`

    def execute(self, requests):
        """Concatenate the requests' rows, run the graph once, split the scores again."""
        parts = [
            [pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in self._inputs]
            for request in requests
        ]
        together = parts[0] if len(parts) == 1 else map(np.concatenate, zip(*parts, strict=True))
        feed = dict(zip(self._inputs, together, strict=True))
        try:
            outputs = self._session.run(self._outputs, feed)
        except Exception as exc:  # noqa: BLE001 - whatever it is, the callers must be answered
            error = pb_utils.TritonError(f"ONNX Runtime: {exc}")
            return [pb_utils.InferenceResponse(error=error) for _ in requests]
        ends = np.cumsum([len(part[0]) for part in parts])
        split = [np.split(output, ends[:-1]) for output in outputs]
        return [
            pb_utils.InferenceResponse([pb_utils.Tensor(*each) for each in zip(self._outputs, rows, strict=True)])
            for rows in zip(*split, strict=True)
        ]
