"""Feast as another team uses it, on the running stack: registry, values now and then, push, UI, memory."""

import json
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from definitions.assembly import Assembled, RequestContext, assemble, past_items
from definitions.layout import Layout, layout_of
from definitions.packed import unpack_user_row
from definitions.usecase import load_usecase
from definitions.user_values import UserAt
from local_stack.harness import NativeStack
from local_stack.home import checkout_root
from millrace.client import Entity, Event, EventClient
from pipelines.feast.environment import interpreter
from pipelines.feast.ids import to_feast
from pipelines.feast.views import views_of
from pipelines.serving_view import item_snapshot
from pipelines.settings import feast_environ
from stores.online import open_online
from stores.online.lmdb import LmdbStore

pytestmark = pytest.mark.real

HOUR_US = 3_600_000_000
T0_US = 1_700_000_000_000_000  # the first event
READ_US = T0_US + 30 * HOUR_US + 7
USERS = [2**63 + 71, 7_100_002, 7_100_003]  # the first does not fit int64
STRANGER = 7_100_999
ITEMS = [7_200_000 + number for number in range(12)]
RATE = 2
PATIENCE_S = 300.0  # imports alone take 9 s of CPU, and all tests share the machine


@dataclass(frozen=True)
class Seen:
    """What the program saw, and what it was asked."""

    answer: dict[str, Any]
    pairs: list[tuple[int, int]]
    rows: list[tuple[int, int, int]]
    layout: Layout
    assembled: dict[int, Assembled]

    def column(self, name: str, place: str = "valkey") -> list[Any]:
        found: list[Any] = self.answer["online"][place][name]
        return found


def events() -> list[Event]:
    """Every user rates every third item, an hour apart; two have the same time."""
    found = []
    for number, (user, item) in enumerate(product(USERS, ITEMS[::3])):
        at, value = T0_US + (number - number % 2) * 2 * HOUR_US, 1 + number % 5
        found.append(
            Event(event_id=7_300_000 + number, user_id=user, item_id=item, action=RATE, value=value, event_time_us=at)
        )
    return found


def publish(stack: NativeStack) -> None:
    """Catalogue, users and events; back when rows and lake have them."""
    with EventClient(stack.address("collector")) as client:
        attributes = {"title": "film", "year": 1950.0, "genre": [3, 4]}
        client.put_items("movies", [Entity(id=item, attributes=attributes) for item in ITEMS])
        client.put_users("movies", [Entity(id=user, attributes={"age": 40.0, "gender": [2]}) for user in USERS])
        published = client.publish("movies", events())
    assert not published.rejected
    wanted = {str(each.partition): each.offset + 1 for each in published.accepted}
    ends = time.monotonic() + 30
    while True:
        offsets = stack.flush("features")["offsets"]["movies"]
        if all(offsets[partition]["interactions"] >= offset for partition, offset in wanted.items()):
            break
        assert time.monotonic() < ends, (offsets, wanted)
    stack.flush("archiver")


def repositories(stack: NativeStack, folder: Path, layout: Layout) -> dict[str, str]:
    """The repository that `apply` wrote, reading at one time: from Valkey, and from LMDB with the same bytes."""
    applied = stack.home / "feast" / "movies"
    config = yaml.safe_load((applied / "feature_store.yaml").read_text())
    config["online_store"]["time_us"] = READ_US
    rows = open_online("movies", 1, valkey=f"127.0.0.1:{stack.ports.valkey}", lmdb_path=folder)
    with_lmdb = LmdbStore(folder / "rows", "movies", 1)
    with_lmdb.write(rows.read_many(USERS))
    with_lmdb.close()
    rows.close()
    found = {}
    for place, changed in (("valkey", {}), ("lmdb", {"valkey": None, "lmdb": str(folder / "rows")})):
        found[place] = str(folder / place)
        (folder / place).mkdir()
        (folder / place / "usecase.yaml").write_text((applied / "usecase.yaml").read_text())
        own = {**config, "online_store": {**config["online_store"], **changed}}
        (folder / place / "feature_store.yaml").write_text(yaml.safe_dump(own))
    assert layout.layout_hash == layout_of(load_usecase(applied / "usecase.yaml")).layout_hash
    return found


def assembled(stack: NativeStack, layout: Layout) -> dict[int, Assembled]:
    """What the gateway would score: user -> inputs of all items at the time of reading."""
    snapshot = item_snapshot(f"127.0.0.1:{stack.ports.kafka}", layout)
    rows = open_online("movies", 1, valkey=f"127.0.0.1:{stack.ports.valkey}", lmdb_path=Path())
    found = {}
    for user_id in (*USERS, STRANGER):
        packed = rows.read(user_id)
        user = UserAt(layout, None if packed is None else unpack_user_row(layout, packed), READ_US)
        items = snapshot.view(np.array(ITEMS, np.uint64), READ_US, past_items(user))
        found[user_id] = assemble(user, items, RequestContext())
    rows.close()
    return found


@pytest.fixture(scope="module")
def ui(stack: NativeStack) -> Iterator[str]:
    """Address of `millrace feast ui` over what `millrace feast apply` registered; it starts while the others work."""
    publish(stack)
    stack.millrace("feast", "apply", "--usecase", "movies")
    with stack.begun("feast", "ui", "--usecase", "movies") as process:
        try:
            yield f"http://127.0.0.1:{8888 + stack.offset}"
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def seen(ui: str, stack: NativeStack, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """One run of the program, for all tests."""
    folder = tmp_path_factory.mktemp("feast")
    layout = layout_of(load_usecase(checkout_root() / "usecases" / "movies.yaml"))
    pairs = list(product((*USERS, STRANGER), ITEMS))
    at_events = [(event.user_id, event.item_id, event.event_time_us) for event in events()]
    after = [(user, item, at + 1) for user, item, at in at_events]
    rows = [*at_events, *[(user, item, READ_US) for user, item in reversed(pairs)], *after, at_events[0]]
    asked = {
        "repository": str(stack.home / "feast" / "movies"),
        "at_a_time": repositories(stack, folder, layout),
        "pairs": pairs,
        "rows": rows,
        "push_to": [7_100_555, 7_200_555],
    }
    given, answered = folder / "asked.json", folder / "answer.json"
    given.write_text(json.dumps(asked))
    before = assembled(stack, layout)
    command = [interpreter(), "-W", "ignore", Path(__file__).with_name("feast_program.py"), given, answered]
    done = subprocess.run(command, env=feast_environ(), capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr[-4000:]
    return Seen(json.loads(answered.read_text()), pairs, rows, layout, before)


def test_the_registry_has_what_the_layout_says(seen: Seen) -> None:
    """Entities, a view for each key, and the models' order of columns."""
    registered = seen.answer["registered"]

    assert ["item", "user"] == registered["entities"]
    for view in views_of(seen.layout):
        assert sorted(column.name for column in view.columns) == sorted(registered["views"][view.name])
    assert {"movies_user_attributes", "movies_item_attributes"} <= set(registered["views"])
    assert [column.name for view in views_of(seen.layout) for column in view.columns] == registered["columns"]


@pytest.mark.parametrize("place", ["valkey", "lmdb"])
def test_values_now_are_those_that_the_gateway_scores(seen: Seen, place: str) -> None:
    """Bit for bit, for known and unknown users, from either store."""
    for view in views_of(seen.layout):
        for column in view.columns:
            for (user, item), value in zip(seen.pairs, seen.column(column.name, place), strict=True):
                inputs, number = seen.assembled[user], ITEMS.index(item)
                source = {
                    "feature": inputs.features[number],
                    "user_int": inputs.user_ints,
                    "item_int": inputs.item_ints[number],
                }
                expected = source[column.source][column.start : column.start + column.width].tolist()
                assert (expected if column.listed else expected[0]) == value, (column.name, user, item)


def test_values_then_are_one_row_for_each_and_equal_those_now(seen: Seen) -> None:
    """Counts exactly, decayed values to the rounding of float32; rows and their order are the caller's."""
    then = seen.answer["historical"]
    order = [name for name in then if name in ("user_id", "event_timestamp", "label", "item_id")]

    assert list(range(len(seen.rows))) == then["label"]
    assert [to_feast(user) for user, _, _ in seen.rows] == then["user_id"]
    assert ["user_id", "event_timestamp", "label", "item_id"] == order
    first = len(events())
    for view in views_of(seen.layout):
        for column in view.columns:
            now, found = seen.column(column.name)[::-1], then[column.name][first : first + len(seen.pairs)]
            if column.source == "feature":
                assert now == pytest.approx(found, rel=1e-6, abs=1e-9), column.name
            else:
                assert now == found, column.name


def test_an_event_at_the_rows_own_time_does_not_count(seen: Seen) -> None:
    """Strictly before; a microsecond later it counts, and so does the event of the same time."""
    rated, each = seen.answer["historical"]["u_rated_all"], len(events())
    at, after = rated[:each], rated[len(seen.rows) - each - 1 : -1]

    assert [now - before for before, now in zip(at, after, strict=True)] == [2] * each
    assert at[0] == rated[-1]  # the same row asked twice


def test_pushed_attributes_arrive_by_the_log(seen: Seen) -> None:
    """The collector takes them, the stream folds them, the next read has them."""
    assert {"u_age": 77.0, "u_gender": 5, "i_year": 1931.0, "i_genre": [9, 8, 0, 0, 0, 0]} == seen.answer["pushed"]


def test_what_does_not_belong_here_is_refused_with_a_remedy(seen: Seen) -> None:
    """An aggregate follows from events; rows are written by the stream alone."""
    refused = seen.answer["refused"]

    assert "publish" in refused["push of an aggregate"]
    assert "get_online_features" in refused["materialize"]
    assert "movies_user" in refused["read of what is pushed"]
    assert "give each row its time" in refused["a row without a time"]


def test_reads_keep_no_memory(stack: NativeStack, seen: Seen) -> None:
    """The short form of `millrace feast soak`, which does 5,000."""
    figures = stack.millrace("feast", "soak", "--usecase", "movies", "--calls", "500")

    assert 500 == figures["calls"]
    assert figures["growth_mib"] <= 5


def test_the_ui_shows_the_registry(ui: str) -> None:
    """Its page, and the project in the list that the page asks for."""
    ends = time.monotonic() + PATIENCE_S
    while True:
        try:
            with urllib.request.urlopen(f"{ui}/projects-list.json", timeout=5) as answer:  # noqa: S310  our own address
                projects = json.load(answer)
            break
        except OSError:
            assert time.monotonic() < ends, "feast ui does not answer"
            time.sleep(0.1)
    with urllib.request.urlopen(ui, timeout=5) as answer:  # noqa: S310  our own address
        assert b"<html" in answer.read().lower()
    assert "movies" in json.dumps(projects)
