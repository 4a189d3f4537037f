"""`millrace promote`: ask the gate whether a trained version may serve."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from millrace_cli import environment, models, output, revisions
from millrace_cli.environment import Bars
from millrace_cli.models import Usecase
from millrace_cli.stack import Json

if TYPE_CHECKING:
    from definitions.usecase import UseCase
    from pipelines.gate.promotion import Promotion

    from millrace_cli.settings import Settings


def promote(
    version: Annotated[int | None, typer.Argument(min=1, help="Version of the bundle; by default the newest.")] = None,
    usecase: Usecase = None,
    dataset: Annotated[
        str | None, typer.Option(help="Judge on a named set, as `train --dataset`, instead of what the stack archived.")
    ] = None,
    json: Json = False,
) -> None:
    """Judge a version on rows that no compared model has seen; yes makes it champion, no says every reason.

    Either way it is a record on `decisions`. Serve the champion by `millrace deploy`.
    """
    from millrace_cli.settings import load

    settings = load()
    spec = environment.usecase(settings, usecase)
    with Bars() as bars, environment.translated():
        result = promote_bundle(settings, spec, version, dataset=dataset, bars=bars)
    if not json:
        _print(result)
    refusal = None if result.verdict.promoted else f"version {result.version} is refused"
    output.conclude(result.as_dict(), home=settings.home, as_json=json, refusal=refusal)


def promote_bundle(
    settings: Settings, spec: UseCase, version: int | None, *, dataset: str | None, bars: Bars
) -> Promotion:
    """Ask the gate. Raises the pipelines' errors."""
    from bundle import Trust
    from definitions.layout import layout_of
    from pipelines.consistency import latest
    from pipelines.datasets import load_dataset
    from pipelines.gate.hearing import kept_in
    from pipelines.gate.opening import inconsistent
    from pipelines.gate.promotion import promote as run
    from pipelines.signing import trusted
    from pipelines.training.examples import Log
    from stores.offline import Lake

    layout = layout_of(spec, revisions.revision_of(settings, spec))
    report = latest(settings.reports, spec.name)  # of another layout it says nothing about this one
    if dataset is None:
        lake = environment.archive(settings, spec)[0]
        log = Log.of_lake(lake, spec.dedupe_offsets)
    else:
        lake = Lake(settings.lake, spec.name)
        log = Log.of_dataset(load_dataset(dataset, spec, cache=settings.datasets, progress=bars))
    return run(
        models.bundle_folder(settings, spec, version),
        layout,
        log,
        trust=Trust(trusted(settings).keys),  # required, in development too
        stored=kept_in(lake),
        mlflow=settings.mlflow,
        kafka=settings.kafka,
        lake=None if dataset else lake,
        found=inconsistent(report if report and report.layout_hash == f"{layout.layout_hash:08x}" else None),
        progress=bars,
    )


def _print(result: Promotion) -> None:
    table = output.table("the version minus what it was compared with; better is above 0", "against", "metric", "rows",
                         "difference", "99 % interval")  # fmt: skip
    for each in result.verdict.comparisons:
        found = each.better
        table.add_row(
            each.against, each.metric, each.cohort, f"{found.value:+.4f}", f"{found.low:+.4f} to {found.high:+.4f}"
        )
    if result.verdict.comparisons:
        output.out.print(table)
    for reason in result.verdict.reasons:
        output.out.print(f"no: {reason}", markup=False, highlight=False, soft_wrap=True)
    if result.verdict.promoted:
        output.out.print(f"yes: {result.verdict}", markup=False, highlight=False, soft_wrap=True)
        output.out.print(f"next: millrace deploy --version {result.version}")
