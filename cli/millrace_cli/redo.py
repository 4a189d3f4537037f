"""`millrace redo`: logged decisions made again, bit for bit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from millrace_cli import environment, output
from millrace_cli.ask import Usecase
from millrace_cli.environment import Bars
from millrace_cli.errors import BadInput
from millrace_cli.stack import Json

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from definitions.usecase import UseCase
    from stores.offline import Lake

    from millrace_cli.settings import Settings

LAST = 1_000


def redo(
    requests: Annotated[
        list[str] | None, typer.Argument(help="Request ids, as answers name them; none = the last decisions.")
    ] = None,
    last: Annotated[int, typer.Option(min=1, help="Without request ids: so many, newest first.")] = LAST,
    features: Annotated[
        bool, typer.Option("--features", help="Also rebuild their features from the log below the logged offsets.")
    ] = False,
    usecase: Usecase = None,
    json: Json = False,
) -> None:
    """Score the logged features of decisions by the very bundle, re-rank by the very rules, and compare every bit.

    E.g. `millrace redo 1234567890123456789` or `millrace redo --last 1000 --json`. Exit 1 if one is not the same, or
    could not be made again. With a stack up its archive is brought up to date first; the report is
    `reports/redo-<usecase>.json` in MILLRACE_HOME, and for Prometheus `reports/metrics/redo-<usecase>.prom`.
    """
    from pipelines.redo import publish, run

    from millrace_cli.settings import load

    settings = load()
    spec = environment.usecase(settings, usecase)
    wanted = [request_id(text) for text in requests or []]
    lake, is_up = environment.archive(settings, spec)
    with Bars() as bars, environment.translated():
        result = run(spec, lake, settings.bundles, request_ids=wanted, last=last, progress=bars)
        if features:
            ids = [each["request_id"] for each in result["requests"]] if wanted else _redone(lake, last)
            result["features"] = _rebuilt(settings, spec, lake, ids, bars, is_up=is_up)
            result["passed"] = result["passed"] and result["features"]["passed"]
    path = publish({**result, "ran_on": output.ran_on(settings.home)}, settings.reports)
    _show(result, path)
    refusal = None if result["passed"] else f"of {result['decisions']} decisions, {_failed(result)}; see {path}"
    output.conclude({**result, "report": str(path)}, home=settings.home, as_json=json, refusal=refusal)


def request_id(text: str) -> int:
    """A request's id as answers name it. Raises BadInput."""
    if not text.isdecimal() or not 0 < int(text) < 2**64:
        raise BadInput(f"{text}: no request id; give the number that an answer names, from 1 to 2**64 - 1")
    return int(text)


def _redone(lake: Lake, last: int) -> list[int]:
    from pipelines.redo.logged import newest

    return [each.request_id for each in newest(lake, last)]


def _rebuilt(
    settings: Settings, spec: UseCase, lake: Lake, ids: list[int], bars: Bars, *, is_up: bool
) -> dict[str, Any]:
    """The consistency job on these requests: their features from the log alone."""
    from pipelines.consistency import run
    from pipelines.consistency.served import served_layout

    layout = served_layout(spec, settings.bundles, kafka=settings.kafka if is_up else None, lake=lake)
    return run(layout, lake, impressions=len(ids), request_ids=ids, progress=bars)


def _show(result: Mapping[str, Any], path: Path) -> None:
    out = output.out
    out.print(
        f"{result['equal']:,} of {result['decisions']:,} decisions are the same to the bit: "
        f"{result['scores_compared']:,} scores, {result['orders_equal']:,} orders with their propensities",
        highlight=False,
    )
    for what in ("models", "rungs", "arms"):
        if result[what]:
            out.print(f"{what}: {', '.join(f'{name} {n:,}' for name, n in result[what].items())}", highlight=False)
    for each in result["requests"]:
        out.print(
            f"request {each['request_id']}: {each['model'] or 'no model'} on {each['rung']}, {each['shown']} shown of "
            f"{each['candidates']} logged; scores {_said(each['scores_equal'])}, order {_said(each['order_equal'])}",
            highlight=False,
        )
    if result["mismatched"]:
        out.print(
            f"{result['mismatched']:,} differ, {result['within_parity']:,} of them by at most 1e-5 a score: another "
            f"machine or a GPU may have scored them; {result['worst']:.3g} at most",
            highlight=False,
        )
    for reason, count in result["untold"].items():
        out.print(f"{count:,} could not be made again: {reason}", markup=False, highlight=False, soft_wrap=True)
    for example in result["examples"]:
        for text in example["differs"]:
            out.print(f"request {example['request_id']}: {text}", markup=False, highlight=False, soft_wrap=True)
    if "features" in result:
        found = result["features"]
        out.print(
            f"features rebuilt from the log: {found['cells']:,} values of {found['impressions']:,} decisions, "
            f"{found['inexact']:,} differ below the logged offsets, {found['logic']:,} without an explanation",
            highlight=False,
        )
    out.print(f"report: {path}", markup=False, highlight=False, soft_wrap=True)


def _failed(result: Mapping[str, Any]) -> str:
    counts = {"are not the same": result["mismatched"], "could not be made again": result["unredone"]}
    if "features" in result:
        counts["values of features are not explained"] = result["features"]["logic"]
    return ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)


def _said(same: bool | None) -> str:
    return {True: "the same", False: "NOT the same", None: "not compared"}[same]
