"""`millrace bench gateway`: the gateway with everything on, beside a no-op server and Triton itself."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import psutil
import typer

from millrace_cli.bench import app, measuring, report
from millrace_cli.stack import Json


@app.command("gateway")
def gateway(
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; each asks all three in turn.")] = 5,
    seconds: Annotated[float, typer.Option(min=0.5, help="Of each of a round's six parts.")] = 3.0,
    warmup: Annotated[float, typer.Option(min=0, help="Seconds before measuring, for each server.")] = 5.0,
    candidates: Annotated[int, typer.Option(min=1, max=2000, help="Items in each request.")] = 100,
    shown: Annotated[int, typer.Option(min=1, help="Items in each answer.")] = 10,
    model: Annotated[str, typer.Option(help="What scores: lr, or lightgbm, which takes Triton far longer.")] = "lr",
    usecase: Annotated[
        Path | None, typer.Option(help="Use case with MovieLens' columns; by default the bench's own, of 64 features.")
    ] = None,
    json: Json = False,
) -> None:
    """The gateway with everything on, beside a no-op grpc.aio server and Triton itself, 1 and 32 in flight.

    Starts a Kafka, a Valkey, a Triton and a gateway of its own, trains a model on synthetic ratings and deploys it.
    Its calls carry a token, which the gateway checks; the no-op and Triton ask for none.
    """
    from pipelines.bench import gateway as bench
    from servicekit.security.development import Files, make, token

    from millrace_cli import spare
    from millrace_cli.bench_world import world

    path = usecase or bench.USECASE
    with measuring() as (settings, bars), world(settings, bars, model=model, usecase=path) as made:
        files = Files(made.home / "certs")
        make(files, ["127.0.0.1"])
        own = {**made.settings, "MILLRACE_TOKEN_PUBLIC_KEYS": str(files.token_public_keys)}
        caller = [("authorization", f"Bearer {token(files, 'loadtest', ['rank.read'], now_s=time.time())}")]
        bars.stage("start the gateway and the no-op")
        with (
            spare.gateway(own, made.home) as (target, pid),
            spare.python("pipelines.bench.noop_server", str(shown)) as (noop, noop_pid),
        ):
            asked = bench.rank_requests(made.layout, made.data, candidates, shown)
            infer = bench.infer_requests(made.bundle, candidates)
            result = bench.run(
                made.layout.usecase.name,
                {
                    "noop": bench.Server("noop", noop, noop_pid, bench.RANK, asked),
                    "triton": bench.Server("triton", made.triton, _listener(made.triton), bench.INFER, infer),
                    "gateway": bench.Server("gateway", target, pid, bench.RANK, asked, caller),
                },
                candidates=candidates, shown=shown, rounds=rounds, seconds=seconds, warmup_s=warmup, progress=bars,
            )  # fmt: skip
    report("gateway", result, settings, as_json=json)


def _listener(target: str) -> int:
    """Process that listens at `target`."""
    port = int(target.rpartition(":")[2])
    found = [each for each in psutil.net_connections("tcp") if each.laddr and each.laddr.port == port]
    return next(each.pid for each in found if each.status == psutil.CONN_LISTEN and each.pid is not None)
