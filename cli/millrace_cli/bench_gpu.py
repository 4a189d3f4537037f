"""`millrace bench gpu`: a GPU beside the CPU, where there is one."""

from __future__ import annotations

from typing import Annotated

import typer

from millrace_cli import environment
from millrace_cli.bench import app, measuring, report
from millrace_cli.errors import BadInput
from millrace_cli.stack import Json


@app.command("gpu")
def gpu(
    device: Annotated[str, typer.Option(help="cuda or tensorrt.")] = "cuda",
    models: Annotated[str | None, typer.Option(help="Some of them, comma-separated; by default what is there.")] = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="Measured time of each size.")] = 1.0,
    dataset: Annotated[str, typer.Option(help="Where rows come from (ml-100k, synthetic, auto).")] = "auto",
    usecase: Annotated[str, typer.Option(help="Use case; no stack needs to run.")] = "movies",
    json: Json = False,
) -> None:
    """Rankings a second on a GPU, by model, candidates and batch, beside two cores. Exit 3 where there is no GPU.

    Needs onnxruntime-gpu: `make gpu`, then `.venv-gpu/bin/millrace bench gpu --json`.
    """
    from pipelines.bench.gpu import require, run
    from pipelines.datasets import load_dataset

    if device not in ("cuda", "tensorrt"):
        raise BadInput(f"--device {device}: take cuda or tensorrt")
    with measuring() as (settings, bars):
        require(device)  # type: ignore[arg-type]  # checked above; before a data set is fetched
        spec = environment.usecase(settings, usecase)
        data = load_dataset(dataset, spec, cache=settings.datasets, progress=bars)
        wanted = tuple(name.strip() for name in models.split(",")) if models else ()
        result = run(spec, data, device=device, models=wanted, seconds=seconds, progress=bars)  # type: ignore[arg-type]
    report("gpu", result, settings, as_json=json)
