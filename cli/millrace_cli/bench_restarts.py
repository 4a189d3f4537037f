"""`millrace bench restarts`: two gateways on a real stack, restarted in turn while requests go on."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING, Annotated, Final, Self

import typer

from millrace_cli import environment
from millrace_cli.bench import app, measuring, report
from millrace_cli.errors import EnvironmentAtFault
from millrace_cli.stack import Json

if TYPE_CHECKING:
    from local_stack.component import Component
    from local_stack.harness import NativeStack
    from local_stack.process import RunFile

GATEWAYS: Final = 2
_START_S: Final = 120.0


@app.command()
def restarts(
    rolls: Annotated[int, typer.Option(min=1, help="Restarts of each gateway.")] = 10,
    requests: Annotated[int, typer.Option(min=1, help="Least number of requests.")] = 10_000,
    rate: Annotated[float, typer.Option(min=1, help="Requests a second.")] = 100.0,
    kill: Annotated[bool, typer.Option("--kill", help="End them by SIGKILL instead of a drain.")] = False,
    dataset: Annotated[str, typer.Option(help="ml-100k, synthetic, or auto: the first that can be had.")] = "auto",
    usecase: Annotated[str, typer.Option(help="Use case; the bench starts a real stack of its own.")] = "movies",
    json: Json = False,
) -> None:
    """Restart two gateways in turn under load: no request of a caller who knows both may fail."""
    from pipelines.bench.restarts import run

    from millrace_cli import spare
    from millrace_cli.bench_ladder import World

    with measuring() as (settings, bars):
        spec = environment.usecase(settings, usecase)
        with spare.stack(bars) as stack:
            world = World(stack, settings, spec, dataset, bars)
            with Replicas(stack, GATEWAYS) as gateways:
                result = run(
                    gateways.addresses, spec.name, world.questions,
                    lambda number: gateways.restart(number, kill=kill),
                    how="killed" if kill else "drained", rolls=rolls, requests=requests, rate=rate, progress=bars,
                )  # fmt: skip
    report("restarts", result, settings, as_json=json)


class Replicas:
    """Gateways beside the stack's own, over the same log and stores. A context manager."""

    def __init__(self, stack: NativeStack, count: int) -> None:
        from local_stack.home import Home
        from local_stack.ports import Ports

        self._home = Home(stack.home)
        self._ports = [Ports.free() for _ in range(count)]
        self._components = [self._component(stack, number) for number in range(count)]
        self._runs: dict[int, RunFile] = {}

    def __enter__(self) -> Self:
        for number in range(len(self._components)):
            self._start(number)
        return self

    def __exit__(self, *exc: object) -> None:
        from local_stack import process

        for run in self._runs.values():
            process.stop(run, self._home)

    @property
    def addresses(self) -> list[str]:
        """host:port of each."""
        return [f"127.0.0.1:{ports.gateway}" for ports in self._ports]

    def restart(self, number: int, *, kill: bool = False) -> float:
        """End one, start it anew, return when it is ready; seconds that it took to end.

        Raises:
            EnvironmentAtFault: it did not drain (exit code 0), or does not come back.
        """
        from local_stack import process

        run, began = self._runs[number], time.monotonic()
        process.send(run, signal.SIGKILL if kill else signal.SIGTERM)
        while (code := process.exit_code(run)) is None:
            if time.monotonic() > began + _START_S:
                raise EnvironmentAtFault(f"{run.name} does not end; see {run.log}")
            time.sleep(0.01)
        ended_s = time.monotonic() - began
        if code != (-signal.SIGKILL if kill else 0):
            raise EnvironmentAtFault(f"{run.name} ended with {code}; end of {run.log}:\n{run.tail()}")
        process.stop(run, self._home)
        self._start(number)
        return ended_s

    def _start(self, number: int) -> None:
        from local_stack import process
        from local_stack.errors import StackError
        from local_stack.service import without_settings

        from millrace_cli.settings import environ

        try:
            self._runs[number] = process.start(self._components[number], self._home, without_settings(environ()))
            process.await_ready(self._runs[number], _START_S)
        except StackError as exc:
            raise EnvironmentAtFault(str(exc)) from exc

    def _component(self, stack: NativeStack, number: int) -> Component:
        from millrace_cli.spare import gateway_component

        ports, servers = self._ports[number], stack.ports
        own = {
            "MILLRACE_HOME": str(stack.home),
            "MILLRACE_KAFKA": f"127.0.0.1:{servers.kafka}",
            "MILLRACE_VALKEY": f"127.0.0.1:{servers.valkey}",
            "MILLRACE_CASSANDRA": f"127.0.0.1:{servers.cassandra}",
            "MILLRACE_TRITON": f"127.0.0.1:{servers.triton_grpc}",
            "MILLRACE_ALLOW_REQUEST_TIME": "true",
            **({"MILLRACE_USECASES": ",".join(stack.usecases)} if stack.usecases else {}),
        }
        listens = {"grpc": ports.gateway, "metrics": ports.gateway_metrics}
        return gateway_component(f"gateway-{number + 1}", own, listens)
