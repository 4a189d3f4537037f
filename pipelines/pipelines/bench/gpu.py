"""Rankings a GPU scores in a second, by model, candidates and batch, beside both cores of a CPU: the same graphs.

By onnxruntime-gpu in this process, copies to the GPU and back included. A ranking is one user's candidates; a call
scores a batch of them, padded to the sizes that Triton is warmed up for.
"""

import importlib.util
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from bundle import Device, DeviceError, OnnxScorer, bucket_of
from bundle.devices import providers_of
from definitions.usecase import UseCase

from pipelines.bench import at_most
from pipelines.bench.parity import Rows, prepared
from pipelines.datasets.dataset import Dataset
from pipelines.errors import UnavailableError
from pipelines.export.parity import MAX_DIFFERENCE, measure
from pipelines.progress import SILENT, Progress
from pipelines.training.ranker import ranker

MODELS: Final = ("lr", "lightgbm")
DEEP: Final = ("dcn_v2", "two_tower", "sequence")
CANDIDATES: Final = (100, 500, 2_000)
BATCHES: Final = (1, 4, 16)
CPU_THREADS: Final = 2
PARITY_ROWS: Final = 20_000
P99_MS: Final = 10.0  # what scoring may take of a request
WARM_CALLS: Final = 3
LEAST_CALLS: Final = 20


@dataclass(frozen=True)
class Speed:
    """Calls of one size: rankings a second by one caller, and what a call takes."""

    rankings_per_s: float
    p50_ms: float
    p99_ms: float


def run(
    usecase: UseCase,
    dataset: Dataset,
    *,
    device: Device = "cuda",
    models: Sequence[str] = (),
    candidates: Sequence[int] = CANDIDATES,
    batches: Sequence[int] = BATCHES,
    seconds: float = 1.0,
    seed: int = 0,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """Fit each model, export it, and score the same rows on the device and on the CPU.

    Args:
        usecase: of the columns.
        dataset: where rows come from.
        device: `cuda` or `tensorrt`; `cpu` compares the CPU with itself, for tests.
        models: names of `pipelines.training.ranker.RANKERS`; empty: those that can be trained here.
        candidates: rows of a ranking.
        batches: rankings of a call.
        seconds: measured time of each size.
        seed: of trainers.
        progress: is told each model.

    Raises:
        UnavailableError: there is no such device.
        TrainingError: a model cannot be trained here; deep ones need PyTorch.
    """
    require(device)
    _, data, rows, fitted = prepared(usecase, dataset, rows=PARITY_ROWS, seed=seed, progress=progress)
    names = tuple(models) or (MODELS + DEEP if importlib.util.find_spec("torch") else MODELS)
    table: list[dict[str, Any]] = []
    parity = []
    with tempfile.TemporaryDirectory(prefix="millrace-gpu-") as folder:
        for name in names:
            progress.stage(name)
            graph = Path(folder) / f"{name}.onnx"
            ranker(name)(data, seed=seed, threads=CPU_THREADS, progress=SILENT).export(graph)
            there, here = _scorers(graph, device)
            expected = here.score(rows.features, rows.ints)
            parity.append(measure(expected, there.score(rows.features, rows.ints), rows.user_id))
            for asked in candidates:
                table += [_size(name, there, here, rows, asked, batch, seconds) for batch in batches]
    result = {
        "what": f"{len(names)} models fitted on {fitted:,} rows of {dataset.source}, scored by ONNX Runtime on "
        f"{device_name(device)} and on {CPU_THREADS} cores of this machine, {seconds:g} s each size, one caller",
        "device": device,
        "device_name": device_name(device),
        "models": list(names),
        "rankings_per_gpu_s": {name: _best(table, name, candidates) for name in names},
        "ratio_cpu": {name: _ratio(table, name) for name in names},
        "max_abs": max(each.max_abs for each in parity),
        "rank_flips": sum(each.flips for each in parity),
        "table": table,
    }
    return {**result, "bars": [at_most(result, "max_abs", MAX_DIFFERENCE), at_most(result, "rank_flips", 0)]}


def require(device: Device) -> None:
    """Raise UnavailableError, with the remedy, where ONNX Runtime here knows no such device."""
    try:
        providers_of(device)
    except DeviceError as exc:
        raise UnavailableError(str(exc)) from exc


def device_name(device: Device) -> str:
    """What the driver calls the first GPU."""
    if device == "cpu":
        return "the CPU itself"
    command = shutil.which("nvidia-smi")
    if command is None:
        return device
    asked = [command, "--query-gpu=name", "--format=csv,noheader"]
    found = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.splitlines()
    return found[0] if found else device


def _scorers(graph: Path, device: Device) -> tuple[OnnxScorer, OnnxScorer]:
    try:
        return OnnxScorer(graph, device=device), OnnxScorer(graph, CPU_THREADS)
    except DeviceError as exc:  # the provider is there, the GPU is not
        raise UnavailableError(str(exc)) from exc


def _size(
    name: str, there: OnnxScorer, here: OnnxScorer, rows: Rows, candidates: int, batch: int, seconds: float
) -> dict[str, Any]:
    wanted = candidates * batch
    places = np.arange(bucket_of(wanted)) % len(rows.features)
    features, ints = rows.features[places], rows.ints[places]
    fast = speed(there, features, ints, batch, seconds)
    slow = speed(here, features[:wanted], ints[:wanted], batch, seconds)
    return {
        "model": name, "candidates": candidates, "batch": batch, "rows": len(places),
        "rankings_per_gpu_s": round(fast.rankings_per_s, 1), "gpu_p50_ms": round(fast.p50_ms, 3),
        "gpu_p99_ms": round(fast.p99_ms, 3), "rankings_per_cpu_s": round(slow.rankings_per_s, 1),
        "cpu_p99_ms": round(slow.p99_ms, 3), "ratio": round(fast.rankings_per_s / slow.rankings_per_s, 2),
    }  # fmt: skip


def speed(
    scorer: OnnxScorer, features: npt.NDArray[np.float32], ints: npt.NDArray[np.int64], rankings: int, seconds: float
) -> Speed:
    """How fast calls of these rows (float32 (n, F), int64 (n, K)), `rankings` each, follow one another."""
    for _ in range(WARM_CALLS):
        scorer.score(features, ints)
    took: list[float] = []
    begun = time.perf_counter()
    while len(took) < LEAST_CALLS or time.perf_counter() - begun < seconds:
        before = time.perf_counter()
        scorer.score(features, ints)
        took.append(time.perf_counter() - before)
    p50_s, p99_s = np.quantile(took, [0.5, 0.99])
    return Speed(rankings * len(took) / sum(took), float(p50_s) * 1e3, float(p99_s) * 1e3)


def _best(table: Sequence[dict[str, Any]], name: str, candidates: Sequence[int]) -> dict[str, float | None]:
    """By candidates: the most rankings a second of the batches whose p99 is in time; None where none is."""
    found: dict[str, float | None] = {}
    for asked in candidates:
        fits = [
            row["rankings_per_gpu_s"]
            for row in table
            if row["model"] == name and row["candidates"] == asked and row["gpu_p99_ms"] <= P99_MS
        ]
        found[str(asked)] = max(fits, default=None)
    return found


def _ratio(table: Sequence[dict[str, Any]], name: str) -> float:
    """The largest over all sizes."""
    return max(float(row["ratio"]) for row in table if row["model"] == name)
