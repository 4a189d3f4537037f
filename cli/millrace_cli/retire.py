"""`millrace retire`: the rows, aggregates and checkpoints of a former revision go."""

from __future__ import annotations

import shutil
import sys
import time
import urllib.request
from typing import TYPE_CHECKING, Annotated, Final

import typer

from millrace_cli import environment, output
from millrace_cli.errors import BadInput, EnvironmentAtFault, GateSaidNo
from millrace_cli.revisions import Revisions, process_name, state_folder
from millrace_cli.stack import Json

if TYPE_CHECKING:
    from millrace_cli.settings import Settings

_LET_GO_S: Final = 30.0


def retire(
    revision: Annotated[int, typer.Argument(min=1, help="The former revision.")],
    usecase: Annotated[str | None, typer.Option(help="Use case; by default the first that the stack serves.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    json: Json = False,
) -> None:
    """Give a former revision of a use case up: its features process ends, its rows, aggregates and checkpoints go.

    Nothing that serves reads it. A version of that revision can no longer be rolled back to.
    """
    from pipelines.retirement import give_up

    from millrace_cli import stack
    from millrace_cli.settings import load

    settings = load()
    spec = environment.usecase(settings, usecase)
    known = Revisions.read(settings)
    if revision not in known.of(spec.name):
        raise BadInput(f"{revision}: {spec.name} has {', '.join(map(str, known.of(spec.name)))}")
    state = environment.stack_state(settings)
    _confirm(spec.name, revision, yes=yes)
    begun = time.monotonic()
    with environment.translated():
        given_up = give_up(spec.name, revision, kafka=settings.kafka)
    _await_let_go(settings, spec.name, revision)
    known.minus(spec.name, revision).write()
    stack.start(None)  # its process is no longer part of the stack
    with environment.translated():
        rows = _remove(settings, state.log_id, spec.name, revision)
    seconds = round(time.monotonic() - begun, 2)
    if json:
        result = {"usecase": spec.name, "revision": revision, "rows": rows, "given_up_version": given_up}
        output.emit({**result, "seconds": seconds}, home=settings.home)
        return
    lost = "" if given_up is None else f"; version {given_up} can no longer be rolled back to"
    output.out.print(f"{spec.name}: revision {revision} is gone, {rows:,} rows of users{lost}", highlight=False)


def _confirm(usecase: str, revision: int, *, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise BadInput("retire removes rows, and nobody is there to be asked: give --yes")
    if not typer.confirm(f"Remove rows, item aggregates and checkpoints of {usecase}, revision {revision}?"):
        raise GateSaidNo("nothing was changed")


def _await_let_go(settings: Settings, usecase: str, revision: int) -> None:
    """Until the gateway has the revision's items in memory no longer: it follows their topic."""
    from servicekit import ports

    url = f"http://127.0.0.1:{settings.port(ports.METRICS['gateway'])}/metrics"
    holds = f'gateway_layouts{{revision="{revision}",usecase="{usecase}"}}'
    ends = time.monotonic() + _LET_GO_S
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5.0) as answer:
                if holds not in answer.read().decode():
                    return
        except OSError as exc:
            raise EnvironmentAtFault(f"the gateway does not answer at {url} ({exc}); try: millrace status") from exc
        if time.monotonic() > ends:
            raise EnvironmentAtFault(
                f"the gateway still holds revision {revision} of {usecase} after {_LET_GO_S:.0f} s; see its log"
            )
        time.sleep(0.1)


def _remove(settings: Settings, log_id: str, usecase: str, revision: int) -> int:
    """Rows, partials and checkpoints; how many rows."""
    from local_stack.errors import StackError
    from local_stack.topics import delete_topics
    from servicekit.topics import item_features_topic
    from stores.online import open_online

    store = open_online(
        usecase, revision, valkey=environment.server(settings, "valkey"), lmdb_path=settings.online_path
    )
    try:
        rows = len(store.all_ids())
        store.clear()
    finally:
        store.close()
    shutil.rmtree(state_folder(settings, log_id, usecase, revision), ignore_errors=True)
    try:
        delete_topics(settings.kafka, [item_features_topic(usecase, revision)])
    except StackError as exc:
        raise EnvironmentAtFault(f"{process_name(revision)} is stopped and its rows are gone, but {exc}") from exc
    return rows
