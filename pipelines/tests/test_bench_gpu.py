"""The GPU's bench, as far as it goes on a CPU: its logic, and its words where there is no GPU. No figure of a GPU."""

import onnxruntime as ort
import pytest
from definitions.usecase import find_usecase
from pipelines.bench.gpu import _best, run
from pipelines.errors import UnavailableError
from servicekit.settings import checkout_root

USECASE = find_usecase("movies", checkout_root() / "usecases")


@pytest.mark.skipif("CUDAExecutionProvider" in ort.get_available_providers(), reason="this ONNX Runtime has CUDA")
@pytest.mark.parametrize("device", ["cuda", "tensorrt"])
def test_without_a_gpu_it_says_what_is_missing(device: str) -> None:
    """The environment's fault, said before anything is trained."""
    with pytest.raises(UnavailableError, match="make gpu"):
        run(USECASE, None, device=device)  # type: ignore[arg-type]  # nothing is looked at before the device


def test_what_is_late_does_not_count() -> None:
    """The best batch is the best of those in time: a large one is fast for itself and late for everybody."""
    row = {"model": "lr", "candidates": 100}
    table = [
        {**row, "rankings_per_gpu_s": 100.0, "gpu_p99_ms": 2.0},
        {**row, "rankings_per_gpu_s": 300.0, "gpu_p99_ms": 9.9},
        {**row, "rankings_per_gpu_s": 900.0, "gpu_p99_ms": 10.1},
    ]

    assert {"100": 300.0, "500": None} == _best(table, "lr", (100, 500))
