"""`millrace canary`: a version on its way from a few users to all, or back."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from millrace_cli import environment, output
from millrace_cli.environment import Bars
from millrace_cli.errors import GateSaidNo
from millrace_cli.models import Usecase
from millrace_cli.stack import Json

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipelines.deploy import DeployResult

    from millrace_cli.settings import Settings

app = typer.Typer(
    help="A version on its way from a few users to all: 1, 5, 25, 100 %. Begin one with `millrace deploy --canary 1`.",
    epilog="The gateways take a canary back by themselves when it fails, is slow, or scores otherwise than the pin.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

_LOOK_S = 0.5


@app.command()
def status(usecase: Usecase = None, json: Json = False) -> None:
    """What serves, to how many, and what was decided last and by whom."""
    from pipelines.decisions import newest

    settings, name = _opened(usecase)
    with environment.translated():
        decision = newest(settings.kafka, name)
    state = decision.state
    found: dict[str, Any] = {
        "usecase": name,
        "version": state.pin.version if state.HasField("pin") else None,
        "previous_version": state.previous.version if state.HasField("previous") else None,
        "canary_version": state.canary.pin.version if state.HasField("canary") else None,
        "canary_percent": state.canary.percent if state.HasField("canary") else None,
        "shadow_version": state.shadow.pin.version if state.HasField("shadow") else None,
        "shadow_share": state.shadow.share if state.HasField("shadow") else None,
        "reason": decision.reason,
        "actor": decision.actor,
    }
    if json:
        output.emit(found, home=settings.home)
        return
    table = output.table(f"{name}: what serves", "", "")
    for key, value in found.items():
        table.add_row(key.replace("_", " "), "-" if value in (None, "") else str(value))
    output.out.print(table)


@app.command()
def step(
    usecase: Usecase = None,
    percent: Annotated[
        float | None, typer.Option(help="Of users; by default the next of 1, 5, 25 and 100.", min=0.01, max=100)
    ] = None,
    json: Json = False,
) -> None:
    """Show it to more users; who is in stays in. At 100 it is the version that serves."""
    from pipelines.canary import widen

    _decide(usecase, lambda settings, name: widen(settings.kafka, name, percent), as_json=json)


@app.command()
def finish(usecase: Usecase = None, json: Json = False) -> None:
    """It serves everybody; the former version is what a rollback returns to."""
    from pipelines.canary import finish as run

    _decide(usecase, lambda settings, name: run(settings.kafka, name), as_json=json)


@app.command()
def stop(usecase: Usecase = None, json: Json = False) -> None:
    """Nobody gets it any more."""
    from pipelines.canary import stop as run

    _decide(usecase, lambda settings, name: run(settings.kafka, name), as_json=json)


@app.command()
def run(
    usecase: Usecase = None,
    hold: Annotated[float, typer.Option(min=0.1, help="Seconds at each step.")] = 600.0,
    json: Json = False,
) -> None:
    """All steps by themselves: wait, widen, wait; exit 1 as soon as the canary is taken back, by whomever."""
    from pipelines.canary import widen
    from pipelines.decisions import newest

    settings, name = _opened(usecase)
    result = None
    with Bars() as bars, environment.translated():
        version = _under_way(newest(settings.kafka, name))
        while result is None or result.canary_version is not None:
            percent = newest(settings.kafka, name).state.canary.percent
            bars.stage(f"canary of version {version} at {percent:g} %")
            ends = time.monotonic() + hold
            while time.monotonic() < ends:
                _under_way(newest(settings.kafka, name), version)
                time.sleep(_LOOK_S)
            result = widen(settings.kafka, name)
    show(settings, result, as_json=json)


def _under_way(decision: Any, version: int | None = None) -> int:
    """Version of the canary. GateSaidNo if there is none, or another than `version`."""
    state = decision.state
    if not state.HasField("canary") or version not in (None, state.canary.pin.version):
        raise GateSaidNo(
            "no canary is under way; begin one: millrace deploy --canary 1"
            if version is None
            else f"the canary of version {version} ended: {decision.reason} ({decision.actor})"
        )
    return int(state.canary.pin.version)


def _opened(usecase: str | None) -> tuple[Settings, str]:
    from millrace_cli.settings import load

    settings = load()
    return settings, environment.usecase(settings, usecase).name


def _decide(usecase: str | None, decide: Callable[[Settings, str], DeployResult], *, as_json: bool) -> None:
    settings, name = _opened(usecase)
    with environment.translated():
        result = decide(settings, name)
    show(settings, result, as_json=as_json)


def show(settings: Settings, result: DeployResult, *, as_json: bool) -> None:
    """Say what serves now."""
    if as_json:
        output.emit(asdict(result), home=settings.home)
        return
    parts = [f"version {result.version} serves"]
    if result.canary_version is not None:
        parts.append(f"version {result.canary_version} as a canary {result.canary_percent:g} % of users")
    if result.shadow_version is not None:
        parts.append(f"version {result.shadow_version} is a shadow")
    if result.previous_version is not None:
        parts.append(f"version {result.previous_version} stays for a rollback")
    output.out.print(f"{result.name}: {'; '.join(parts)}", highlight=False)
