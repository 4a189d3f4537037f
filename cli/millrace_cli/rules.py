"""`millrace rules`: sources, weights, diversity, exploration and business rules, changed without a deployment."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from millrace_cli import environment, output
from millrace_cli.errors import BadInput
from millrace_cli.models import Usecase
from millrace_cli.stack import Json

if TYPE_CHECKING:
    from pipelines.rules import InForce

    from millrace_cli.settings import Settings

app = typer.Typer(
    help="How lists are made: sources, weights of heads, diversity, exploration, business rules; without a deployment.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.command()
def show(usecase: Usecase = None, json: Json = False) -> None:
    """The rules in force, as JSON that `set` takes."""
    from pipelines.rules import rules_in_force

    from millrace_cli.settings import load

    settings = load()
    spec = environment.usecase(settings, usecase)
    with environment.translated():
        found = rules_in_force(settings.kafka, spec)
    _say(settings, found, as_json=json)


@app.command("set")
def set_(
    file: Annotated[Path, typer.Argument(help="YAML or JSON with the keys to change, as the use case has them.")],
    usecase: Usecase = None,
    json: Json = False,
) -> None:
    """Put rules in force, at once and for everybody; what the file does not name stays as the use case says it."""
    import yaml
    from pipelines.rules import set_rules

    from millrace_cli.settings import load

    settings = load()
    spec = environment.usecase(settings, usecase)
    try:
        said = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as exc:
        raise BadInput(f"{file}: cannot be read: {exc}") from exc
    if not isinstance(said, dict) or not said:
        raise BadInput(f"{file}: must be a mapping such as `heads: {{like: 2}}`")
    with environment.translated():
        found = set_rules(settings.kafka, spec, jsonlib.dumps(said))
    _say(settings, found, as_json=json)


@app.command()
def reset(usecase: Usecase = None, json: Json = False) -> None:
    """The use case's own rules again."""
    from pipelines.rules import set_rules

    from millrace_cli.settings import load

    settings = load()
    spec = environment.usecase(settings, usecase)
    with environment.translated():
        found = set_rules(settings.kafka, spec, "")
    _say(settings, found, as_json=json)


def _say(settings: Settings, found: InForce, *, as_json: bool) -> None:
    rules = jsonlib.loads(found.rules.to_json())
    if as_json:
        output.emit({"rules_version": found.version, "own": found.own, "rules": rules}, home=settings.home)
        return
    source = "the use case's own" if found.own else "set by a decision"
    output.out.print(f"rules version {found.version}, {source}", highlight=False)
    output.out.print_json(data=rules)
