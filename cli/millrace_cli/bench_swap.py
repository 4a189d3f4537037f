"""`millrace bench swap`: the model changes under load, on a Triton, a Kafka and a gateway of this command."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from typing import Annotated

import numpy as np
import typer

from millrace_cli.bench import app, measuring, report
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
    from pipelines.bench.open_loop import Question
    from pipelines.bench.swap import Servers, run
    from pipelines.deploy import deploy

    from millrace_cli import spare
    from millrace_cli.bench_world import world

    with measuring() as (settings, bars), world(settings, bars, model=model, planted=True) as made:
        rng = np.random.default_rng(0)
        items = np.array([item.id for item in made.data.items], np.uint64)
        none = np.empty(0, np.uint64)
        questions = [
            Question(user, rng.choice(items, candidates, replace=False), none, none.astype(np.int64))
            for user in rng.choice(np.array([user.id for user in made.data.users], np.uint64), _QUESTIONS).tolist()
        ]
        with (
            spare.gateway(made.settings, made.home) as (target, _),
            ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as apart,
        ):
            servers = Servers(target, made.kafka, made.triton, made.repository)
            apart.submit(
                deploy, made.bundle.folder, kafka=made.kafka, triton=made.triton, repository=made.repository
            ).result()
            result = run(
                made.bundle, servers, questions, apart,
                swaps=swaps, rate=rate, before_s=seconds, progress=bars,
            )  # fmt: skip
    report("swap", result, settings, as_json=json)
