"""`millrace bench gateway`: the gateway with everything on, beside a no-op server and Triton itself."""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final

import psutil
import typer

from millrace_cli.bench import app, measuring, report
from millrace_cli.errors import EnvironmentAtFault
from millrace_cli.stack import Json

_START_S: Final = 60.0
_STOP_S: Final = 25.0


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
    from definitions.layout import layout_of
    from definitions.usecase import load_usecase
    from pipelines.bench import gateway as bench
    from pipelines.datasets import load_dataset
    from pipelines.deploy import deploy
    from pipelines.training.run import train
    from pipelines.triton_repository import Repository
    from servicekit.security.development import Files, make, token

    from millrace_cli.broker import own_kafka
    from millrace_cli.spare_triton import spare_triton
    from millrace_cli.spare_valkey import spare_valkey

    with measuring() as (settings, bars), tempfile.TemporaryDirectory(prefix="millrace-bench-") as folder:
        path, home = usecase or bench.USECASE, Path(folder)
        spec = load_usecase(path)
        layout = layout_of(spec)
        data = load_dataset("synthetic", spec, cache=settings.datasets, progress=bars)
        trained = train(spec, data, bundles=home / "trained", progress=bars)
        bundle = bench.served(trained.bundle, model, home / "bundles")
        bars.stage("start Kafka, Valkey and Triton")
        with own_kafka(spec.name) as (kafka, _), spare_valkey() as valkey, spare_triton() as (triton, models):
            bench.put_world(layout, data, kafka, valkey)
            repository = Repository(models, settings.triton_templates)
            deploy(bundle.folder, kafka=kafka, triton=triton, repository=repository, progress=bars)
            own = {
                "MILLRACE_HOME": str(home), "MILLRACE_USECASES": str(path), "MILLRACE_KAFKA": kafka,
                "MILLRACE_VALKEY": valkey, "MILLRACE_TRITON": triton, "MILLRACE_LOG_LEVEL": "WARNING",
            }  # fmt: skip
            files = Files(home / "certs")
            make(files, ["127.0.0.1"])
            own["MILLRACE_TOKEN_PUBLIC_KEYS"] = str(files.token_public_keys)
            caller = [("authorization", f"Bearer {token(files, 'loadtest', ['rank.read'], now_s=time.time())}")]
            bars.stage("start the gateway and the no-op")
            with spare_gateway(own, home) as (target, pid), _noop(shown) as (noop, noop_pid):
                asked = bench.rank_requests(layout, data, candidates, shown)
                infer = bench.infer_requests(bundle, candidates)
                result = bench.run(
                    spec.name,
                    {
                        "noop": bench.Server("noop", noop, noop_pid, bench.RANK, asked),
                        "triton": bench.Server("triton", triton, _listener(triton), bench.INFER, infer),
                        "gateway": bench.Server("gateway", target, pid, bench.RANK, asked, caller),
                    },
                    candidates=candidates, shown=shown, rounds=rounds, seconds=seconds, warmup_s=warmup, progress=bars,
                )  # fmt: skip
    report("gateway", result, settings, as_json=json)


@contextmanager
def spare_gateway(own: Mapping[str, str], folder: Path) -> Iterator[tuple[str, int]]:
    """host:port and pid of a gateway of this command, ready; `own` are its settings, its log goes to `folder`.

    Raises:
        EnvironmentAtFault: it does not get ready; the message has the end of its log.
    """
    from millrace_cli.settings import environ

    port, http = _free_port(), _free_port()
    environment_ = {name: value for name, value in environ().items() if not name.startswith("MILLRACE_")}
    environment_ |= {**own, "MILLRACE_GRPC_PORT": str(port), "MILLRACE_METRICS_PORT": str(http)}
    log = folder / "gateway.log"
    with log.open("wb") as output:
        child = subprocess.Popen([sys.executable, "-m", "gateway"], env=environment_, stdout=output, stderr=output)
    try:
        _await_ready(child, http, log)
        yield f"127.0.0.1:{port}", child.pid
    finally:
        child.terminate()
        try:
            child.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


@contextmanager
def _noop(shown: int) -> Iterator[tuple[str, int]]:
    port = _free_port()
    child = subprocess.Popen([sys.executable, "-m", "pipelines.bench.noop_server", str(port), str(shown)])
    try:
        until = time.monotonic() + _START_S
        while time.monotonic() < until and child.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
            except OSError:
                time.sleep(0.05)
            else:
                break
        yield f"127.0.0.1:{port}", child.pid
    finally:
        child.kill()
        child.wait()


def _await_ready(child: subprocess.Popen[bytes], http: int, log: Path) -> None:
    until = time.monotonic() + _START_S
    while time.monotonic() < until and child.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{http}/ready", timeout=2.0):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-10:])
    raise EnvironmentAtFault(f"the gateway did not get ready within {_START_S:.0f} s; its log ends:\n{tail}")


def _listener(target: str) -> int:
    """Process that listens at `target`."""
    port = int(target.rpartition(":")[2])
    found = [each for each in psutil.net_connections("tcp") if each.laddr and each.laddr.port == port]
    return next(each.pid for each in found if each.status == psutil.CONN_LISTEN and each.pid is not None)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
