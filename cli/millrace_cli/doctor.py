"""`millrace doctor`: what this machine has and lacks."""

from typing import Annotated

import typer

from millrace_cli import output
from millrace_cli.errors import EnvironmentAtFault


def doctor(
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line.")] = False,
) -> None:
    """Say what this machine has, what it lacks, who needs it and what to do; exit 3 if no profile can start."""
    from dataclasses import asdict

    from local_stack.doctor import examine
    from local_stack.home import Home
    from local_stack.plan import choose_profile

    from millrace_cli import settings as environment

    settings = environment.load()
    environ = environment.environ()
    checks = examine(Home(settings.home), settings.port_offset, environ)
    profile, why = choose_profile(None, environ)
    broken = [check.name for check in checks if check.fatal]
    if json:
        result = {
            "default_profile": profile,
            "why": why,
            "ok": not broken,
            "checks": [asdict(each) | {"ok": each.ok} for each in checks],
        }
        output.emit(result, home=settings.home)
    else:
        table = output.table("This machine", "what", "found", "", "needed by", "remedy")
        for check in checks:
            mark = "[green]ok[/]" if check.ok else "[red]no[/]" if check.fatal else "[yellow]no[/]"
            table.add_row(check.name, check.found, mark, check.needed_by, check.remedy)
        output.out.print(table)
        output.out.print(f"Without --profile: {profile}, because: {why}", markup=False, highlight=False)
    if broken:
        raise typer.Exit(EnvironmentAtFault.exit_code)
