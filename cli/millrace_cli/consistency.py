"""`millrace consistency`: what was served against what the log says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from millrace_cli import environment, output
from millrace_cli.environment import Bars
from millrace_cli.stack import Json

if TYPE_CHECKING:
    from pathlib import Path


def consistency(
    usecase: Annotated[str | None, typer.Option(help="Use case; by default the first that the stack serves.")] = None,
    impressions: Annotated[int, typer.Option(min=1, help="Compare at most so many, drawn by request id.")] = 1_000,
    age_tolerance: Annotated[
        float, typer.Option(min=0, help="Seconds: a fact that young may be unknown to a ranking.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(help="Of the sample.")] = 0,
    json: Json = False,
) -> None:
    """Recompute logged features from the lake, below the offsets that they name and as of their time.

    Exit 1 if one differs that offsets and ties do not explain. With a stack up its archive is brought up to date first;
    the report is `reports/consistency-<usecase>.json` in MILLRACE_HOME, where the gate reads it, and for Prometheus
    `reports/metrics/consistency-<usecase>.prom`.
    """
    from pipelines.consistency import run
    from pipelines.consistency.report import publish
    from pipelines.consistency.served import served_layout

    from millrace_cli.settings import load

    settings = load()
    spec = environment.usecase(settings, usecase)
    lake, is_up = environment.archive(settings, spec)
    with Bars() as bars, environment.translated():
        layout = served_layout(spec, settings.bundles, kafka=settings.kafka if is_up else None, lake=lake)
        result = run(
            layout, lake, impressions=impressions, age_tolerance_s=age_tolerance, seed=seed, progress=bars
        )  # fmt: skip
    path = publish({**result, "ran_on": output.ran_on(settings.home)}, settings.reports)
    _show(result, path)
    refusal = f"{result['logic']} logged values are explained by neither offsets nor ties; see {path}"
    output.conclude(
        {**result, "report": str(path)},
        home=settings.home, as_json=json, refusal=None if result["passed"] else refusal,
    )  # fmt: skip


def _show(result: Mapping[str, Any], path: Path) -> None:
    columns = ("mismatch", "inside", "missing", "extra", "lag", "tie", "late", "logic")
    tolerance = f"age tolerance {result['age_tolerance_s']:g} s"
    title = f"{result['impressions']:,} impressions, {result['cells']:,} values; {tolerance}"
    table = output.table(title, "feature", "values", *columns, "SMAPE")
    for name, tally in result["features"].items():
        if any(tally[column] for column in columns):
            table.add_row(
                name, f"{tally['cells']:,}", *(f"{tally[each]:,}" for each in columns), f"{tally['smape']:.2e}"
            )
    if table.row_count:
        output.out.print(table)
    output.out.print(
        f"{result['cells']:,} values of {len(result['features'])} features: {result['mismatch_rate']:.4%} differ "
        f"outside the age tolerance, {result['inside_rate']:.4%} inside it, {result['missing_rate']:.4%} served "
        f"without history; {result['inexact']:,} differ below the logged offsets",
        highlight=False,
    )
    for example in result["examples"]:
        output.out.print(f"logic: {example}", markup=False, highlight=False, soft_wrap=True)
    output.out.print(f"report: {path}", markup=False, highlight=False, soft_wrap=True)
