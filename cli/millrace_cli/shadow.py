"""`millrace shadow`: a version that scores copies of requests and is never shown."""

from __future__ import annotations

from typing import Annotated

import typer

from millrace_cli import environment, output
from millrace_cli.canary import _decide, show
from millrace_cli.environment import Bars
from millrace_cli.models import Usecase, Version, bundle_folder
from millrace_cli.stack import Json

app = typer.Typer(
    help="A version that scores copies of requests and is never shown.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.command()
def start(
    usecase: Usecase = None,
    version: Version = None,
    share: Annotated[float, typer.Option(min=0.0001, max=1, help="Of the requests.")] = 0.1,
    json: Json = False,
) -> None:
    """Have a bundle score a share of the requests after they were answered; logged as arm `shadow:<version>`."""
    from pipelines.canary import begin_shadow
    from pipelines.signing import trusted

    from millrace_cli.settings import load

    settings = load()
    spec = environment.usecase(settings, usecase)
    triton = environment.server(settings, "triton")
    with Bars() as bars, environment.translated():
        result = begin_shadow(
            bundle_folder(settings, spec, version),
            share,
            kafka=settings.kafka,
            triton=triton,
            repository=environment.repository(settings) if triton else None,
            trust=trusted(settings),
            progress=bars,
        )
    show(settings, result, as_json=json)


@app.command()
def stop(usecase: Usecase = None, json: Json = False) -> None:
    """No shadow any more; what it scored stays in the lake."""
    from pipelines.canary import end_shadow

    _decide(usecase, lambda settings, name: end_shadow(settings.kafka, name), as_json=json)


@app.command()
def report(
    usecase: Usecase = None,
    version: Annotated[
        int | None, typer.Option(min=1, help="Of the shadow; by default the newest in the lake.")
    ] = None,
    json: Json = False,
) -> None:
    """Its scores beside those that were served, of the same candidates of the same requests."""
    from pipelines.shadow import compare
    from stores.offline import Lake

    from millrace_cli.settings import load

    settings = load()
    spec = environment.usecase(settings, usecase)
    environment.flush_archiver(settings)
    with environment.translated():
        found = compare(Lake(settings.lake, spec.name), version)
    if json:
        output.emit(found.as_dict(), home=settings.home)
        return
    table = output.table(
        f"shadow {found.shadow_version} beside version {found.served_version}: {found.requests:,} requests", "", ""
    )
    for key, value in found.as_dict().items():
        table.add_row(key.replace("_", " "), f"{value:.4g}" if isinstance(value, float) else str(value))
    output.out.print(table)
