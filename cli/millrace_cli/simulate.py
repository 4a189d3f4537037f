"""`millrace simulate`: users of a world with known truth ask the running stack, and react to what it serves."""

from __future__ import annotations

import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from millrace_cli import environment, output
from millrace_cli.environment import Bars
from millrace_cli.errors import BadInput, EnvironmentAtFault
from millrace_cli.stack import Json

if TYPE_CHECKING:
    from simulator.live import Outcome


def simulate(
    requests: Annotated[int, typer.Option(min=1, help="How many more requests users make.")] = 1_000,
    seconds: Annotated[float | None, typer.Option(min=0, help="Stop after so long, if not done before.")] = None,
    rate: Annotated[float, typer.Option(min=0, help="Requests a second; 0 = as fast as it goes.")] = 50.0,
    seed: Annotated[int, typer.Option(min=0, help="Of everything random: the same seed is the same world.")] = 0,
    users: Annotated[int, typer.Option(min=1, help="How many people there are.")] = 1_000,
    items: Annotated[int, typer.Option(min=50, help="How many items come and go.")] = 600,
    days: Annotated[float, typer.Option(min=0.01, help="How far in the past the world begins.")] = 14.0,
    call: Annotated[
        Literal["rank", "recommend"],
        typer.Option(help="rank: the world's own candidates; recommend: the gateway finds them."),
    ] = "rank",
    slots: Annotated[int, typer.Option(min=1, max=100, help="Length of a list.")] = 10,
    together: Annotated[int, typer.Option(min=1, max=256, help="Users who ask at the same time.")] = 8,
    profile: Annotated[Path | None, typer.Option(help="A profile of your own; by default the use case's.")] = None,
    usecase: Annotated[str | None, typer.Option(help="Use case; by default the first that the stack serves.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget the saved run of this seed and begin anew.")] = False,
    json: Json = False,
) -> None:
    """Let simulated users ask, react and report, e.g. `millrace simulate --requests 1000`; a repeat goes on from there.

    What was true (chances, interests, examination) is written under MILLRACE_HOME/simulator, for evaluation only.
    """
    from simulator.errors import BadWorld, StackAway
    from simulator.live import Plan
    from simulator.wiring import drive, folder_of, profile_for, spec_for

    from millrace_cli.settings import load

    settings = load()
    spec = environment.usecase(settings, usecase)
    folder = folder_of(settings.home / "simulator", spec, seed)
    ends = None if seconds is None else time.monotonic() + seconds
    try:
        world = spec_for(
            folder, profile_for(spec, profile), seed=seed, users=users, items=items, days=days, fresh=fresh
        )
        plan = Plan(folder, requests, rate=rate, together=together, slots=slots, call=call)
        with Bars() as bars:
            bars.stage("simulate", requests)
            outcome = drive(
                world, spec, environment.gateway(settings), environment.collector(settings), plan,
                progress=bars.advance, stop=lambda: ends is not None and time.monotonic() > ends,
            )  # fmt: skip
    except BadWorld as exc:
        raise BadInput(str(exc)) from exc
    except StackAway as exc:
        raise EnvironmentAtFault(str(exc)) from exc
    figures: dict[str, Any] = {"usecase": spec.name, "seed": seed, **asdict(outcome), "truth": str(folder / "truth")}
    if json:
        output.emit(figures, home=settings.home)
    else:
        _say(outcome, folder)


def _say(outcome: Outcome, folder: Path) -> None:
    clock = datetime.fromtimestamp(outcome.clock_us / 1e6, UTC)
    rungs = ", ".join(f"{count:,} {rung}" for rung, count in outcome.rungs.items()) or "none"
    output.out.print(
        f"{outcome.requests:,} requests ({rungs}; {outcome.failed} failed), {outcome.events:,} events published, "
        f"{outcome.waiting:,} wait for their time; {outcome.clicks_per_list:.2f} clicks a list. The world's clock is "
        f"at {clock:%Y-%m-%d %H:%M} UTC{', the present' if outcome.reached_now else ''}. Truth: {folder / 'truth'}",
        highlight=False,
    )
