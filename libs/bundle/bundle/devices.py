"""Where a graph runs: on the CPU, or on a GPU by CUDA or TensorRT. And the row counts that a GPU is warmed up for."""

from collections.abc import Mapping
from typing import Any, Final, Literal

import onnxruntime as ort

from bundle.errors import DeviceError

Device = Literal["cpu", "cuda", "tensorrt"]
GPU_MEMORY: Final = 2 * 2**30  # bytes that one session may take: several versions share a GPU
ROW_BUCKETS: Final = (128, 256, 512, 1024, 2048)
"""Rows of a call on a GPU: padded to one of these, so that it never meets a size that it was not warmed up for."""

_CPU: Final = "CPUExecutionProvider"
_PROVIDER: Final = {"cpu": _CPU, "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}
# Memory grows by what is asked for, not by doubling (onnxruntime's docs/execution-providers/CUDA).
_CUDA: Final[Mapping[str, str]] = {"arena_extend_strategy": "kSameAsRequested", "gpu_mem_limit": str(GPU_MEMORY)}


def bucket_of(rows: int) -> int:
    """The padded size of a call with so many rows; beyond the largest bucket the rows themselves."""
    return next((bucket for bucket in ROW_BUCKETS if bucket >= rows), rows)


def providers_of(device: Device) -> list[Any]:
    """ONNX Runtime's providers for a device, best first; what a GPU cannot run stays on the CPU.

    Raises:
        DeviceError: the installed ONNX Runtime has no such provider.
    """
    wanted, present = _PROVIDER[device], ort.get_available_providers()
    if wanted not in present:
        raise DeviceError(
            f"{device}: the ONNX Runtime installed here has {', '.join(present)}, not {wanted}; run `make gpu` on a "
            "machine with a GPU and take .venv-gpu, or take the device cpu"
        )
    if device == "cpu":
        return [_CPU]
    ort.preload_dlls()  # CUDA's libraries as they lie in this environment; the system's are found anyway
    cuda = (_PROVIDER["cuda"], dict(_CUDA))
    return [wanted, cuda, _CPU] if device == "tensorrt" else [cuda, _CPU]


def check_device(session: ort.InferenceSession, device: Device) -> None:
    """ONNX Runtime falls back to the CPU with no more than a line in its log. Raises DeviceError where it did."""
    got = session.get_providers()
    if got[0] != _PROVIDER[device]:
        raise DeviceError(
            f"{device}: ONNX Runtime runs on {got[0]} instead: no GPU, or its CUDA libraries cannot be loaded; look at "
            "`nvidia-smi` and at ONNX Runtime's log, or take the device cpu"
        )
