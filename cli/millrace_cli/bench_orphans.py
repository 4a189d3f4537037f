"""`millrace bench orphans`: the gateway's own client and a real Triton that answers later than anybody waits."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from millrace_cli import environment
from millrace_cli.bench import app, measuring, report
from millrace_cli.stack import Json

if TYPE_CHECKING:
    from bundle import Bundle


@app.command()
def orphans(
    calls: Annotated[int, typer.Option(min=1, help="Calls that must outlive their budget.")] = 10_000,
    usecase: Annotated[str, typer.Option(help="Use case; no stack needs to run.")] = "movies",
    json: Json = False,
) -> None:
    """Calls that outlive their budget at a real Triton, which must never die of them. Starts a Triton of its own."""
    import tempfile
    from pathlib import Path

    from definitions.layout import layout_of
    from local_stack.probes import Probe
    from pipelines.bench.orphans import run
    from pipelines.bench.planted import planted_templates, small_bundle, spoil
    from pipelines.triton_client import Triton
    from pipelines.triton_repository import Repository

    from millrace_cli import spare

    with measuring() as (settings, bars), spare.triton() as (address, folder), tempfile.TemporaryDirectory() as aside:
        layout = layout_of(environment.usecase(settings, usecase))
        bundle = small_bundle(Path(aside) / "late" / "1", layout)
        repository = Repository(folder, planted_templates(settings.triton_templates, Path(aside) / "templates"))
        repository.add(bundle)
        repository.configure(bundle.manifest, [1])
        with Triton(address) as triton:
            triton.load("late")
            triton.wait_ready("late", [1])
        result = run(
            lambda: gateways_calls(address, bundle),
            lambda seconds: spoil(folder / "late" / "1", f"slow {seconds}"),
            lambda: Probe("grpc", address).ask() is None,
            count=calls,
            progress=bars,
        )
    report("orphans", result, settings, as_json=json)


@asynccontextmanager
async def gateways_calls(address: str, bundle: Bundle) -> AsyncIterator[GatewaysCalls]:
    """The gateway's client of the Triton at `address` (gRPC), asking for the bundle's scores of its golden rows."""
    made = GatewaysCalls(address, bundle)
    try:
        yield made
    finally:
        await made.client.close(5.0)


class GatewaysCalls:
    """`pipelines.bench.orphans.Calls` by the gateway's client. Made on the event loop."""

    def __init__(self, address: str, bundle: Bundle) -> None:
        from gateway.triton import TritonClient, TritonModel

        manifest = bundle.manifest
        self.outlived = 0
        self.client = TritonClient(address, on_orphan=self._note)
        self._golden = bundle.golden
        self._model = TritonModel(
            self.client,
            manifest.name,
            manifest.version,
            columns=len(manifest.feature_names),
            int_columns=len(manifest.int_names),
        )

    @property
    def in_flight(self) -> int:
        """Calls under way."""
        return self.client.in_flight

    async def drained(self, budget_s: float) -> None:
        """Wait until none is, for at most `budget_s`."""
        await self.client.drained(budget_s)

    async def ask(self, budget_s: float) -> str:
        """`ok` if the scores are the golden ones, else why not."""
        from bundle import BundleError, check_golden
        from gateway.errors import Unavailable

        try:
            scores = await self._model.score(self._golden.features, self._golden.ints, budget_s)
            check_golden("through Triton", self._golden.scores, scores)
        except Unavailable as exc:
            return exc.reason
        except BundleError:
            return "wrong"
        return "ok"

    def _note(self) -> None:
        self.outlived += 1
