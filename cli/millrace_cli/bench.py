"""`millrace bench`: each measurement is one function here and one module of `pipelines.bench`.

A new one: `pipelines/pipelines/bench/<name>.py` with `run(...) -> dict`, a function below that calls it inside
`measuring()` and ends with `report(...)`, and a row of the table in `docs/reference.md`. Heavy imports belong into the
function.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from millrace_cli import environment, output
from millrace_cli.environment import Bars
from millrace_cli.stack import Json

if TYPE_CHECKING:
    from millrace_cli.settings import Settings

app = typer.Typer(
    help="Measure one part, beside what one would take instead.",
    epilog="Each prints what it ran, where, and the ratio; exit 1 if a promised figure is missed.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

_SHOWN = ("what", "table", "bars")  # of a result; the rest are its keys


@app.callback()
def _root() -> None:
    """Keep the group a group, however many benches it has."""


@contextmanager
def measuring() -> Iterator[tuple[Settings, Bars]]:
    """The settings and a progress for `run`; its errors as ends of the command."""
    from millrace_cli.settings import load

    settings = load()
    with Bars() as bars, environment.translated():
        yield settings, bars


def report(name: str, result: Mapping[str, Any], settings: Settings, *, as_json: bool) -> None:
    """Print what was measured, side by side; with `as_json` also as the last line.

    Raises:
        GateSaidNo: a bar is missed. `typer.Exit` with the same code where the JSON line has said it.
    """
    from dataclasses import asdict

    output.out.print(f"{name}: {result['what']}", markup=False, highlight=False, soft_wrap=True)
    if rows := result["table"]:
        table = output.table("side by side", *rows[0])
        for row in rows:
            table.add_row(*(_figure(value) for value in row.values()))
        output.out.print(table)
    bars = output.table("promised", "key", "limit", "measured", "")
    for bar in result["bars"]:
        word = "[green]held[/]" if bar.held else "[red]missed[/]"
        bars.add_row(bar.key, _figure(bar.limit), _figure(bar.measured), word)
    if result["bars"]:
        output.out.print(bars)
    missed = [bar.key for bar in result["bars"] if not bar.held]
    keys = {key: value for key, value in result.items() if key not in _SHOWN}
    shown = {key: result[key] for key in _SHOWN if key != "bars"}
    output.conclude(
        {"bench": name, **keys, **shown, "bars": [asdict(bar) for bar in result["bars"]], "missed": missed},
        home=settings.home,
        as_json=as_json,
        refusal=f"bench {name}: missed {', '.join(missed)}" if missed else None,
    )


@app.command()
def freshness(
    rate: Annotated[float, typer.Option(min=1, help="Events a second.")] = 2_000.0,
    seconds: Annotated[float, typer.Option(min=1, help="Measured time.")] = 30.0,
    warmup: Annotated[float, typer.Option(min=0, help="Seconds before measuring.")] = 5.0,
    usecase: Annotated[str | None, typer.Option(help="Use case; by default the first that the stack serves.")] = None,
    json: Json = False,
) -> None:
    """From an accepted event to a Rank call that knows it, on the running stack, under load.

    Its events are of made-up users and stay on the log.
    """
    from pipelines.bench.freshness import run

    from millrace_cli.loadtest import catalogue_ids

    with measuring() as (settings, bars):
        spec = environment.usecase(settings, usecase)
        items, _ = catalogue_ids(settings, spec.name)
        result = run(
            environment.gateway(settings), environment.collector(settings), spec, items,
            rate=rate, seconds=seconds, warmup_s=warmup, progress=bars,
        )  # fmt: skip
    report("freshness", result, settings, as_json=json)


@app.command()
def pit(
    rows: Annotated[int, typer.Option(min=1_000, help="Entity rows, and events of each source.")] = 1_000_000,
    sources: Annotated[int, typer.Option(min=1, help="Tables that are joined.")] = 3,
    json: Json = False,
) -> None:
    """The point-in-time join, beside polars and Feast's with its DuckDB store: the same rows, equal values.

    The first run installs Feast into an environment of its own.
    """
    from pipelines.bench.pit import run

    with measuring() as (settings, bars):
        result = run(rows, sources=sources, progress=bars)
    report("pit", result, settings, as_json=json)


@app.command()
def online(
    users: Annotated[int, typer.Option(min=1, help="Rows in each store.")] = 1_000_000,
    items: Annotated[int, typer.Option(min=1, help="Items in memory.")] = 100_000,
    candidates: Annotated[int, typer.Option(min=1, help="Items of one read.")] = 100,
    feast_users: Annotated[int, typer.Option(min=1, help="User rows that Feast loads.")] = 1_000,
    feast_items: Annotated[int, typer.Option(min=1, help="Item rows that Feast loads.")] = 10_000,
    usecase: Annotated[str, typer.Option(help="Use case; no stack needs to run.")] = "video",
    json: Json = False,
) -> None:
    """A user's row read and all features assembled, beside Feast on Redis. Starts a Valkey of its own.

    A million rows take 2 GB of memory and 2 GB below the home while it runs.
    """
    import tempfile
    from pathlib import Path

    from definitions.layout import layout_of
    from pipelines.bench.online import run

    from millrace_cli import spare

    with measuring() as (settings, bars):
        spec = environment.usecase(settings, usecase)
        settings.home.mkdir(parents=True, exist_ok=True)
        with spare.valkey() as address, tempfile.TemporaryDirectory(prefix="bench-", dir=settings.home) as folder:
            result = run(
                layout_of(spec), address, Path(folder), users=users, items=items, candidates=candidates,
                feast_users=feast_users, feast_items=feast_items, progress=bars,
            )  # fmt: skip
    report("online", result, settings, as_json=json)


@app.command()
def parity(
    models: Annotated[str | None, typer.Option(help="Some of them, comma-separated; by default all.")] = None,
    dataset: Annotated[str, typer.Option(help="Where rows come from (ml-100k, synthetic, auto).")] = "auto",
    usecase: Annotated[str, typer.Option(help="Use case; no stack needs to run.")] = "movies",
    json: Json = False,
) -> None:
    """Each model in its framework, in ONNX Runtime and in a real Triton, on the same rows. Starts a Triton of its own.

    Deep models need PyTorch: `make deep`.
    """
    from pipelines.bench.parity import MODELS, run
    from pipelines.datasets import load_dataset
    from pipelines.triton_repository import Repository

    from millrace_cli import spare

    with measuring() as (settings, bars):
        spec = environment.usecase(settings, usecase)
        data = load_dataset(dataset, spec, cache=settings.datasets, progress=bars)
        wanted = tuple(name.strip() for name in models.split(",")) if models else MODELS
        with spare.triton() as (address, folder):
            repository = Repository(folder, settings.triton_templates)
            result = run(spec, data, address, repository, models=wanted, progress=bars)
    report("parity", result, settings, as_json=json)


@app.command()
def stream(
    events: Annotated[int, typer.Option(min=100_000, help="Events on the log.")] = 10_000_000,
    users: Annotated[int, typer.Option(min=1_000, help="User ids, by Zipf's law.")] = 1_000_000,
    items: Annotated[int, typer.Option(min=1_000, help="Item ids, by Zipf's law.")] = 100_000,
    usecase: Annotated[str, typer.Option(help="Use case of the checkout; no stack needs to run.")] = "video",
    json: Json = False,
) -> None:
    """One features process on a Kafka of its own, end to end, beside kafka-python and Quix Streams.

    The first run installs Quix Streams into uv's cache.
    """
    from pathlib import Path

    from local_stack.ports import Ports
    from millrace.events.v1 import events_pb2
    from pipelines.bench.stream import run

    from millrace_cli import spare

    with measuring() as (settings, bars):
        spec = environment.usecase(settings, usecase)
        bars.stage("start Kafka")
        with spare.kafka(spec.name) as (bootstrap, home):
            protos = Path(events_pb2.__file__).parents[3]
            port = Ports.free().features_metrics
            result = run(bootstrap, home, protos, port, spec, events=events, users=users, items=items, progress=bars)
    report("stream", result, settings, as_json=json)


def _figure(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


# The larger ones have modules of their own, which add their command to `app`.
from millrace_cli import (  # noqa: E402
    bench_gateway,  # noqa: F401
    bench_gpu,  # noqa: F401
    bench_ladder,  # noqa: F401
    bench_orphans,  # noqa: F401
    bench_restarts,  # noqa: F401
    bench_swap,  # noqa: F401
)
