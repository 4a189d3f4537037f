"""`millrace rank` and `millrace recommend`: ask the running gateway as a product service would."""

from __future__ import annotations

import datetime
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from millrace_cli import output
from millrace_cli.errors import BadInput, EnvironmentAtFault, GateSaidNo
from millrace_cli.stack import Json

if TYPE_CHECKING:
    from millrace.client import Ranking
    from pipelines.journal import Loaded

    from millrace_cli.settings import Settings

User = Annotated[str, typer.Argument(help="The user's id as in your data: a number or a text.")]
Usecase = Annotated[str | None, typer.Option(help="Use case; by default the first that the stack serves.")]
Limit = Annotated[int, typer.Option(min=1, max=2000, help="How many items to show.")]
At = Annotated[
    str | None,
    typer.Option(
        help="Event time at which features are evaluated: 2026-01-31T12:00:00 (UTC), microseconds since the epoch, or "
        "`now`. By default the newest event of a loaded data set."
    ),
]
Deadline = Annotated[int, typer.Option(min=5, help="Deadline of the request in milliseconds.")]
_MAX_TIME_US = 253_402_300_800 * 1_000_000  # end of the year 9999, the log's bound
DEADLINE_MS = 500  # a person waits, and the first request of a process pays for its connection


def rank(
    user: User,
    items: Annotated[str | None, typer.Option(help="Item ids, comma-separated. Without it: as `recommend`.")] = None,
    limit: Limit = 10,
    at: At = None,
    usecase: Usecase = None,
    deadline_ms: Deadline = DEADLINE_MS,
    json: Json = False,
) -> None:
    """Order items for a user, e.g. `millrace rank 196 --items 1,50,100`."""
    _ask(user, items, limit, at, usecase, deadline_ms, as_json=json)


def recommend(
    user: User,
    limit: Limit = 10,
    at: At = None,
    usecase: Usecase = None,
    deadline_ms: Deadline = DEADLINE_MS,
    json: Json = False,
) -> None:
    """Find and order items for a user, e.g. `millrace recommend 196 --at 1998-01-01`."""
    _ask(user, None, limit, at, usecase, deadline_ms, as_json=json)


def _ask(
    user: str, items: str | None, limit: int, at: str | None, usecase: str | None, deadline_ms: int, *, as_json: bool
) -> None:
    from millrace_cli import environment
    from millrace_cli.settings import load
    from pipelines import journal

    settings = load()
    spec = environment.usecase(settings, usecase)
    with environment.translated():
        loaded = journal.read(settings.home, spec.name)
    time_us = event_time_us(at, None if loaded is None else loaded.newest_us)
    user_id = own_id(user, "user", "user_id", loaded)
    item_ids = None
    if items is not None:
        parts = [part.strip() for part in items.split(",") if part.strip()]
        item_ids = [own_id(part, "--items", "item_id", loaded) for part in parts]
    ranking = ask(settings, spec.name, user_id, item_ids, limit=limit, time_us=time_us, deadline_s=deadline_ms / 1000)
    catalogue = environment.titles(settings, spec)
    if as_json:
        output.emit(as_dict(ranking, catalogue, user, time_us), home=settings.home)
    else:
        show(ranking, catalogue, user, time_us)


def ask(
    settings: Settings,
    usecase: str,
    user_id: int,
    item_ids: list[int] | None,
    *,
    limit: int,
    time_us: int | None,
    deadline_s: float = DEADLINE_MS / 1000,
) -> Ranking:
    """One answer of the gateway; without items it finds them. Raises CommandError."""
    from millrace.client import Context, InvalidRequest, MillraceError, RankingClient

    from millrace_cli import environment

    context = Context(time_us=time_us)
    try:
        with RankingClient(environment.gateway(settings), timeout_s=deadline_s) as client:
            if item_ids is None:
                return client.recommend(usecase, user_id, limit=limit, context=context)
            return client.rank(usecase, user_id, item_ids, limit=limit, context=context)
    except InvalidRequest as exc:
        raise BadInput(str(exc)) from exc
    except MillraceError as exc:
        raise EnvironmentAtFault(f"{exc}; is the stack up? Try: millrace status") from exc


def own_id(text: str, argument: str, column: str, loaded: Loaded | None) -> int:
    """The stack's id of an id in the user's own data, as its loader took `column` (`user_id`, `item_id`).

    Integers are themselves, text has its stable id; where a column holds both, all of it is text.
    """
    from millrace.ids import stable_id

    if text.isdecimal() and (loaded is None or column not in loaded.text_ids):
        found = int(text) + int(loaded is not None and column in loaded.shifted_ids)
        if found == 0 or found >= 2**64:
            raise BadInput(f"{argument}: {text} is no id; give a number from 1 to 2**64 - 1, or a text")
        return found
    return stable_id(text)


def event_time_us(at: str | None, newest_us: int | None) -> int | None:
    """The evaluation time that `--at` asks for; None = the gateway's clock.

    A replayed data set's "now" is just after its newest event: strict `<` then sees that event.
    """
    if at is None:
        return None if newest_us is None else newest_us + 1
    if at == "now":
        return None
    try:
        time_us = int(at) if at.lstrip("-").isdecimal() else _micros(datetime.datetime.fromisoformat(at))
    except ValueError as exc:
        raise BadInput(
            f"--at {at}: no time; give 2026-01-31, 2026-01-31T12:00:00 (UTC), microseconds since the epoch, or `now`"
        ) from exc
    if not 0 < time_us < _MAX_TIME_US:
        raise BadInput(f"--at {at}: not between 1970 and 9999; a plain number means microseconds since the epoch")
    return time_us


def _micros(moment: datetime.datetime) -> int:
    """Microseconds since the epoch, exactly; without an offset a time is UTC."""
    moment = moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)
    return (moment - datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)) // datetime.timedelta(microseconds=1)


def as_dict(ranking: Ranking, catalogue: dict[int, tuple[str, str]], user: str, time_us: int | None) -> dict[str, Any]:
    """The answer as data."""
    found = asdict(ranking)
    for item in found["items"]:
        item["external_id"], item["title"] = catalogue.get(item["item_id"], ("", ""))
    return {"user": user, "at_us": time_us, **found}


def show(ranking: Ranking, catalogue: dict[int, tuple[str, str]], user: str, time_us: int | None) -> None:
    """The answer as a table, and how it came about."""
    when = (
        "now"
        if time_us is None
        else f"{datetime.datetime.fromtimestamp(time_us / 1e6, datetime.UTC):%Y-%m-%d %H:%M:%S} UTC"
    )
    table = output.table(f"User {user} at {when}", "#", "item", "title", "score", "because")
    for item in ranking.items:
        external_id, title = catalogue.get(item.item_id, (str(item.item_id), ""))
        table.add_row(str(item.position), external_id, title, f"{item.score:.4f}", item.reason)
    output.out.print(table)
    model = f"{ranking.model_name} version {ranking.model_version}" if ranking.model_name else "no model"
    stages = ", ".join(f"{name} {micros / 1000:.2f}" for name, micros in ranking.stages.items())
    age = f"{ranking.feature_age_us / 1e6:,.0f} s" if ranking.row.epoch else "no history"
    output.out.print(f"served by {ranking.served_by} ({model}){f', {ranking.reason}' if ranking.reason else ''}")
    output.out.print(f"newest event known: {age} before; row offset {ranking.row.interactions_offset}")
    output.out.print(f"stages, ms: {stages}", highlight=False)
    output.out.print(f"request {ranking.request_id}: millrace explain --request says why", highlight=False)
    if not ranking.items:
        raise GateSaidNo("the list is empty: nothing is loaded yet; try: millrace load --help")
