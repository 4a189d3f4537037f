"""`millrace certs`: an authority, certificates and token keys for development."""

import time
from typing import Annotated

import typer

from millrace_cli import output, secured
from millrace_cli.errors import BadInput

app = typer.Typer(add_completion=False, help="Make certificates and token keys for development; `token` signs a token.")

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line.")]


@app.callback(invoke_without_command=True)
def certs(
    ctx: typer.Context,
    new: Annotated[bool, typer.Option("--new", help="Make everything anew; what was handed out ends.")] = False,
    host: Annotated[
        list[str] | None, typer.Option(help="A further name or address of the servers; makes everything anew.")
    ] = None,
    json: Json = False,
) -> None:
    """Make an authority, the servers' and clients' certificates and a key pair for tokens, where they are absent."""
    if ctx.invoked_subcommand is not None:
        return
    from millrace_cli import settings as environment

    settings = environment.load()
    if settings.env == "production":
        raise BadInput("millrace certs: makes a development authority; production brings its own")
    made = secured.make(settings, new=new, hosts=tuple(host or ()))
    files = secured.files(settings)
    clients = sorted(path.stem for path in (files.root / "clients").glob("*.pem"))
    if json:
        output.emit(
            {
                "made": made, "folder": str(files.root), "ca": str(files.ca), "server": str(files.server),
                "clients": clients, "token_public_keys": str(files.token_public_keys),
                "secured": secured.is_on(settings),
            }
        )  # fmt: skip
        return
    said = "made" if made else "kept; --new makes them anew"
    output.out.print(f"{files.root}: {said}", markup=False, highlight=False, soft_wrap=True)
    output.out.print(f"clients: {', '.join(clients)}; tokens: millrace certs token", markup=False, highlight=False)
    if not secured.is_on(settings):
        output.out.print("the stack takes them with: millrace up --secured", markup=False, highlight=False)


@app.command()
def token(
    caller: Annotated[str, typer.Option(help="Who it speaks for: quotas and logs know the caller by it.")] = "shop",
    role: Annotated[list[str] | None, typer.Option(help="A role that it grants; rank.read without any.")] = None,
    minutes: Annotated[float, typer.Option(help="How long it lasts.")] = 480.0,
    json: Json = False,
) -> None:
    """Print a token of a product caller, signed by the development key."""
    from servicekit.security import development
    from servicekit.security.errors import SecurityFilesError
    from servicekit.security.policy import ROLES

    from millrace_cli import settings as environment

    roles = role or ["rank.read"]
    if unknown := sorted(set(roles) - set(ROLES)):
        raise BadInput(f"--role {unknown[0]}: take of {', '.join(ROLES)}")
    if not 0 < minutes <= 60 * 24 * 365:
        raise BadInput(f"--minutes {minutes:g}: must be above 0, and a year at most")
    if not caller:
        raise BadInput("--caller: is empty; say who the token speaks for")
    now_s = time.time()
    try:
        said = development.token(secured.files(environment.load()), caller, roles, now_s=now_s, seconds=minutes * 60)
    except SecurityFilesError as exc:
        raise BadInput(str(exc)) from exc
    if json:
        output.emit({"token": said, "caller": caller, "roles": roles, "expires": int(now_s + minutes * 60)})
    else:
        typer.echo(said)
