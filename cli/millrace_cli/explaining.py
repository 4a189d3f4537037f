"""`millrace explain`: why the served model scores a user's items as it does."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from millrace_cli import environment, output
from millrace_cli.ask import At, Usecase, event_time_us, own_id
from millrace_cli.environment import Bars
from millrace_cli.errors import BadInput
from millrace_cli.stack import Json

if TYPE_CHECKING:
    from definitions.usecase import UseCase

    from millrace_cli.settings import Settings


def explain(
    user: Annotated[str, typer.Option(help="The user's id as in your data: a number or a text.")],
    items: Annotated[str, typer.Option(help="Item ids, comma-separated.")],
    at: At = None,
    top: Annotated[int, typer.Option(min=1, max=1000, help="Features to show of each item.")] = 8,
    usecase: Usecase = None,
    json: Json = False,
) -> None:
    """Say what each feature adds to each item's score, e.g. `millrace explain --user 196 --items 1,50`.

    Contributions add up to the raw score (a logit), with the base. The served bundle and the online rows are read;
    the gateway is not asked.
    """
    from millrace_cli.settings import load

    settings = load()
    spec = environment.usecase(settings, usecase)
    with Bars() as bars, environment.translated():
        figures = explain_user(settings, spec, user, items, at=at, top=top, bars=bars)
    catalogue = environment.titles(settings, spec)
    for item in figures["items"]:
        item["external_id"], item["title"] = catalogue.get(item["item_id"], (str(item["item_id"]), ""))
    if json:
        output.emit(figures, home=settings.home)
    else:
        show(figures, catalogue)


def explain_user(
    settings: Settings, spec: UseCase, user: str, items: str, *, at: str | None, top: int, bars: Bars
) -> dict[str, Any]:
    """With what the running stack has. Raises the pipelines' and stores' errors."""
    from bundle import bundle_layout
    from pipelines.explain.served import explain_items
    from pipelines.serving_view import item_snapshot, pinned
    from stores.online import open_online

    from pipelines import journal

    loaded = journal.read(settings.home, spec.name)
    time_us = event_time_us(at, None if loaded is None else loaded.newest_us) or time.time_ns() // 1_000
    user_id = own_id(user, "--user", "user_id", loaded)
    wanted = [own_id(part.strip(), "--items", "item_id", loaded) for part in items.split(",") if part.strip()]
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
    return {"user": user, "at_us": time_us, "model": manifest.name, "version": manifest.version} | found.as_dict(top)


def show(figures: dict[str, Any], catalogue: dict[int, tuple[str, str]]) -> None:
    """One table an item, and why the first lies above the second."""
    known = "" if figures["known_user"] else " (no history: columns at their defaults)"
    output.out.print(
        f"{figures['model']} version {figures['version']}, user {figures['user']}{known}; {figures['method']}, base "
        f"{figures['base']:+.4f}",
        highlight=False,
    )
    for item in figures["items"]:
        title = f"{item['external_id']} {item['title']}: score {item['score']:.4f}, raw {item['raw']:+.4f}"
        table = output.table(title, "feature", "value", "adds")
        for reason in item["features"]:
            table.add_row(reason["name"], _number(reason.get("value")), f"{reason['contribution']:+.4f}")
        output.out.print(table)
    if figures["above"] is None:
        return
    names = [catalogue.get(figures["above"][which], ("?", ""))[0] for which in ("item_id", "other_id")]
    table = output.table(f"why {names[0]} lies above {names[1]}", "feature", names[0], names[1], "difference")
    for reason in figures["above"]["features"]:
        row = (_number(reason.get("value")), _number(reason.get("other")), f"{reason['gap']:+.4f}")
        table.add_row(reason["name"], *row)
    output.out.print(table)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
