"""`millrace bench swap`: the model changes under load, on a Triton, a Kafka and a gateway of this command."""

from __future__ import annotations

import multiprocessing
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from millrace_cli.bench import app, measuring, report
from millrace_cli.bench_gateway import spare_gateway
from millrace_cli.stack import Json

_QUESTIONS = 200


@app.command("swap")
def swap(
    swaps: Annotated[int, typer.Option(min=1, help="New versions, one after the other.")] = 5,
    rate: Annotated[float, typer.Option(min=10, help="Requests a second.")] = 150.0,
    seconds: Annotated[float, typer.Option(min=1, help="Measured time before the first swap.")] = 20.0,
    candidates: Annotated[int, typer.Option(min=1, max=2000, help="Items in each request.")] = 100,
    model: Annotated[
        str, typer.Option(help="What scores: lr, or lightgbm, which takes Triton far longer.")
    ] = "lightgbm",
    json: Json = False,
) -> None:
    """New versions, corrupt ones, rollbacks, and one that goes bad while it serves, all under load; nothing may fail.

    Starts a Kafka, a Valkey, a Triton and a gateway of its own, trains a model on synthetic ratings. Some two minutes.
    """
    from definitions.layout import layout_of
    from definitions.usecase import load_usecase
    from pipelines.bench import gateway as world
    from pipelines.bench.open_loop import Question
    from pipelines.bench.planted import planted_templates
    from pipelines.bench.swap import Servers, run
    from pipelines.datasets import load_dataset
    from pipelines.deploy import deploy
    from pipelines.training.run import train
    from pipelines.triton_repository import Repository

    from millrace_cli.broker import own_kafka
    from millrace_cli.spare_triton import spare_triton
    from millrace_cli.spare_valkey import spare_valkey

    with measuring() as (settings, bars), tempfile.TemporaryDirectory(prefix="millrace-bench-") as folder:
        home = Path(folder)
        spec = load_usecase(world.USECASE)
        layout = layout_of(spec)
        data = load_dataset("synthetic", spec, cache=settings.datasets, progress=bars)
        trained = train(spec, data, bundles=home / "trained", progress=bars)
        bundle = world.served(trained.bundle, model, home / "bundles")
        rng = np.random.default_rng(0)
        items = np.array([item.id for item in data.items], np.uint64)
        none = np.empty(0, np.uint64)
        questions = [
            Question(user, rng.choice(items, candidates, replace=False), none, none.astype(np.int64))
            for user in rng.choice(np.array([user.id for user in data.users], np.uint64), _QUESTIONS).tolist()
        ]
        bars.stage("start Kafka, Valkey and Triton")
        with own_kafka(spec.name) as (kafka, _), spare_valkey() as valkey, spare_triton() as (triton, models):
            world.put_world(layout, data, kafka, valkey)
            templates = planted_templates(settings.triton_templates, home / "triton-templates")
            repository = Repository(models, templates)
            deploy(bundle.folder, kafka=kafka, triton=triton, repository=repository, progress=bars)
            own = {
                "MILLRACE_HOME": str(home), "MILLRACE_USECASES": str(world.USECASE), "MILLRACE_KAFKA": kafka,
                "MILLRACE_VALKEY": valkey, "MILLRACE_TRITON": triton, "MILLRACE_LOG_LEVEL": "WARNING",
            }  # fmt: skip
            with (
                spare_gateway(own, home) as (target, _),
                ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as apart,
            ):
                apart.submit(deploy, bundle.folder, kafka=kafka, triton=triton, repository=repository).result()
                result = run(
                    bundle, Servers(target, kafka, triton, repository), questions, apart,
                    swaps=swaps, rate=rate, before_s=seconds, progress=bars,
                )  # fmt: skip
    report("swap", result, settings, as_json=json)
