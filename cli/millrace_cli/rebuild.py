"""`millrace rebuild features`: checkpoints, online rows and item aggregates made from the facts, anew or for a further
revision.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from millrace_cli import environment, output
from millrace_cli.environment import Bars
from millrace_cli.errors import BadInput, EnvironmentAtFault, GateSaidNo
from millrace_cli.revisions import Revisions, layout_now, process_name, state_folder
from millrace_cli.stack import Json

if TYPE_CHECKING:
    from definitions.layout import Layout
    from features.rebuild import Archived
    from stores.offline import Lake

    from millrace_cli.settings import Settings

_READ_S = 120.0  # the whole of `item-features`


@dataclass(frozen=True)
class Rebuilt:
    """One use case: what the archive gave. The log's newer records follow when the process starts."""

    usecase: str
    revision: int
    partitions: int
    events: int
    users: int
    items: int
    removed_partials: int
    seconds: float


def rebuild(
    what: Annotated[str, typer.Argument(help="features")],
    usecase: Annotated[
        str | None, typer.Option(help="By default all that the stack serves; with --revision the first.")
    ] = None,
    revision: Annotated[
        int | None, typer.Option(min=1, help="Which revision: by default the newest; a further one is built beside.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    json: Json = False,
) -> None:
    """Make the features' derived state from the facts: from the lake, then from the log's newer records.

    A further revision is built for the use case as its file is now, beside the one that serves, which nothing disturbs.
    A known one is dropped and made again: its features process stops, and starts again. Rankings go on: until it is
    ready, users have no history and items have what they had.
    """
    from millrace_cli import stack
    from millrace_cli.settings import load

    if what != "features":
        raise BadInput(f"{what}: only `features` can be rebuilt")
    settings = load()
    state = environment.stack_state(settings)
    wanted = _wanted(settings, state.log_id, usecase, revision)
    known = Revisions.read(settings)
    again = [layout for layout in wanted if layout.revision in known.of(layout.usecase.name)]
    _confirm([layout.usecase.name for layout in again], yes=yes)
    begun = time.monotonic()
    environment.flush_archiver(settings)
    with Bars() as bars, environment.translated(), _translated():
        for number in {layout.revision for layout in again}:
            _stop_features(settings, number)
        if wanted != again:
            _create_topics(settings, wanted)
        done = [_rebuild(settings, layout, state.log_id, bars) for layout in wanted]
    for layout in wanted:
        known = known.plus(layout.usecase.name, layout.revision)
    known.write()
    stack.start(None)
    seconds = round(time.monotonic() - begun, 2)
    if json:
        output.emit({"rebuilt": [asdict(each) for each in done], "seconds": seconds}, home=settings.home)
        return
    for each in done:
        output.out.print(
            f"{each.usecase}, revision {each.revision}: {each.events:,} events made the rows of {each.users:,} users "
            f"and the aggregates of {each.items:,} items in {each.partitions} partitions ({each.seconds:.1f} s)",
            highlight=False,
        )
    output.out.print(f"the features are ready, {seconds:.1f} s after the beginning", highlight=False)
    if wanted != again:
        output.out.print("next: millrace train, then millrace deploy")


def _wanted(settings: Settings, log_id: str, usecase: str | None, revision: int | None) -> list[Layout]:
    """What is to be built. Raises BadInput where a revision is none, or not the file's."""
    from definitions.layout import layout_of

    names = [usecase] if usecase else settings.usecases[:1] if revision else settings.usecases
    known, found = Revisions.read(settings), []
    for spec in (environment.usecase(settings, name) for name in names):
        numbers = known.of(spec.name)
        number = revision or numbers[-1]
        if number not in numbers and number != numbers[-1] + 1:
            raise BadInput(f"--revision {number}: {spec.name} has {', '.join(map(str, numbers))}; the next one is "
                           f"{numbers[-1] + 1}")  # fmt: skip
        is_new = number not in numbers
        with environment.translated():
            found.append(layout_of(spec, number) if is_new else layout_now(settings, spec, log_id, number))
        if is_new and len(numbers) > 1:
            raise BadInput(
                f"{spec.name} has revisions {', '.join(map(str, numbers))} already: give one up first: "
                f"millrace retire {numbers[0]}"
            )
    return found


def _confirm(usecases: list[str], *, yes: bool) -> None:
    if yes or not usecases:
        return
    if not sys.stdin.isatty():
        raise BadInput("rebuild drops the features' state, and nobody is there to be asked: give --yes")
    if not typer.confirm(f"Drop checkpoints, online rows and item aggregates of {', '.join(usecases)}, and rebuild?"):
        raise GateSaidNo("nothing was changed")


@contextmanager
def _translated() -> Iterator[None]:
    from features.errors import FeaturesError

    try:
        yield
    except FeaturesError as exc:
        raise EnvironmentAtFault(f"{exc}; the features process is stopped: `millrace up` starts it") from exc


def _create_topics(settings: Settings, layouts: list[Layout]) -> None:
    """Those that the revisions have for themselves."""
    from local_stack.errors import StackError
    from local_stack.home import checkout_root
    from local_stack.topics import alike, create_topics, declared_topics

    known = Revisions.read(settings)
    for layout in layouts:
        known = known.plus(layout.usecase.name, layout.revision)
    names = [layout.usecase.name for layout in layouts]
    declared = declared_topics(checkout_root() / "infra" / "kafka" / "topics.yaml", names)
    try:
        create_topics(settings.kafka, alike(declared, known.topics(names)))
    except StackError as exc:
        raise EnvironmentAtFault(str(exc)) from exc


def _stop_features(settings: Settings, revision: int) -> None:
    from local_stack.errors import StackError
    from local_stack.home import Home
    from local_stack.supervisor import stop

    with output.steps("rebuild") as tell:
        try:
            stop(Home(settings.home), process_name(revision), tell)
        except StackError as exc:
            raise EnvironmentAtFault(str(exc)) from exc


def _rebuild(settings: Settings, layout: Layout, log_id: str, bars: Bars) -> Rebuilt:
    from features.checkpoints import CheckpointFolder
    from features.kafka import owned_partitions
    from features.kept import keep
    from features.owned import newest_epoch
    from features.partition import PartitionState
    from features.rebuild import fold_archived, replace_checkpoints
    from servicekit.kafka import first_offsets
    from servicekit.topics import topic
    from stores.offline import Lake
    from stores.online import open_online

    begun, name = time.monotonic(), layout.usecase.name
    lake = Lake(settings.lake, name)
    root = state_folder(settings, log_id, name, layout.revision)
    partitions = owned_partitions(settings.kafka, name, 0, 1)
    oldest = first_offsets(settings.kafka, topic(name, "interactions"))
    store = open_online(
        name, layout.revision, valkey=environment.server(settings, "valkey"), lmdb_path=settings.online_path
    )
    events = 0
    users: set[int] = set()
    items: set[tuple[int, int]] = set()
    try:
        epochs = newest_epoch(store)
        for partition in partitions:
            archived = _archived(lake, log_id, name, partition)
            if archived.interactions_offset < oldest.get(partition, 0):
                raise GateSaidNo(
                    f"{name} partition {partition}: the archive ends at offset {archived.interactions_offset}, the log "
                    f"begins at {oldest[partition]}: the records between are lost; nothing more was changed"
                )
            state = PartitionState(layout, partition)
            bars.stage(f"{name} partition {partition}", len(archived.events))
            for folded in fold_archived(state, archived):
                bars.advance(folded)
            keep(root, layout)
            replace_checkpoints(state, CheckpointFolder(root / str(partition)), epochs)
            events += len(archived.events)
            users.update(state.users.all_users().tolist())
            items.update((item, partition) for item in state.items.all_items().tolist())
        store.clear()
    finally:
        store.close()
    removed = _remove_partials(settings, name, layout.revision, items)
    return Rebuilt(
        name, layout.revision, len(partitions), events, len(users), len({item for item, _ in items}), removed,
        round(time.monotonic() - begun, 2),
    )  # fmt: skip


def _archived(lake: Lake, log_id: str, usecase: str, partition: int) -> Archived:
    """One partition's facts in the lake."""
    import polars as pl
    from features.rebuild import Archived, UserRecord
    from servicekit.topics import topic
    from stores.offline import app_id
    from stores.offline.rows import to_events, to_users

    def rows(table: str) -> pl.DataFrame:
        own = (pl.col("log_id") == log_id) & (pl.col("partition") == partition)
        return lake.scan(table).filter(own).sort("offset").collect()

    users = rows("users")
    places = zip(users["offset"].to_list(), users["timestamp_us"].to_list(), to_users(users), strict=True)
    return Archived(
        events=to_events(rows("interactions")),
        users=[UserRecord(*place) for place in places],
        interactions_offset=lake.next_offset("interactions", app_id(log_id, topic(usecase, "interactions"), partition)),
        users_offset=lake.next_offset("users", app_id(log_id, topic(usecase, "users"), partition)),
    )


def _remove_partials(settings: Settings, usecase: str, revision: int, known: set[tuple[int, int]]) -> int:
    """Tombstones for the item partials that the facts do not know; how many. The others are written over."""
    from definitions.item_feed import parse_item_features_key
    from servicekit import kafka
    from servicekit.topics import item_features_topic

    name = item_features_topic(usecase, revision)
    strays: dict[bytes, int] = {}

    def take(partition: int, offset: int, key: bytes | None, value: bytes | None) -> None:
        del offset
        try:
            item, origin = parse_item_features_key(key)
        except ValueError:
            return
        if key is not None and item and (item, origin) not in known:
            strays.pop(key, None)
            if value is not None:
                strays[key] = partition

    reader = kafka.TopicReader(settings.kafka, name, take)
    reader.start()
    try:
        reader.wait_caught_up(_READ_S)
    finally:
        reader.stop()
    if strays:
        producer = kafka.make_producer(settings.kafka)
        try:
            with kafka.translated("removing item partials"):
                for key, partition in strays.items():
                    producer.send(name, key=key, value=None, partition=partition)
                producer.flush(timeout=_READ_S)
        finally:
            producer.close()
    return len(strays)
