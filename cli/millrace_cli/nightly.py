"""The nightly jobs: `millrace precompute`, every user's list as a verified generation, and `millrace compact`."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from millrace_cli import environment, output
from millrace_cli.ask import At, event_time_us
from millrace_cli.environment import Bars
from millrace_cli.errors import BadInput
from millrace_cli.stack import Json

if TYPE_CHECKING:
    from definitions.usecase import UseCase

    from millrace_cli.settings import Settings

_READ_S = 5.0  # nobody waits for a single answer here
_DAY_US = 86_400_000_000


def precompute(
    usecase: Annotated[str | None, typer.Option(help="Use case; by default the first that the stack serves.")] = None,
    at: At = None,
    run_id: Annotated[
        str | None,
        typer.Option(
            help="Generation: 20260131T020000Z or 20260131T020000Z-name; `today` is this UTC day at 00:00:00; "
            "by default the time now."
        ),
    ] = None,
    length: Annotated[int, typer.Option(min=1, max=1000, help="Items in each list.")] = 100,
    json: Json = False,
) -> None:
    """Score every user with the model that serves, write a generation, verify it, and show it to readers.

    A run that was cut off continues under the same --run-id (`today` names it again until midnight UTC); a finished one
    changes nothing.
    """
    from millrace_cli.settings import load

    settings = load()
    spec = environment.usecase(settings, usecase)
    with Bars() as bars, environment.translated():
        figures = run_precompute(settings, spec, at=at, run_id=run_id, length=length, bars=bars)
    if json:
        output.emit(figures, home=settings.home)
        return
    output.out.print(
        f"generation {figures['run_id']}: {figures['users']:,} users, {figures['rows']:,} rows, read back equal "
        f"(checksum {figures['checksum']:016x}), by {figures['model_version']}; readers see it now "
        f"({figures['seconds']:.1f} s, {figures['store']})",
        highlight=False,
    )


def compact(
    keep_hours: Annotated[
        int,
        typer.Option(min=1, help="Hours that files which nothing names any more stay, for readers of older versions."),
    ] = 168,
    json: Json = False,
) -> None:
    """Merge the lake's small files and remove what no commit names any more; archiving goes on meanwhile.

    Rows and positions stay as they are. A run that was cut off is finished by the next one.
    """
    from archiver.compaction import compact as run

    from millrace_cli.settings import load

    settings = load()
    begun = time.monotonic()
    with Bars() as bars, environment.translated():
        usecases = [environment.usecase(settings, name).name for name in settings.usecases]
        bars.stage("merge small files")
        done = run(settings.lake, usecases, keep_hours)
    if json:
        tables = {name: asdict(upkeep) for name, upkeep in done.items()}
        output.emit({"tables": tables, "seconds": round(time.monotonic() - begun, 2)}, home=settings.home)
        return
    shown = output.table("lake", "table", "files merged", "into", "files removed")
    for name, upkeep in done.items():
        shown.add_row(name, f"{upkeep.merged:,}", f"{upkeep.into:,}", f"{upkeep.removed:,}")
    output.out.print(shown)


def generation_id(asked: str | None, now_us: int) -> str:
    """The run id asked for; the time now where none is, and the UTC day's beginning for `today`.

    A nightly job that is tried again the same day so continues its generation instead of beginning another.
    """
    from stores.batch import new_run_id

    if asked is None:
        return new_run_id(now_us)
    return new_run_id(now_us - now_us % _DAY_US) if asked == "today" else asked


def run_precompute(
    settings: Settings, spec: UseCase, *, at: str | None, run_id: str | None, length: int, bars: Bars
) -> dict[str, Any]:
    """One generation with what the running stack has. Raises the pipelines' and stores' errors."""
    from bundle import bundle_layout
    from definitions.serving_rules import ServingRules
    from pipelines.precompute import Plan
    from pipelines.precompute import precompute as run
    from pipelines.rules import rules_of
    from pipelines.serving_view import item_snapshot, pinned
    from stores.batch import open_batch
    from stores.batch.rows import run_time_us
    from stores.online import open_online

    from pipelines import journal

    begun = time.monotonic()
    loaded = journal.read(settings.home, spec.name)
    now_us = time.time_ns() // 1_000
    time_us = event_time_us(at, None if loaded is None else loaded.newest_us) or now_us
    run_id = generation_id(run_id, now_us)
    try:
        run_time_us(run_id)
    except ValueError as exc:
        raise BadInput(f"--run-id: {exc}") from exc
    cassandra, valkey = (environment.server(settings, name) for name in ("cassandra", "valkey"))
    serving = pinned(settings.kafka, spec.name, settings.bundles)
    layout = bundle_layout(serving.bundle, spec)
    bars.stage("read the catalogue and its aggregates")
    items = item_snapshot(settings.kafka, layout)
    rows = open_online(spec.name, serving.revision, valkey=valkey, lmdb_path=settings.online_path)
    store = open_batch(cassandra, settings.batch_path, read_timeout_s=_READ_S)
    try:
        store.ensure_schema()
        plan = Plan(spec.name, run_id, time_us, list_length=length)
        users = len(rows.all_ids())
        bars.stage("score and write users", users)
        generation = run(
            plan,
            layout,
            serving.bundle,
            ServingRules(rules_of(layout.usecase, serving.rules), layout),
            rows,
            items,
            store,
            threads=2,
            device=settings.scoring_device,
            progress=bars.advance,
        )
    finally:
        rows.close()
        store.close()
    return {
        "usecase": spec.name,
        "run_id": run_id,
        **asdict(generation.summary),
        "previous_run_id": generation.pointer.previous_run_id,
        "resumed_buckets": generation.resumed_buckets,
        "model_version": generation.model_version,
        "at_us": time_us,
        "store": "SQLite" if cassandra is None else "Cassandra",
        "seconds": round(time.monotonic() - begun, 2),
    }
