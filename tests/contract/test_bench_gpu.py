"""The GPU's bench on the CPU: a model is trained, exported, and measured at every size. No figure of a GPU."""

import pytest
from definitions.usecase import find_usecase
from pipelines.bench.gpu import run
from pipelines.datasets import load_dataset
from pipelines.progress import SILENT
from servicekit.settings import checkout_root

pytestmark = pytest.mark.real  # seconds of training


def test_every_size_is_measured_on_both() -> None:
    """The CPU against itself: one row for each model, candidates and batch, scores equal, calls padded."""
    usecase = find_usecase("movies", checkout_root() / "usecases")
    data = load_dataset("synthetic", usecase, cache=checkout_root() / ".millrace" / "dist", progress=SILENT)

    found = run(usecase, data, device="cpu", models=("lr",), candidates=(100, 500), batches=(1, 4), seconds=0.05)

    assert [(100, 1, 128), (100, 4, 512), (500, 1, 512), (500, 4, 2048)] == [
        (row["candidates"], row["batch"], row["rows"]) for row in found["table"]
    ]
    assert (0.0, 0) == (found["max_abs"], found["rank_flips"])
    assert all(row["rankings_per_gpu_s"] > 0 and row["gpu_p99_ms"] >= row["gpu_p50_ms"] for row in found["table"])
    assert {"100", "500"} == set(found["rankings_per_gpu_s"]["lr"])
