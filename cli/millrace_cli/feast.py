"""`millrace feast`: the feature store that other teams see, generated from a use case."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from millrace_cli import environment, output
from millrace_cli.errors import BadInput, GateSaidNo
from millrace_cli.stack import Json

if TYPE_CHECKING:
    from millrace_cli.settings import Settings

app = typer.Typer(
    help="Feast for other teams: registry, SDK and UI over what we serve.",
    epilog="In the repository's folder Feast's own commands work, too: feast feature-views list.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
UI_PORT = 8888  # Feast's own choice

Usecase = Annotated[str | None, typer.Option(help="Use case; by default the first that the stack serves.")]


@app.callback()
def _root() -> None:
    """Keep the group a group."""


@app.command()
def apply(usecase: Usecase = None, json: Json = False) -> None:
    """Generate the use case's repository and register its entities, feature views and feature service.

    A repeat is harmless; after a rollout under another revision it is needed. Writing a registry runs code in its
    readers, so where it is shared only CI does this.
    """
    from pipelines.feast import repository
    from pipelines.feast.views import views_of

    from millrace_cli.settings import load
    from pipelines import decisions

    begun = time.monotonic()
    settings = load()
    spec = environment.usecase(settings, usecase)
    folder = _folder(settings, spec.name)
    with environment.translated():
        state = decisions.serving_state(settings.kafka, spec.name)
        layout = repository.served_layout(state, spec, settings.revision)
        places = repository.Places(
            registry=settings.feast_registry,
            lake=settings.lake,
            valkey=environment.server(settings, "valkey"),
            lmdb=settings.online_path,
            kafka=settings.kafka,
            collector=environment.collector(settings),
        )
        repository.write(folder, _file(settings, usecase), layout, places)
        repository.apply(folder)
    views = {view.name: len(view.columns) for view in views_of(layout)}
    if json:
        output.emit(
            {
                "usecase": spec.name,
                "revision": layout.revision,
                "repository": str(folder),
                "registry": settings.feast_registry,
                "features": views,
                "seconds": round(time.monotonic() - begun, 2),
            },
            home=settings.home,
        )
        return
    shown = ", ".join(f"{name} ({count} features)" for name, count in views.items())
    output.out.print(f"registered {shown}; repository {folder}", highlight=False, soft_wrap=True)
    output.out.print("next: millrace feast ui")


@app.command()
def ui(
    usecase: Usecase = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int | None, typer.Option(help="Port; by default 8888 plus MILLRACE_PORT_OFFSET.")] = None,
) -> None:
    """Show the registry in a browser, until Ctrl-C."""
    from pipelines.feast import repository

    from millrace_cli.settings import load

    settings = load()
    folder = _applied(settings, usecase)
    at = settings.port(UI_PORT) if port is None else port
    output.err.print(f"Feast's UI on http://{host}:{at}", highlight=False)
    with environment.translated():
        repository.become_ui(folder, host, at)


@app.command()
def soak(
    usecase: Usecase = None,
    calls: Annotated[int, typer.Option(min=100, help="How many reads.")] = 5000,
    json: Json = False,
) -> None:
    """Read features many times in one process and see that it does not grow: exit 1 if it does."""
    from pipelines.feast import soak as measured

    from millrace_cli.settings import load

    settings = load()
    folder = _applied(settings, usecase)
    with environment.translated():
        figures = measured.soak(folder, calls)
    grew = figures["growth_mib"] > measured.GROWTH_MIB
    if json:
        output.emit(figures, home=settings.home)
    else:
        output.out.print(
            f"{calls:,} calls of {figures['rows_a_call']} rows: {figures['first_mib']} MiB after the first tenth, "
            f"{figures['last_mib']} MiB at the end; p50 {figures['p50_ms']} ms, p99 {figures['p99_ms']} ms",
            highlight=False,
        )
    if grew and json:
        raise typer.Exit(GateSaidNo.exit_code)
    if grew:
        raise GateSaidNo(f"memory grew by {figures['growth_mib']} MiB, more than {measured.GROWTH_MIB}")


def _folder(settings: Settings, usecase: str) -> Path:
    return settings.home / "feast" / usecase


def _applied(settings: Settings, usecase: str | None) -> Path:
    """The repository's folder. Raises BadInput if there is none yet."""
    folder = _folder(settings, environment.usecase(settings, usecase).name)
    if not (folder / "feature_store.yaml").is_file():
        raise BadInput(f"{folder} holds no repository; make it first: millrace feast apply")
    return folder


def _file(settings: Settings, usecase: str | None) -> Path:
    """The use case's file, as `find_usecase` found it."""
    name = usecase or settings.usecases[0]
    return Path(name) if "/" in name or name.endswith((".yaml", ".yml")) else settings.usecase_dir / f"{name}.yaml"
