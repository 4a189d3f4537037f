"""`millrace explain`: why items are scored as they are, now or in a logged decision, and why one lies above another."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

import typer

from millrace_cli import environment, output
from millrace_cli.ask import At, Usecase, event_time_us, own_id
from millrace_cli.environment import Bars
from millrace_cli.errors import BadInput, EnvironmentAtFault
from millrace_cli.redo import request_id
from millrace_cli.stack import Json

if TYPE_CHECKING:
    from definitions.usecase import UseCase
    from pipelines.journal import Loaded

    from millrace_cli.settings import Settings

T = TypeVar("T")
_PATIENCE_S: Final = 10.0


def explain(
    user: Annotated[str | None, typer.Option(help="The user's id as in your data: a number or a text.")] = None,
    items: Annotated[str | None, typer.Option(help="Item ids, comma-separated.")] = None,
    request: Annotated[str | None, typer.Option(help="Instead of a user: a logged decision, by its id.")] = None,
    above: Annotated[str | None, typer.Option(help="Say why the first item lies above this one.")] = None,
    gateway: Annotated[bool, typer.Option("--gateway", help="Ask the running gateway, which tells ages.")] = False,
    at: At = None,
    top: Annotated[int, typer.Option(min=1, max=1000, help="Features to show of each item.")] = 8,
    usecase: Usecase = None,
    json: Json = False,
) -> None:
    """Say what each feature adds to each item's score, e.g. `millrace explain --user 196 --items 1,50 --above 50`.

    Contributions add up to the raw score (a logit), with the base. Of a user it reads the served bundle and the online
    rows; of a `--request` the archive, that decision's own features and the very bundle that scored it, and says what
    the rules made of the scores. With `--gateway` the process that serves explains by itself.
    """
    from millrace_cli.settings import load
    from pipelines import journal

    settings = load()
    if (user is None) == (request is None):
        raise BadInput("give --user with --items, or the --request of a decision")
    spec = environment.usecase(settings, usecase)
    with Bars() as bars, environment.translated():
        loaded = journal.read(settings.home, spec.name)
        wanted = _items(items, above, loaded)
        if gateway:
            figures = _of_gateway(settings, spec, user, request, wanted, at=at, top=top, loaded=loaded)
        elif request is not None:
            figures = _of_decision(settings, spec, request_id(request), wanted, top=top)
        else:
            assert user is not None  # noqa: S101  one of the two, see above
            pair = (wanted[0], wanted[-1]) if above is not None else None
            figures = explain_user(settings, spec, user, wanted, pair=pair, at=at, top=top, bars=bars, loaded=loaded)
    catalogue = environment.titles(settings, spec)
    for item in figures["items"]:
        item["external_id"], item["title"] = catalogue.get(item["item_id"], (str(item["item_id"]), ""))
    if json:
        output.emit(figures, home=settings.home)
    else:
        show(figures, catalogue)


def _items(items: str | None, above: str | None, loaded: Loaded | None) -> list[int]:
    """The stack's ids: those that are named, the one of `--above` last."""
    parts = [part.strip() for part in (items or "").split(",") if part.strip()]
    wanted = [own_id(part, "--items", "item_id", loaded) for part in parts]
    if above is not None:
        if not wanted:
            raise BadInput("--above: name the item that lies above it, such as --items 1 --above 50")
        lower = own_id(above, "--above", "item_id", loaded)
        if wanted[0] == lower:
            raise BadInput(f"--above: {above} is the first of --items itself; name another")
        wanted = [*(item for item in wanted if item != lower), lower]
    return wanted


def explain_user(
    settings: Settings,
    spec: UseCase,
    user: str,
    wanted: list[int],
    *,
    pair: tuple[int, int] | None,
    at: str | None,
    top: int,
    bars: Bars,
    loaded: Loaded | None,
) -> dict[str, Any]:
    """With what the running stack has. Raises the pipelines' and stores' errors."""
    from bundle import bundle_layout
    from pipelines.explain.served import explain_items
    from pipelines.serving_view import item_snapshot, pinned
    from stores.online import open_online

    time_us = event_time_us(at, None if loaded is None else loaded.newest_us) or time.time_ns() // 1_000
    user_id = own_id(user, "--user", "user_id", loaded)
    if not wanted:
        raise BadInput("--items: no item; give ids, comma-separated, such as --items 1,50,100")
    serving = pinned(settings.kafka, spec.name, settings.bundles)
    layout = bundle_layout(serving.bundle, spec)
    bars.stage("read the catalogue and its aggregates")
    snapshot = item_snapshot(settings.kafka, layout)
    rows = open_online(
        spec.name, serving.revision, valkey=environment.server(settings, "valkey"), lmdb_path=settings.online_path
    )
    try:
        packed = rows.read_many([user_id]).get(user_id)
    finally:
        rows.close()
    bars.stage("explain")
    found = explain_items(layout, serving.bundle, packed, snapshot, wanted, time_us)
    manifest = serving.bundle.manifest
    said = {"user": user, "at_us": time_us, "model": manifest.name, "version": manifest.version}
    return said | found.as_dict(top, pair)


def _of_decision(settings: Settings, spec: UseCase, request: int, wanted: list[int], *, top: int) -> dict[str, Any]:
    """Of the archive, brought up to date where a stack is up."""
    from pipelines.explain.logged import explain_decision
    from pipelines.redo.logged import named

    lake, _ = environment.archive(settings, spec)
    decision = named(lake, [request]).get(request)
    if decision is None:
        raise BadInput(f"--request: the lake has no impression of request {request}; is it of another use case?")
    figures = explain_decision(decision, settings.bundles, spec, wanted, top=top)
    return {"user": str(figures["user_id"]), **figures}


def _of_gateway(
    settings: Settings,
    spec: UseCase,
    user: str | None,
    request: str | None,
    wanted: list[int],
    *,
    at: str | None,
    top: int,
    loaded: Loaded | None,
) -> dict[str, Any]:
    """RPC Explain. Raises CommandError."""
    from millrace.client import Context, InvalidRequest, MillraceError, NotFound, RankingClient

    time_us = event_time_us(at, None if loaded is None else loaded.newest_us)
    try:
        with RankingClient(environment.gateway(settings)) as client:
            if request is not None:
                asked: dict[str, Any] = {"request_id": request_id(request)}
            else:
                user_id = own_id(user or "", "--user", "user_id", loaded)
                asked = {"user_id": user_id, "context": Context(time_us=time_us)}
            found = _patiently(lambda: client.explain(spec.name, item_ids=wanted, top=top, **asked))
    except (InvalidRequest, NotFound) as exc:
        raise BadInput(str(exc)) from exc
    except MillraceError as exc:
        raise EnvironmentAtFault(f"{exc}; is the stack up? Try: millrace status") from exc
    items = [
        {
            "item_id": item.item_id, "score": item.score, "raw": item.raw, "position": item.position,
            "features": [
                {
                    "name": each.name, "value": each.value, "contribution": each.contribution,
                    "age_us": each.age_us,
                }
                for each in item.features
            ],
        }
        for item in found.items
    ]  # fmt: skip
    said = {"model": found.model_name, "version": found.model_version, "method": found.method, "base": found.base}
    return {"user": user or "", "request_id": request, **said, "items": items, "above": None}


def _patiently(ask: Callable[[], T]) -> T:
    """Ask again where the gateway has no time now: explanations are what it sheds first, and a person can wait."""
    from millrace.client import Overloaded

    gives_up = time.monotonic() + _PATIENCE_S
    while True:
        try:
            return ask()
        except Overloaded as exc:
            if time.monotonic() + exc.retry_after_s > gives_up:
                raise
            time.sleep(exc.retry_after_s)


def show(figures: dict[str, Any], catalogue: dict[int, tuple[str, str]]) -> None:
    """One table an item, and why one lies above another."""
    known = "" if figures.get("known_user", True) else " (no history: columns at their defaults)"
    whom = f"request {figures['request_id']}" if figures.get("request_id") else f"user {figures['user']}{known}"
    output.out.print(
        f"{figures['model']} version {figures['version']}, {whom}; {figures['method']}, base {figures['base']:+.4f}",
        highlight=False,
    )
    for item in figures["items"]:
        title = f"{item['external_id']} {item['title']}: score {item['score']:.4f}, raw {item['raw']:+.4f}"
        if "place_by_score" in item:
            place = f"place {item['position']}" if item["position"] else "not shown"
            title += f"; {place}, {item['place_by_score']} by score, from {item['reason']}"
            if 0 < item["propensity"] < 1:
                title += f", propensity {item['propensity']:.3g}"
        has_age = any(reason.get("age_us") is not None for reason in item["features"])
        table = output.table(title, "feature", "value", "adds", *(["age"] if has_age else []))
        for reason in item["features"]:
            row = [reason["name"], _number(reason.get("value")), f"{reason['contribution']:+.4f}"]
            table.add_row(*row, *([_age(reason.get("age_us"))] if has_age else []))
        output.out.print(table)
    above = figures["above"]
    if above is None:
        return
    names = [catalogue.get(above[which], (str(above[which]), ""))[0] for which in ("item_id", "other_id")]
    title = f"why {names[0]} scores {'above' if above['gap'] >= 0 else 'below'} {names[1]}: {above['gap']:+.4f}"
    table = output.table(title, "feature", names[0], names[1], "difference")
    for reason in above["features"]:
        row = [_number(reason.get("value")), _number(reason.get("other")), f"{reason['gap']:+.4f}"]
        table.add_row(reason["name"], *row)
    output.out.print(table)
    if "because" in above:
        places = {item["item_id"]: item["position"] for item in figures["items"]}
        first, second = places[above["item_id"]] or 2**31, places[above["other_id"]] or 2**31
        output.out.print(
            f"in the list {names[0]} lies {'above' if first < second else 'below'} {names[1]} by {above['because']}",
            highlight=False,
        )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _age(age_us: int | None) -> str:
    return "-" if age_us is None else f"{age_us / 1e6:,.0f} s"
