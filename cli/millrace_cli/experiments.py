"""`millrace experiment`: begin, grow and end experiments, and see what they say."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from millrace_cli import environment, output
from millrace_cli.environment import Bars
from millrace_cli.errors import BadInput, GateSaidNo
from millrace_cli.stack import Json

if TYPE_CHECKING:
    from definitions.usecase import UseCase
    from pipelines.experiments.design import Design
    from pipelines.experiments.interleaving import Duel
    from pipelines.experiments.judging import Judgement
    from pipelines.experiments.running import ArmAsked, Placing

    from millrace_cli.settings import Settings

app = typer.Typer(
    help="Compare versions or rules on parts of the users.",
    epilog="Guide: docs/experiments.md.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Usecase = Annotated[str | None, typer.Option(help="Use case; by default the first that the stack serves.")]
Name = Annotated[str, typer.Argument(help="Name of the experiment.")]
Reason = Annotated[str, typer.Option(help="Why; it stands in the audit.")]
_ARM = "NAME=SHARE of the layer's users"


@app.callback()
def _root() -> None:
    """Keep the group a group."""


@app.command()
def start(
    name: Name,
    arm: Annotated[
        list[str],
        typer.Option(
            help=f"{_ARM}, then what it changes: ,version=N a deployed bundle, ,rules=FILE JSON of serving rules. "
            "At least two, e.g. --arm new=0.1,version=7 --arm control=0.1."
        ),
    ],
    users: Annotated[int, typer.Option(min=1, help="How many users it is planned for: intervals are narrowest there.")],
    control: Annotated[str, typer.Option(help="The arm that the others are compared with.")] = "control",
    layer: Annotated[
        str, typer.Option(help="Experiments of one layer share its users; those of two layers are independent.")
    ] = "default",
    primary: Annotated[str, typer.Option(help="The metric that decides; by default reward_per_user.")] = "",
    interleave: Annotated[
        bool, typer.Option("--interleave", help="Two arms draft each list together: finds a preference with few users.")
    ] = False,
    reason: Reason = "",
    usecase: Usecase = None,
    json: Json = False,
) -> None:
    """Begin: each user gets an arm and keeps it. Name beforehand what decides, and how many users there will be."""
    from pipelines.experiments import running

    from millrace_cli.settings import load

    settings = load()
    spec = environment.usecase(settings, usecase)
    asked = [_arm(settings, spec, text) for text in arm]
    with Bars() as bars, environment.translated():
        design = running.start(
            settings.kafka,
            spec,
            name,
            asked,
            layer=layer,
            control=control,
            primary=primary,
            planned_users=users,
            placing=_placing(settings),
            interleaved=interleave,
            reason=reason,
            progress=bars,
        )
    _say(settings, spec, [design], as_json=json)


@app.command()
def grow(
    name: Name,
    arm: Annotated[list[str], typer.Option(help=f"{_ARM}; arms that are not named keep theirs.")],
    reason: Reason = "",
    usecase: Usecase = None,
    json: Json = False,
) -> None:
    """Give arms other shares. While all grow alike nobody changes arms; else counting begins anew."""
    from pipelines.experiments import running

    from millrace_cli.settings import load

    settings = load()
    spec = environment.usecase(settings, usecase)
    shares = dict(_share(text) for text in arm)
    with environment.translated():
        design = running.grow(settings.kafka, spec, name, shares, reason=reason)
    _say(settings, spec, [design], as_json=json)


@app.command()
def stop(name: Name, reason: Reason = "", usecase: Usecase = None, json: Json = False) -> None:
    """End: everybody is served alike again. What was found stays in the lake: `millrace experiment report`."""
    from pipelines.experiments import running

    from millrace_cli.settings import load

    settings = load()
    spec = environment.usecase(settings, usecase)
    with environment.translated():
        running.stop(settings.kafka, spec, name, placing=_placing(settings), reason=reason)
    if json:
        output.emit({"usecase": spec.name, "stopped": name}, home=settings.home)
    else:
        output.out.print(f"{name} has ended; what it found: millrace experiment report {name}", highlight=False)


@app.command()
def status(usecase: Usecase = None, json: Json = False) -> None:
    """List what runs, with arms and shares."""
    from pipelines.experiments import running

    from millrace_cli.settings import load

    settings = load()
    spec = environment.usecase(settings, usecase)
    with environment.translated():
        found = running.running(settings.kafka, spec)
    _say(settings, spec, found, as_json=json)


@app.command()
def report(name: Name, usecase: Usecase = None, json: Json = False) -> None:
    """Say what an experiment found so far, and write a page. Look as often as you like; exit 1 if it is void."""
    from pipelines.experiments.design import design_of, metrics_of
    from pipelines.experiments.interleaving import duel
    from pipelines.experiments.judging import judge
    from pipelines.experiments.page import write_page
    from stores.offline import Lake

    from millrace_cli.settings import load

    settings = load()
    spec = environment.usecase(settings, usecase)
    environment.flush_archiver(settings)
    lake = Lake(settings.lake, spec.name)
    with Bars() as bars, environment.translated():
        design = design_of(lake, spec.name, name)
        bars.stage("read the lake and judge")
        if design.interleaved:
            _say_duel(settings, duel(lake, spec, design), as_json=json)
            return
        found = judge(lake, spec, design)
    path = settings.reports / "experiments" / f"{spec.name}-{name}.html"
    write_page(found, metrics_of(spec), path, usecase=spec.name, commit=output.commit() or "")
    if json:
        output.emit({"usecase": spec.name, **found.as_dict(), "report": str(path)}, home=settings.home)
    else:
        _say_found(found, path)
    if found.checks.void:
        raise typer.Exit(GateSaidNo.exit_code)


def _arm(settings: Settings, spec: UseCase, text: str) -> ArmAsked:
    """`new=0.1,version=7,rules=FILE`."""
    from pipelines.experiments.running import ArmAsked

    from millrace_cli.models import bundle_folder, check_built

    first, *more = text.split(",")
    name, share = _share(first)
    options = dict(each.split("=", 1) for each in more if "=" in each)
    if len(options) != len(more) or set(options) - {"version", "rules"}:
        raise BadInput(f"--arm {text!r}: after the share may come version=N and rules=FILE, separated by commas")
    version, rules = options.get("version"), options.get("rules")
    if version is not None and not version.isdecimal():
        raise BadInput(f"--arm {text!r}: version={version} is no number")
    folder = None if version is None else bundle_folder(settings, spec, int(version))
    if folder is not None:
        check_built(settings, spec, folder)
    try:
        said = "" if rules is None else Path(rules).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise BadInput(f"--arm {text!r}: {rules} cannot be read: {exc}") from exc
    return ArmAsked(name, share, folder, said)


def _share(text: str) -> tuple[str, float]:
    name, _, share = text.partition("=")
    try:
        return name.strip(), float(share)
    except ValueError as exc:
        raise BadInput(f"--arm {text!r}: {_ARM}, e.g. --arm new=0.1") from exc


def _placing(settings: Settings) -> Placing:
    """Into what the running stack has."""
    from pipelines.experiments.running import Placing
    from pipelines.signing import trusted

    triton = environment.server(settings, "triton")
    return Placing(
        triton=triton,
        repository=environment.repository(settings) if triton else None,
        trust=trusted(settings),
        promoted_only=settings.env == "production",
    )


def _say(settings: Settings, spec: UseCase, designs: list[Design], *, as_json: bool) -> None:
    if as_json:
        output.emit({"usecase": spec.name, "experiments": [_as_dict(each) for each in designs]}, home=settings.home)
        return
    if not designs:
        output.out.print(f"no experiment runs on {spec.name}; begin one: millrace experiment start", highlight=False)
        return
    table = output.table(f"Experiments on {spec.name}", "experiment", "layer", "arm", "share", "places", "decides")
    for design in designs:
        places = ", ".join(f"{begin:.4g} to {end:.4g}" for begin, end in design.split.segments)
        for place, (arm, share) in enumerate(zip(design.arms, design.shares, strict=True)):
            role = " (control)" if arm == design.control != "control" else ""
            first = (design.name, design.layer) if place == 0 else ("", "")
            table.add_row(*first, arm + role, f"{share:.4g}", places if place == 0 else "", design.primary)
    output.out.print(table)


def _as_dict(design: Design) -> dict[str, Any]:
    return {
        "name": design.name,
        "layer": design.layer,
        "arms": dict(zip(design.arms, design.shares, strict=True)),
        "control": design.control,
        "primary": design.primary,
        "planned_users": design.planned_users,
        "since_us": design.since_us,
        "interleaved": design.interleaved,
        "segments": [list(each) for each in design.split.segments],
    }


def _say_found(found: Judgement, path: Path) -> None:
    from pipelines.experiments.page import headline, p_text

    output.out.print(headline(found), highlight=False)
    for reason in found.checks.void:
        output.err.print(f"void: {reason}", style="yellow", markup=False, highlight=False)
    table = output.table(
        f"{found.users:,} users of {found.design.planned_users:,} planned; sample ratio p "
        f"{p_text(found.checks.sample_ratio_p)}",
        "metric", "arm", found.design.control, "arm's", "difference", "always valid, 95 %", "p", "adjusted p",
    )  # fmt: skip
    for each in found.found:
        primary = each.metric == found.design.primary
        table.add_row(
            each.metric + (" (decides)" if primary else ""),
            each.treatment_arm,
            f"{each.estimate.control:.4g}",
            f"{each.estimate.treatment:.4g}",
            _signed(each.estimate.effect),
            f"{_signed(each.low)} to {_signed(each.high)}",
            p_text(each.p),
            "" if primary else p_text(found.adjusted_p.get((each.treatment_arm, each.metric))),
        )
    output.out.print(table)
    output.out.print(f"report: {path}", highlight=False)


def _say_duel(settings: Settings, found: Duel, *, as_json: bool) -> None:
    from pipelines.experiments.judging import finite

    if as_json:
        output.emit(finite({**asdict(found), "verdict": found.verdict}), home=settings.home)
        return
    from pipelines.experiments.page import p_text

    each = found.preference
    one, other, ties = each.wins
    output.out.print(
        f"{found.verdict}: {_signed(each.value)} ({_signed(each.low)} to {_signed(each.high)}, always valid), "
        f"p {p_text(each.p)}\n{found.lists:,} drafted lists of {each.users:,} users: {other:,} won by {found.other}, "
        f"{one:,} by {found.control}, {ties:,} ties; {found.alone:,} lists were {found.control}'s alone",
        highlight=False,
    )


def _signed(value: float) -> str:
    return f"{value:+.4g}" if math.isfinite(value) else "?"
