"""Talks to Triton over gRPC: loads and unloads versions, asks what is ready, scores rows.

A call to `ModelInfer` is never cancelled and has no deadline on the wire: Triton 2.51 crashes on either
(triton-inference-server/server#7368). Waiting ends on our side only; the call runs on in its thread.
"""

import concurrent.futures
import threading
import time
from collections.abc import Iterable
from types import TracebackType

import numpy as np
import numpy.typing as npt
from bundle import Manifest
from tritonclient.grpc import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

from pipelines.errors import DeployError, UnavailableError

CONTROL_S = 60.0  # a load reads the graph and starts its instances; 0.4 to 3 s were seen
INFER_S = 30.0
POLL_S = 0.05
_QUEUE_TIMEOUT_US = 10_000_000  # golden rows may wait behind traffic, which the 20 ms default would not let them
_DTYPES = {"float32": "FP32", "int64": "INT64"}


class Triton:
    """One server. A context manager; usable from one thread."""

    def __init__(self, target: str) -> None:
        self.target = target
        self._client = InferenceServerClient(target)

    def __enter__(self) -> "Triton":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def load(self, name: str) -> None:
        """Load the versions that the configuration on disk names; others of this model are unloaded.

        Raises:
            DeployError: Triton refused, with its reason.
            UnavailableError: no answer.
        """
        try:
            self._client.load_model(name, client_timeout=CONTROL_S)
        except InferenceServerException as exc:
            raise self._translate(exc, f"loading {name}") from exc

    def unload(self, name: str) -> None:
        """Unload all versions of a model."""
        try:
            self._client.unload_model(name, client_timeout=CONTROL_S)
        except InferenceServerException as exc:
            raise self._translate(exc, f"unloading {name}") from exc

    def states(self, name: str) -> dict[int, tuple[str, str]]:
        """Version -> (state, reason) as the repository index gives them; READY is what serving needs."""
        try:
            index = self._client.get_model_repository_index(client_timeout=CONTROL_S)
        except InferenceServerException as exc:
            raise self._translate(exc, "asking for the index") from exc
        return {
            int(model.version): (model.state, model.reason)
            for model in index.models
            if model.name == name and model.version.isdecimal()
        }

    def wait_ready(self, name: str, versions: Iterable[int], timeout_s: float = CONTROL_S) -> None:
        """Wait until the index says READY for every version.

        Raises:
            DeployError: one is not, `timeout_s` later.
        """
        wanted = set(versions)
        ends = time.monotonic() + timeout_s
        while True:
            states = self.states(name)
            waiting = {version: states.get(version, ("UNKNOWN", "")) for version in wanted}
            waiting = {version: state for version, state in waiting.items() if state[0] != "READY"}
            if not waiting:
                return
            if time.monotonic() > ends:
                said = "; ".join(f"version {v} is {state} {reason}".strip() for v, (state, reason) in waiting.items())
                raise DeployError(f"{name} at {self.target}: {said} after {timeout_s:.0f} s")
            threading.Event().wait(POLL_S)

    def score(
        self,
        manifest: Manifest,
        version: int,
        features: npt.NDArray[np.float32],
        ints: npt.NDArray[np.int64] | None = None,
        *,
        name: str = "",
        rows_per_call: int = 2048,
    ) -> npt.NDArray[np.float32]:
        """Scores float32 (n,) of exactly this version for float32 (n, F) and int64 (n, K).

        `name`: Triton's of the model; empty = the manifest's.

        Raises:
            DeployError: Triton refused, or another version answered.
            UnavailableError: no answer in time.
        """
        parts = []
        for start in range(0, len(features), rows_per_call):
            rows = slice(start, start + rows_per_call)
            inputs = [_tensor("features", features[rows])]
            if manifest.int_names and ints is not None:
                inputs.append(_tensor("int_features", ints[rows]))
            parts.append(self._infer(name or manifest.name, version, inputs))
        return np.concatenate(parts) if parts else np.empty(0, np.float32)

    def _infer(self, name: str, version: int, inputs: list[InferInput]) -> npt.NDArray[np.float32]:
        answer: concurrent.futures.Future[npt.NDArray[np.float32]] = concurrent.futures.Future()

        def call() -> None:
            try:
                result = self._client.infer(
                    name,
                    inputs,
                    model_version=str(version),
                    outputs=[InferRequestedOutput("score")],
                    timeout=_QUEUE_TIMEOUT_US,
                )
                if result.get_response().model_version != str(version):
                    raise DeployError(
                        f"{name}: asked version {version}, {result.get_response().model_version} answered"
                    )
                answer.set_result(np.asarray(result.as_numpy("score"), np.float32)[:, 0])
            except BaseException as exc:  # noqa: BLE001 - handed to the waiting thread, whatever it is
                answer.set_exception(exc)

        # A daemon: an answer that never comes must not keep the process.
        threading.Thread(target=call, name=f"score {name}/{version}", daemon=True).start()
        try:
            return answer.result(INFER_S)
        except TimeoutError as exc:
            raise UnavailableError(
                f"Triton at {self.target} gave no scores of {name}/{version} in {INFER_S:.0f} s"
            ) from exc
        except InferenceServerException as exc:
            raise self._translate(exc, f"scoring with {name}/{version}") from exc

    def _translate(self, exc: InferenceServerException, what: str) -> DeployError | UnavailableError:
        status = str(exc.status() or "")
        if "UNAVAILABLE" in status or "DEADLINE_EXCEEDED" in status:
            return UnavailableError(
                f"Triton at {self.target}: {what}: no answer ({exc.message()}); start it (`millrace up`) or correct "
                "MILLRACE_TRITON"
            )
        return DeployError(f"Triton at {self.target}: {what}: {exc.message()}")


def triton_scores(
    target: str,
    manifest: Manifest,
    version: int,
    features: npt.NDArray[np.float32],
    ints: npt.NDArray[np.int64] | None = None,
    *,
    name: str = "",
) -> npt.NDArray[np.float32]:
    """Scores float32 (n,) of one version through the Triton at `target` (host:port of its gRPC); `name` as `score`."""
    with Triton(target) as triton:
        return triton.score(manifest, version, features, ints, name=name)


def _tensor(name: str, values: npt.NDArray[np.float32] | npt.NDArray[np.int64]) -> InferInput:
    tensor = InferInput(name, list(values.shape), _DTYPES[values.dtype.name])
    tensor.set_data_from_numpy(np.ascontiguousarray(values))
    return tensor
