"""`millrace up`, `down` and `status`: the native stack."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from millrace_cli import output
from millrace_cli.errors import BadInput, EnvironmentAtFault, GateSaidNo

if TYPE_CHECKING:
    from local_stack.plan import Profile
    from local_stack.supervisor import Part, Up

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line.")]


def up(
    profile: Annotated[
        str | None, typer.Option(help="embedded or real; by default real where Java 17 and Maven are found.")
    ] = None,
    secured: Annotated[
        bool | None,
        typer.Option(
            "--secured/--plaintext",
            help="Whether gateway and collector ask for certificates and tokens; by default as before, at first not.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Start the stack and wait until all of it works. What runs already is kept."""
    from millrace_cli import settings as environment
    from millrace_cli.secured import choose

    if profile not in (None, "embedded", "real"):
        raise BadInput(f"--profile {profile}: take embedded or real")
    settings = environment.load()
    choose(settings, secured)
    done = start(profile)  # type: ignore[arg-type]  # checked above
    parts = [*done.plan.given, *(part.name for part in done.plan.components)]
    for note in done.notes:
        output.err.print(f"note: {note}", markup=False, highlight=False)
    summary = f"{len(parts)} parts are ready in {done.seconds:.1f} s, profile {done.plan.profile}: {done.plan.why}"
    if json:
        result = {"profile": done.plan.profile, "why": done.plan.why, "seconds": round(done.seconds, 2)}
        output.emit({**result, "ready_s": done.ready_s, "kept": done.kept, "notes": done.notes}, home=settings.home)
    else:
        output.out.print(summary, markup=False, highlight=False)


def start(profile: "Profile | None") -> "Up":
    """What `up` does, for commands that need a running stack. Raises CommandError."""
    from definitions.errors import DefinitionsError
    from definitions.usecase import find_usecase
    from local_stack.errors import StackError
    from local_stack.home import Home
    from local_stack.plan import Options
    from local_stack.supervisor import up as bring_up

    from millrace_cli import revisions, secured
    from millrace_cli import settings as environment

    settings = environment.load()
    try:
        usecases = {
            find_usecase(name, settings.usecase_dir).name: environment.absolute(name) for name in settings.usecases
        }
    except DefinitionsError as exc:
        raise BadInput(str(exc)) from exc
    services = [
        each
        for spec in environment.service_specs(settings)
        for each in (revisions.feature_specs(spec, settings, usecases) if spec.name == "features" else [spec])
    ]
    options = Options(
        home=Home(settings.home),
        offset=settings.port_offset,
        environ=environment.environ(),
        services=services,
        topic_usecases=list(usecases),
        more_topics=revisions.Revisions.read(settings).topics(list(usecases)),
        models=settings.models,
        profile=profile,
        defaults={
            **({} if settings.env == "production" else {"MILLRACE_ALLOW_REQUEST_TIME": "true"}),
            **secured.server_settings(settings),
        },
    )
    with output.steps("up") as tell:
        try:
            return bring_up(options, tell)
        except StackError as exc:
            raise EnvironmentAtFault(str(exc)) from exc


def down(json: Json = False) -> None:
    """Stop every process of the stack, last wave first; its state stays."""
    import time

    begun = time.monotonic()
    killed = stop()
    seconds = round(time.monotonic() - begun, 2)
    if json:
        output.emit({"seconds": seconds, "killed": killed})
    else:
        forced = f"; killed after their time was up: {', '.join(killed)}" if killed else ""
        output.out.print(f"down in {seconds:.1f} s{forced}", markup=False, highlight=False)


def stop() -> list[str]:
    """What `down` does, for commands that started the stack; names of what had to be killed. Raises CommandError."""
    from local_stack.errors import StackError
    from local_stack.home import Home
    from local_stack.supervisor import down as take_down

    from millrace_cli import settings as environment

    with output.steps("down") as tell:
        try:
            return take_down(Home(environment.load().home), tell)
        except StackError as exc:
            raise EnvironmentAtFault(str(exc)) from exc


def status(json: Json = False) -> None:
    """Show each process of the stack; exit 1 if one that should run does not work."""
    from dataclasses import asdict

    from local_stack.errors import StackError
    from local_stack.home import Home
    from local_stack.supervisor import status as look

    from millrace_cli import settings as environment

    home = environment.load().home
    try:
        found = look(Home(home))
    except StackError as exc:
        raise EnvironmentAtFault(str(exc)) from exc
    if json:
        output.emit(
            {
                "up": found.profile is not None,
                "healthy": found.healthy,
                "parts": [asdict(part) for part in found.parts],
            },
            home=home,
        )
    elif found.profile is None:
        output.out.print("no stack is up: `millrace up` starts one", markup=False, highlight=False)
    else:
        output.out.print(_status_table(found.profile, found.parts))
    broken = [part.name for part in found.parts if part.state not in ("ready", "given")]
    if broken:
        raise typer.Exit(GateSaidNo.exit_code)


def _status_table(profile: str, parts: "list[Part]") -> Any:
    from rich.markup import escape

    table = output.table(f"Stack, profile {profile}", "process", "state", "pid", "ports", "uptime", "RSS", "")
    styles = {"ready": "green", "given": "green", "not ready": "yellow", "dead": "red"}
    for part in parts:
        table.add_row(
            part.name,
            f"[{styles[part.state]}]{part.state}[/]",
            str(part.pid or "-"),
            " ".join(f"{label}:{port}" for label, port in part.ports.items()),
            _duration(part.uptime_s),
            "-" if part.rss_bytes is None else f"{part.rss_bytes / 2**20:,.0f} MiB",
            escape(part.detail),
        )
    return table


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    minutes, left = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m" if hours else f"{minutes}m{left:02}s" if minutes else f"{left}s"
