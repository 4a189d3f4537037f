"""`millrace`: the list of commands. A command's module is imported when it is typed, so that `--help` is fast."""

import importlib
import sys
from collections.abc import Sequence
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from millrace_cli.errors import CommandError

# name: (module:function, help). The function's signature is its options, by typer; a new command is one line. A
# `typer.Typer` instead of a function is a group of commands.
COMMANDS: dict[str, tuple[str, str]] = {
    "up": ("millrace_cli.stack:up", "Start the stack and wait until all of it works."),
    "down": ("millrace_cli.stack:down", "Stop every process of the stack; its state stays."),
    "status": ("millrace_cli.stack:status", "Show each process: pid, ports, uptime, memory, and whether it works."),
    "demo": ("millrace_cli.demo:demo", "Run the whole loop once and say how it went."),
    "load": ("millrace_cli.data:load", "Publish a data set, a public one or your own files."),
    "replay": (
        "millrace_cli.data:replay",
        "Run the loaded data's tail through the stack, scored before published.",
    ),
    "simulate": ("millrace_cli.simulate:simulate", "Let users of a world with known truth ask, react and report."),
    "rank": ("millrace_cli.ask:rank", "Order items for a user."),
    "recommend": ("millrace_cli.ask:recommend", "Find and order items for a user."),
    "train": ("millrace_cli.models:train", "Train the ladder, export it and write a bundle."),
    "evaluate": ("millrace_cli.evaluating:evaluate", "Measure a bundle, or report on all models and alternatives."),
    "explain": ("millrace_cli.explaining:explain", "Say why the served model scores a user's items as it does."),
    "redo": ("millrace_cli.redo:redo", "Make logged decisions again and compare every bit."),
    "promote": ("millrace_cli.gate:promote", "Ask the gate whether a trained version may serve."),
    "deploy": ("millrace_cli.models:deploy", "Serve a bundle, without a failed request."),
    "canary": ("millrace_cli.canary:app", "A version on its way from a few users to all, or back."),
    "shadow": ("millrace_cli.shadow:app", "A version that scores copies of requests and is never shown."),
    "rules": ("millrace_cli.rules:app", "How lists are made, changed without a deployment."),
    "rollback": ("millrace_cli.models:rollback", "Serve the version that served before."),
    "experiment": ("millrace_cli.experiments:app", "Compare versions or rules on parts of the users."),
    "precompute": ("millrace_cli.nightly:precompute", "Write every user's list as a verified generation."),
    "compact": ("millrace_cli.nightly:compact", "Merge the lake's small files and remove what nothing names."),
    "feast": ("millrace_cli.feast:app", "Feast for other teams: registry, SDK and UI over what we serve."),
    "loadtest": ("millrace_cli.loadtest:loadtest", "Load the gateway and judge what it answers by targets."),
    "consistency": ("millrace_cli.consistency:consistency", "Compare what was served with what the log says."),
    "rebuild": ("millrace_cli.rebuild:rebuild", "Make derived state from what was archived: anew, or a next revision."),
    "retire": ("millrace_cli.retire:retire", "Give a former revision's derived state up."),
    "certs": ("millrace_cli.certs:app", "Make certificates and token keys for development."),
    "bench": ("millrace_cli.bench:app", "Measure one part, beside what one would take instead."),
    "doctor": ("millrace_cli.doctor:doctor", "Say what this machine has, what it lacks, and who needs it."),
}


class Commands(TyperGroup):
    """The group that imports a command when it is needed."""

    _listing = False

    def list_commands(self, ctx: Any) -> list[str]:
        """Every name, in the order of `COMMANDS`."""
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command, or None; while help is listed, a stand-in that has only its help."""
        del ctx
        if cmd_name not in COMMANDS:
            return None
        target, text = COMMANDS[cmd_name]
        if self._listing:
            return TyperCommand(name=cmd_name, help=text)
        module, function = target.split(":")
        made = getattr(importlib.import_module(module), function)
        if not isinstance(made, typer.Typer):
            single = typer.Typer(add_completion=False)
            single.command(name=cmd_name)(made)
            made = single
        command = typer.main.get_command(made)
        command.name = cmd_name
        return command

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """List the commands without importing them."""
        self._listing = True
        try:
            super().format_help(ctx, formatter)
        finally:
            self._listing = False


app = typer.Typer(
    name="millrace",
    cls=Commands,
    help="Millrace, the ranking platform: from an event to a ranked list.",
    epilog="Exit codes: 0 done, 1 a gate said no, 2 bad input, 3 the environment (a retry may help).",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def _root() -> None:
    """Give the group its help even before it has a command of its own."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit with its code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        app(args=arguments)
    except CommandError as exc:
        from millrace_cli import output

        output.failed(exc, as_json="--json" in arguments)
        raise SystemExit(exc.exit_code) from None
