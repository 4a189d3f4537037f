"""The item snapshot: markers, merging over partitions, the catalogue, growth."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from threading import Thread
from typing import Any

import numpy as np
import pytest
from definitions.errors import CorruptRow, LayoutMismatch
from definitions.events import EventColumns
from definitions.item_snapshot import ItemColumns, ItemSnapshot
from definitions.item_table import ItemTable
from definitions.layout import Layout
from hypothesis import given, settings
from hypothesis import strategies as st
from millrace.events.v1 import events_pb2 as pb

Build = Callable[[Sequence[Any]], EventColumns]
BASE, S, H = 1_702_080_000_000_000, 1_000_000, 3_600_000_000


def ids(*items: int) -> Any:
    return np.array(items, np.uint64)


def value(layout: Layout, view: ItemColumns, name: str) -> list[float]:
    places = {position: index for index, position in enumerate(layout.item.positions)}
    column: list[float] = view.features[:, places[layout.feature_names.index(name)]].tolist()
    return column


def partial(layout: Layout, events: EventColumns, item: int = 1) -> bytes:
    table = ItemTable(layout)
    table.fold(events)
    return table.partial(item)


def genre(*codes: int) -> dict[str, pb.AttributeValue]:
    return {"genre": pb.AttributeValue(categories=pb.CategoryCodes(codes=codes))}


def test_partials_show_from_their_marker_on(layout: Layout, event: type[Any], columns: Build) -> None:
    """All of a partition at once, and nothing of another partition."""
    snapshot = ItemSnapshot(layout)
    three = columns([event(1, 1, 0, 0, BASE)] * 3)
    snapshot.apply(0, 1, partial(layout, three))
    snapshot.apply(1, 1, partial(layout, three))

    assert value(layout, snapshot.view(ids(1), BASE + 1), "i_all_all") == [0]
    snapshot.mark(0, 30)
    assert value(layout, snapshot.view(ids(1), BASE + 1), "i_all_all") == [3]
    snapshot.mark(1, 7)
    view = snapshot.view(ids(1), BASE + 1)
    assert value(layout, view, "i_all_all") == [6]
    assert view.markers == snapshot.markers() == {0: 30, 1: 7}


def test_a_newer_partial_replaces_its_partitions_older_one(layout: Layout, event: type[Any], columns: Build) -> None:
    """Partials are absolute: a repeat changes nothing, a tombstone takes the part away."""
    snapshot = ItemSnapshot(layout)
    for n in (2, 5, 5):
        snapshot.apply(0, 1, partial(layout, columns([event(1, 1, 0, 0, BASE)] * n)))
        snapshot.mark(0, n)
    assert value(layout, snapshot.view(ids(1), BASE + 1), "i_all_1h") == [5]

    snapshot.apply(0, 1, None)
    snapshot.mark(0, 6)
    assert value(layout, snapshot.view(ids(1), BASE + 1), "i_all_1h") == [0]


@pytest.mark.property
def test_partials_merge_in_any_order_to_the_whole(layout: Layout, event: type[Any], columns: Build) -> None:
    """Events split over partitions, applied in any order with any markers: what one partition would hold."""
    random = np.random.default_rng(5)
    times = BASE + random.integers(0, 40 * 24 * 12, 120) * 300 * S - random.integers(0, 2, 120)
    log = [
        event(int(u), int(i), int(a), int(v), int(t))
        for u, i, a, v, t in zip(*random.integers(1, [[5], [4], [4], [6]], (4, 120)), times, strict=True)
    ]
    log = [e._replace(action=e.action - 1) for e in log]
    whole = ItemSnapshot(layout)
    for item in (1, 2, 3):
        whole.apply(0, item, partial(layout, columns(log), item))
    whole.mark(0, 1)

    @settings(max_examples=40, deadline=None)
    @given(order=st.permutations([(p, i) for p in range(4) for i in (1, 2, 3)]), gap=st.integers(-600, 3 * 86400))
    def holds(order: list[tuple[int, int]], gap: int) -> None:
        snapshot = ItemSnapshot(layout)
        for partition, item in order:
            snapshot.apply(partition, item, partial(layout, columns([e for e in log if e.user % 4 == partition]), item))
            snapshot.mark(partition, 1)
        t = int(times.max()) + gap * S
        got, expected = snapshot.view(ids(1, 2, 3), t).features, whole.view(ids(1, 2, 3), t).features
        np.testing.assert_allclose(got, expected, rtol=1e-6)

    holds()


def test_an_item_that_a_partition_left_behind_keeps_its_tiles_right(
    layout: Layout, event: type[Any], columns: Build
) -> None:
    """Old tiles of one partition never appear as new ones of the ring."""
    snapshot = ItemSnapshot(layout)
    for partition, age in enumerate([0, 16 * 300 * S, 28 * H, 400 * H, 34 * 24 * H]):
        snapshot.apply(partition, 1, partial(layout, columns([event(1, 1, 0, 0, BASE - age)])))
        snapshot.mark(partition, 1)
    view = snapshot.view(ids(1), BASE + 1)

    assert [value(layout, view, f"i_all_{window}") for window in ("1h", "24h", "30d", "all")] == [[1], [2], [4], [5]]


def test_a_reader_long_before_the_newest_event_does_not_see_it(
    layout: Layout, event: type[Any], columns: Build
) -> None:
    """A ring's cell is of one tile only, however far back t is."""
    snapshot = ItemSnapshot(layout)
    snapshot.apply(0, 1, partial(layout, columns([event(1, 1, 0, 0, BASE)])))
    snapshot.mark(0, 1)

    assert {value(layout, snapshot.view(ids(1), BASE - age * 300 * S), "i_all_1h")[0] for age in range(60)} == {0}


def test_the_catalogue_gives_attributes_and_takes_them_back(layout: Layout) -> None:
    """Codes in their columns, the first genre as category, defaults after deletion; counts are the catalogue's."""
    snapshot = ItemSnapshot(layout)
    snapshot.put_item(pb.Item(id=3, attributes=genre(8, 9) | {"year": pb.AttributeValue(number=2001)}))
    snapshot.put_item(pb.Item(id=4, attributes={"genre": pb.AttributeValue(text="Drama")}))
    view = snapshot.view(ids(3, 99), BASE)

    assert (view.ints.tolist(), view.category.tolist()) == ([[3, 8, 9, 0, 0], [99] + [0] * 4], [8, 0])
    assert (value(layout, view, "i_year"), view.known.tolist(), len(snapshot)) == ([2001, 1990], [True, False], 2)

    snapshot.put_item(pb.Item(id=3, deleted=True))
    view = snapshot.view(ids(3), BASE)
    assert (view.category.tolist(), value(layout, view, "i_year"), len(snapshot)) == ([0], [1990], 1)
    assert snapshot.known(ids(3, 4)).tolist() == [False, True]


def test_what_was_deleted_is_told_from_what_was_never_there(layout: Layout) -> None:
    """A caller may ask for an item before the catalogue has it, never for one after its end; it may come back."""
    snapshot = ItemSnapshot(layout)
    asked = ids(3, 4, 99)
    assert snapshot.not_deleted(asked) is asked

    snapshot.put_items([pb.Item(id=3), pb.Item(id=4, deleted=True)])
    assert [3, 99] == snapshot.not_deleted(asked).tolist()

    snapshot.put_items([pb.Item(id=item) for item in range(1_000, 4_000)])  # the columns grow
    assert [3, 99] == snapshot.not_deleted(asked).tolist()
    snapshot.put_item(pb.Item(id=4))
    assert [3, 4, 99] == snapshot.not_deleted(asked).tolist()


def test_popular_is_by_label_weighted_totals_of_the_catalogue(layout: Layout, event: type[Any], columns: Build) -> None:
    """A rating of 4 is worth five clicks, views nothing; ties by id, the never touched last, others absent."""
    snapshot = ItemSnapshot(layout)
    events = [event(1, 2, 2, 4, BASE), event(1, 3, 2, 3, BASE), event(1, 4, 1, 0, BASE), event(1, 9, 2, 5, BASE)]
    table = ItemTable(layout)
    table.fold(columns([*events, event(1, 2, 2, 5, BASE), event(1, 5, 1, 0, BASE)]))
    for item in table.all_items().tolist():
        snapshot.apply(0, item, table.partial(item))
    snapshot.mark(0, 1)
    for item in (6, 5, 4, 3, 2):
        snapshot.put_item(pb.Item(id=item))
    best, scores = snapshot.popular(10)

    assert best.tolist() == [2, 4, 5, 3, 6]
    assert scores.tolist() == pytest.approx([2, 0.2, 0.2, 0, 0])
    assert [snapshot.popular(n)[0].tolist() for n in (2, 4, 0)] == [[2, 4], [2, 4, 5, 3], []]
    snapshot.put_item(pb.Item(id=9))
    assert snapshot.popular(2)[0].tolist() == [2, 9]


def test_columns_grow_without_losing_anything(layout: Layout, event: type[Any], columns: Build) -> None:
    """Past the first 1,024 slots, what was there is there."""
    snapshot = ItemSnapshot(layout)
    snapshot.apply(0, 1, partial(layout, columns([event(1, 1, 0, 0, BASE)])))
    snapshot.mark(0, 1)
    for item in range(1, 3001):
        snapshot.put_item(pb.Item(id=item, attributes=genre(item)))
    view = snapshot.view(np.arange(1, 3001, dtype=np.uint64), BASE + 1)

    assert view.category.tolist() == list(range(1, 3001))
    assert sum(value(layout, view, "i_all_1h")) == value(layout, view, "i_all_1h")[0] == 1


def test_bytes_of_another_layout_or_damaged_are_refused(layout: Layout, event: type[Any], columns: Build) -> None:
    """Nothing of them is taken over."""
    snapshot, good = ItemSnapshot(layout), partial(layout, columns([event(1, 1, 0, 0, BASE)]))
    with pytest.raises(LayoutMismatch):
        snapshot.apply(0, 1, good[:1] + b"\0\0\0\0" + good[5:])
    for damaged in (b"", good[:30], good[:-1], good + b"\0"):
        with pytest.raises(CorruptRow):
            snapshot.apply(0, 1, damaged)
    snapshot.mark(0, 1)

    assert value(layout, snapshot.view(ids(1), BASE + 1), "i_all_all") == [0]


def test_bad_partials_of_a_batch_are_left_out_and_named(layout: Layout, event: type[Any], columns: Build) -> None:
    """Their neighbours are applied, whichever come first; so is a tombstone among them."""
    snapshot, good = ItemSnapshot(layout), partial(layout, columns([event(1, 1, 0, 0, BASE)]))
    early = bytearray(good)
    early[5:13] = (BASE - 10 * H).to_bytes(8, "little")  # its newest event before its tiles
    other = good[:1] + b"\0\0\0\0" + good[5:]
    contents = [good, b"", good, other, None, good[:-1], bytes(early), good]
    errors = snapshot.apply_many(0, range(1, 9), contents)
    snapshot.mark(0, 1)

    assert {index: type(error) for index, error in errors.items()} == {
        1: CorruptRow, 3: LayoutMismatch, 5: CorruptRow, 6: CorruptRow,
    }  # fmt: skip
    assert value(layout, snapshot.view(ids(*range(1, 9)), BASE + 1), "i_all_1h") == [1, 0, 1, 0, 0, 0, 0, 1]


def test_rewritten_partials_leave_no_trace(layout: Layout, event: type[Any], columns: Build) -> None:
    """After many rounds of newer partials and tombstones: the values of the last ones alone, and no more memory."""
    random = np.random.default_rng(8)
    snapshot, latest, sizes = ItemSnapshot(layout), dict[tuple[int, int], bytes | None](), []
    pool = [
        partial(layout, columns([
            event(1, 1, int(random.integers(0, 3)), int(random.integers(1, 6)), BASE - int(age) * 300 * S)
            for age in random.integers(0, 400, n)
        ]))
        for n in (1, 2, 5, 30)
        for _ in range(8)
    ]  # fmt: skip
    for number in range(40):
        for partition in (2, 0, 1):
            items = random.integers(1, 60, 50).tolist()  # some twice in a batch
            contents = [None if place < 2 else pool[place] for place in random.integers(0, len(pool), 50).tolist()]
            snapshot.apply_many(partition, items[:20], contents[:20])
            snapshot.apply_many(partition, items[20:], contents[20:])
            snapshot.mark(partition, number)
            latest.update(((item, partition), content) for item, content in zip(items, contents, strict=True))
        sizes.append(snapshot.nbytes)
    fresh = ItemSnapshot(layout)
    for (item, partition), content in latest.items():
        fresh.apply(partition, item, content)
    for partition in range(3):
        fresh.mark(partition, 1)

    every = np.arange(1, 70, dtype=np.uint64)
    for t in (BASE - 5 * H, BASE + 1, BASE + 3 * H):
        np.testing.assert_array_equal(snapshot.view(every, t).features, fresh.view(every, t).features)
    for item in every.tolist():
        snapshot.put_item(pb.Item(id=item))
        fresh.put_item(pb.Item(id=item))
    assert [part.tolist() for part in snapshot.popular(99)] == [part.tolist() for part in fresh.popular(99)]
    assert sizes[-1] <= 1.2 * sizes[9]


def test_a_view_never_sees_half_a_marker(layout: Layout, event: type[Any], columns: Build) -> None:
    """While one thread marks, each view has all items of a marker or none, and its number says which."""
    snapshot, seen = ItemSnapshot(layout), []
    steps = [partial(layout, columns([event(1, 1, 0, 0, BASE)] * n)) for n in range(1, 30)]

    def write() -> None:
        for number, content in enumerate(steps, start=1):
            for item in range(1, 20):
                snapshot.apply(0, item, content)
            snapshot.mark(0, number)

    writer = Thread(target=write)
    writer.start()
    while writer.is_alive():
        view = snapshot.view(np.arange(1, 20, dtype=np.uint64), BASE + 1)
        seen.append((view.markers.get(0, 0), *set(value(layout, view, "i_all_all"))))
    writer.join()

    assert all(len(view) == 2 and view[0] == view[1] for view in seen)
    assert all(older <= newer for older, newer in pairwise(seen))
