"""Backfill equals streaming and assembly: on shuffled, late, tied input, for every kind of feature."""

import random
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from definitions.assembly import Assembled, RequestContext, assemble, past_items
from definitions.backfill import Backfilled, Queries, backfill, backfill_bucket
from definitions.dedupe import Deduper, first_occurrences
from definitions.events import EventColumns
from definitions.item_snapshot import ItemSnapshot
from definitions.item_table import ItemTable
from definitions.layout import Layout, layout_of
from definitions.packed import unpack_user_row
from definitions.reads import NONE
from definitions.tiles import ratio
from definitions.timeline import _before
from definitions.usecase import load_usecase
from definitions.user_reads import UserReads, user_reads
from definitions.user_state import UserTable
from definitions.user_values import UserAt
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from millrace.events.v1 import events_pb2 as pb

HOUR_US = 3_600_000_000
BASE_US = 19_700 * 24 * HOUR_US
GENRES = {1: [5, 7], 2: [6], 3: [], 4: [6, 5], 5: [9]}


@pytest.fixture(scope="module", params=["wide", "narrow"])
def layout(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """Every kind of feature; `narrow` has tables of two categories, so that what they forget must agree as well."""
    text = (Path(__file__).parent / "everything.yaml").read_text()
    if request.param == "narrow":
        text = text.replace("kind: affinity, k: 40", "kind: affinity, k: 2")
        text = text.replace("k: 20", "k: 3").replace("last: [1, 5, 20]", "last: [1, 3]")
        text = text.replace("table: u_genre, prior", "table: u_old, prior").replace(
            "  - {name: x_share",
            "  - {name: u_old, of: user, kind: affinity, action: [view, rate], k: 3, half_life: 2d, "
            "positive: rate, ttl: 1d}\n  - {name: x_share",
        )
    path = tmp_path_factory.mktemp("usecase") / "everything.yaml"
    path.write_text(text)
    return layout_of(load_usecase(path))


def entities() -> tuple[dict[int, pb.User], dict[int, pb.Item]]:
    number, codes = pb.AttributeValue, pb.CategoryCodes
    users = {
        1: pb.User(id=1, attributes={"age": number(number=44), "likes": number(categories=codes(codes=[3, 4]))}),
        2: pb.User(id=2, attributes={"gender": number(text="f")}),
        4: pb.User(id=4, deleted=True),
    }
    items = {
        item: pb.Item(
            id=item, attributes={"genre": number(categories=codes(codes=genre)), "year": number(number=1900 + item)}
        )
        for item, genre in GENRES.items()
    }
    items[5].deleted = True
    return users, items


Row = tuple[int, int, int, float, int]  # user, item, action, value, seconds


def log_of(rows: list[Row], again: Sequence[int] = ()) -> EventColumns:
    """Events in log order, at its end those at the places `again` once more; partition = user mod 2."""
    ids = [*range(1, len(rows) + 1), *(place + 1 for place in again)]
    rows = [rows[event_id - 1] for event_id in ids]
    n = len(rows)
    return EventColumns.of(
        n,
        event_id=ids,
        user_id=[row[0] for row in rows],
        item_id=[row[1] for row in rows],
        action=[row[2] for row in rows],
        value=[row[3] for row in rows],
        event_time_us=[BASE_US + row[4] * 1_000_000 for row in rows],
        category=[(GENRES.get(row[1]) or [0])[0] for row in rows],
        partition=[row[0] % 2 for row in rows],
        offset=range(n),
    )


class Stream:
    """The two consumers' state and the gateway's snapshot, fed in log order."""

    def __init__(self, layout: Layout, users: Mapping[int, pb.User], items: Mapping[int, pb.Item]) -> None:
        self.layout = layout
        self.users, self.items = UserTable(layout), [ItemTable(layout), ItemTable(layout)]
        self.users.fold_users(list(users.values()), range(len(users)))
        self.dedupers = [Deduper(1000), Deduper(1000)]
        self.snapshot = ItemSnapshot(layout)
        for item in items.values():
            self.snapshot.put_item(item)

    def fold(self, events: EventColumns) -> None:
        for partition, table in enumerate(self.items):
            mine = events.take(events.partition == partition)
            mine = mine.take(self.dedupers[partition].keep(mine.event_id, mine.offset))
            self.users.fold(mine)
            table.fold(mine)
            for item in table.take_dirty().tolist():
                self.snapshot.apply(partition, item, table.partial(item))
            self.snapshot.mark(partition, 0)

    def assemble(self, user_id: int, item: int, time_us: int, context: RequestContext) -> Assembled:
        user = UserAt(self.layout, unpack_user_row(self.layout, self.users.row(user_id, 1)), time_us)
        view = self.snapshot.view(np.array([item], np.uint64), time_us, past_items(user))
        return assemble(user, view, context)


def check(layout: Layout, expected: list[Assembled], found: Backfilled) -> None:
    """Whole numbers exactly; floats to the last bit of float32, decayed ones within one such bit."""
    np.testing.assert_array_equal(np.array([each.user_ints for each in expected]), found.user_ints)
    np.testing.assert_array_equal(np.array([each.item_ints[0] for each in expected]), found.item_ints)
    wanted = np.array([each.features[0] for each in expected])
    assert found.features.dtype == np.float32
    decayed = {c.position for c in (*layout.user.decayed_columns, *layout.item.decayed_columns, *layout.table_columns)}
    for column, name in enumerate(layout.feature_names):
        rtol = 1.3e-7 if column in decayed else 0
        np.testing.assert_allclose(found.features[:, column], wanted[:, column], rtol=rtol, atol=0, err_msg=name)


def check_unrounded(layout: Layout, user: UserAt, category: int, found: npt.NDArray[np.float32]) -> None:
    """One row's decayed columns of users and tables are the rounding of something within 1e-9 of the online float64."""
    exact = {position: user.floats[position] for position in layout.user.positions}
    for column in layout.table_columns:
        n, total = user.tables.counts[column.table], user.tables.totals[column.table]
        if column.ttl_us is not None and not user.tied and user.time_us - user.last_us > column.ttl_us:
            n, total = 0, 0.0
        entry = np.flatnonzero(user.tables.categories[column.table, :n] == category)
        weight, positive = user.tables.weights[column.table, entry[0]] if len(entry) else (0.0, 0.0)
        if column.prior is None:
            exact[column.position] = weight / total if total else 0.0
        else:
            exact[column.position] = ratio(positive, weight, 1.0, column.prior.mean, column.prior.weight)
    for position, value in exact.items():
        ends = sorted([np.float32(value * (1 - 1e-9)), np.float32(value * (1 + 1e-9))])
        assert ends[0] <= found[position] <= ends[1], layout.feature_names[position]


def compare(layout: Layout, events: EventColumns, asked: list[tuple[int, int, int]]) -> None:
    """Each query against a stream that was fed, in log order, exactly the events before it."""
    users, items = entities()
    queries = Queries(
        np.array([q[0] for q in asked], np.uint64),
        np.array([q[1] for q in asked], np.uint64),
        np.array([q[2] for q in asked], np.int64),
        *(np.arange(first, first + len(asked), dtype=np.uint32) for first in (1, 2, 3)),
    )
    once = events.take(first_occurrences(events.event_id, events.partition, events.offset, 1000))
    found = backfill(layout, once, users, items, queries)
    expected = []
    for number, (user, item, time_us) in enumerate(asked):
        stream = Stream(layout, users, items)
        stream.fold(events.take(events.event_time_us < time_us))
        expected.append(stream.assemble(user, item, time_us, RequestContext(number + 1, number + 2, number + 3)))
        row = unpack_user_row(layout, stream.users.row(user, 1))
        category = 0 if item not in items or items[item].deleted else (GENRES[item] or [0])[0]
        check_unrounded(layout, UserAt(layout, row, time_us), category, found.features[number])
    check(layout, expected, found)


def test_no_events_and_no_queries_are_empty_not_errors(layout: Layout) -> None:
    """Cold starts have defaults, not NaN; no query gives no row."""
    compare(layout, EventColumns.empty(), [(1, 1, BASE_US), (9, 9, BASE_US), (4, 5, BASE_US)])

    none = backfill(layout, log_of([(1, 1, 0, 1, 5)]), {}, {}, Queries.of([], [], []))
    assert none.features.shape == (0, len(layout.feature_names))
    assert none.user_ints.shape == (0, len(layout.user_int_names))
    assert none.item_ints.shape == (0, len(layout.item_int_names))


def test_an_event_does_not_see_itself(layout: Layout) -> None:
    """Strict: at its own time it is not there, one microsecond later it is."""
    events = log_of([(1, 1, 2, 5, 100)])
    at_us = int(events.event_time_us[0])
    found = backfill(layout, events, {}, {}, Queries.of([1, 1], [1, 1], [at_us, at_us + 1]))

    for name in ("u_all_all", "i_all_all", "u_rates_2h"):
        assert found.features[:, layout.feature_names.index(name)].tolist() == [0, 1]


def test_an_erased_user_has_no_history(layout: Layout) -> None:
    """The id is refused as online; what the item counted stays counted."""
    events = log_of([(4, 1, 2, 5, 10), (1, 1, 2, 3, 20)])
    found = backfill(layout, events, entities()[0], {}, Queries.of([4], [1], [BASE_US + HOUR_US]))

    assert found.features[0, layout.feature_names.index("u_all_all")] == 0
    assert found.features[0, layout.feature_names.index("i_all_all")] == 2


def test_buckets_of_users_make_the_whole(layout: Layout) -> None:
    """Each query is in one bucket; items are counted by everybody's events, so the bits are the same."""
    chance = np.random.default_rng(5)
    columns = (chance.integers(1, n, 120).tolist() for n in (40, 6, 3, 6, 90_000))
    rows: list[Row] = list(zip(*columns, strict=True))
    events, (users, items) = log_of(rows), entities()
    queries = Queries.of([row[0] for row in rows], [row[1] for row in rows], events.event_time_us + 1)
    whole = backfill(layout, events, users, items, queries)

    places = []
    for bucket in range(3):
        mine, part = backfill_bucket(layout, events, users, items, queries, bucket, 3)
        places += mine.tolist()
        np.testing.assert_array_equal(whole.features[mine], part.features)
        np.testing.assert_array_equal(whole.user_ints[mine], part.user_ints)
        np.testing.assert_array_equal(whole.item_ints[mine], part.item_ints)
    assert sorted(places) == list(range(120))


@pytest.mark.parametrize("seed", range(3))
def test_a_disordered_log_with_ties_equals_streaming(layout: Layout, seed: int) -> None:
    """Long histories: blocks overflow, tables forget, tiles end, late events come."""
    chance = random.Random(seed)  # noqa: S311  seeded on purpose
    seconds = sorted(chance.choice([0, 60, 4_000, 90_000, 3_000_000]) + chance.randrange(2_000) for _ in range(300))
    for _ in range(40):
        late, early = chance.randrange(300), chance.randrange(300)
        seconds[late], seconds[early] = seconds[early], seconds[late]
    rows = [
        (chance.randrange(1, 5), chance.randrange(1, 6), chance.randrange(3), chance.choice([1.0, 2.5, 4.0, 5.0]), at)
        for at in seconds
    ]
    times = [chance.choice(seconds) + chance.choice([0, 0, 1, 7_000]) for _ in range(40)]
    asked = [(chance.randrange(1, 7), chance.randrange(1, 8), BASE_US + at * 1_000_000) for at in times]

    compare(layout, log_of(rows), asked)


def test_a_live_stream_in_order_is_what_backfill_says(layout: Layout) -> None:
    """Scored just before each event is folded, as `replay` does; with resent events that neither counts twice."""
    chance = random.Random(8)  # noqa: S311  seeded on purpose
    rows = [
        (chance.randrange(1, 5), chance.randrange(1, 6), chance.randrange(3), float(chance.randrange(1, 6)), 700 * at)
        for at in range(200)
    ]
    events = log_of(rows)
    repeated = np.array(sorted([*range(200), *(chance.randrange(200) for _ in range(60))]))
    log = EventColumns.of(
        len(repeated),
        **{
            name: getattr(events, name)[repeated]
            for name in ("event_id", "user_id", "item_id", "action", "value", "event_time_us", "category", "partition")
        },
        offset=range(len(repeated)),
    )
    users, items = entities()
    stream, dedupers = Stream(layout, users, items), [Deduper(1000), Deduper(1000)]  # the stream's own see no repeat
    expected, asked = [], []
    for place in range(len(log)):
        event = log.take(slice(place, place + 1))
        if not dedupers[event.partition[0]].keep(event.event_id, event.offset)[0]:
            continue
        asked.append(place)
        user, item, time_us = int(event.user_id[0]), int(event.item_id[0]), int(event.event_time_us[0])
        expected.append(stream.assemble(user, item, time_us, RequestContext()))
        stream.fold(event)

    once = log.take(first_occurrences(log.event_id, log.partition, log.offset, 1000))
    queries = Queries.of(log.user_id[asked], log.item_id[asked], log.event_time_us[asked])
    assert len(once) == 200
    check(layout, expected, backfill(layout, once, users, items, queries))


ROW = st.tuples(
    st.integers(1, 3),
    st.integers(1, 4),
    st.integers(0, 2),
    st.sampled_from([0.5, 1.0, 3.9, 4.0, -2.0]),
    st.one_of(st.integers(0, 5), st.integers(0, 5_000), st.integers(0, 4_000_000)),
)


Given = Callable[[Layout, list[Row], list[Row], list[int], st.DataObject], None]


def search(examples: int, **how: Any) -> Callable[[Given], Callable[[Layout], None]]:
    """Any log, shuffled, late, tied, with repeats; queries at event times and just after."""

    def make(holds: Given) -> Callable[[Layout], None]:
        given_all = given(
            rows=st.lists(ROW, max_size=60),
            asked=st.lists(ROW, min_size=1, max_size=8),
            again=st.lists(st.integers(0, 59), max_size=6),
            data=st.data(),
        )
        return settings(max_examples=examples, deadline=None, **how)(given_all(holds))

    return make


def stream_equals_backfill(
    layout: Layout, rows: list[Row], asked: list[Row], again: list[int], data: st.DataObject
) -> None:
    """The property."""
    times = [row[4] for row in rows] or [0]
    chosen = [
        (user, item, BASE_US + data.draw(st.sampled_from([*times, at])) * 1_000_000 + data.draw(st.integers(0, 1)))
        for user, item, _, _, at in asked
    ]
    compare(layout, log_of(rows, [place for place in again if place < len(rows)]), chosen)


@pytest.mark.property
def test_stream_equals_backfill(layout: Layout) -> None:
    """Whole numbers exactly, floats to 1e-9."""

    @search(150)
    def holds(rows: Any, asked: Any, again: Any, data: Any) -> None:
        stream_equals_backfill(layout, rows, asked, again, data)

    holds()


def a_tile_late(layout: Layout) -> UserReads:
    """Planted: each window loses its oldest tile."""
    reads = user_reads(layout)
    sums = reads.sums.copy()
    sums[sums[:, 1] != NONE, 1] -= sums[sums[:, 1] != NONE, 3]  # window_us, hop_us
    return reads._replace(sums=sums)


def not_strict(times: Any, firsts: Any, ends: Any, asked: Any) -> Any:
    """Planted: `<=` for `<`."""
    return _before(times, firsts, ends, asked + 1)


class Forgetful(UserTable):
    """Planted: every second batch that is folded changes nothing."""

    batches = 0

    def fold(self, events: EventColumns) -> None:
        self.batches += 1
        super().fold(events if self.batches % 2 else events.take(slice(0, 0)))


BUGS = [
    pytest.param("definitions.user_values.user_reads", a_tile_late, id="tile hop off by one"),
    pytest.param("definitions.timeline._before", not_strict, id="<= for <"),
    pytest.param(f"{__name__}.UserTable", Forgetful, id="dropped batch"),
]


def planted(monkeypatch: pytest.MonkeyPatch, target: str, bug: Any) -> None:
    if target.startswith(__name__):
        monkeypatch.setitem(globals(), target.rsplit(".", 1)[1], bug)
    else:
        monkeypatch.setattr(target, bug)


@pytest.mark.parametrize(("target", "bug"), BUGS)
def test_a_planted_bug_turns_the_comparison_red(
    layout: Layout, monkeypatch: pytest.MonkeyPatch, target: str, bug: Any
) -> None:
    """One small log is enough for each: users of both partitions, events in the oldest tile and at the query's time."""
    rows: list[Row] = [(2, 1, 0, 1, 0), (1, 1, 0, 1, 0), (2, 2, 2, 4, 3_000), (1, 2, 2, 5, 3_000), (1, 3, 1, 1, 3_700)]
    asked = [(user, 2, BASE_US + at * 1_000_000) for user in (1, 2) for at in (3_600, 3_700)]
    compare(layout, log_of(rows), asked)
    planted(monkeypatch, target, bug)

    with pytest.raises(AssertionError):
        compare(layout, log_of(rows), asked)


@pytest.mark.property
@pytest.mark.parametrize(("target", "bug"), BUGS)
def test_the_search_finds_a_planted_bug(layout: Layout, monkeypatch: pytest.MonkeyPatch, target: str, bug: Any) -> None:
    """The random examples are rich enough to meet each of them."""
    planted(monkeypatch, target, bug)

    @search(1_000, derandomize=True, database=None, phases=[Phase.generate])  # it ends with the first that finds it
    def holds(rows: Any, asked: Any, again: Any, data: Any) -> None:
        stream_equals_backfill(layout, rows, asked, again, data)

    with pytest.raises((AssertionError, ExceptionGroup)):
        holds()


@pytest.mark.bench
def test_a_hundred_thousand_queries_take_seconds(layout: Layout) -> None:
    """100,000 queries on as many events within 10 s of CPU (2.3 s for `movies`, measured on 2 cores)."""
    chance, n = np.random.default_rng(1), 100_000
    events = EventColumns.of(
        n,
        user_id=chance.integers(1, 944, n),
        item_id=chance.integers(1, 1683, n),
        action=chance.integers(0, 3, n),
        value=chance.integers(1, 6, n),
        event_time_us=BASE_US + np.sort(chance.integers(0, 200 * 24 * HOUR_US, n)),
        category=chance.integers(0, 20, n),
        offset=range(n),
    )
    codes = pb.CategoryCodes(codes=[5])
    items = {i: pb.Item(id=i, attributes={"genre": pb.AttributeValue(categories=codes)}) for i in range(1, 1683)}

    began = time.process_time()
    found = backfill(layout, events, {}, items, Queries.of(events.user_id, events.item_id, events.event_time_us))

    assert time.process_time() - began <= 10
    assert np.isfinite(found.features).all()
