"""The catalogue in memory as records arrive."""

from typing import Any

import numpy as np
from definitions.item_feed import item_features_key, marker_value, partial_value
from definitions.item_table import ItemTable
from definitions.layout import layout_of
from definitions.records import LogRecord
from millrace.events.v1 import events_pb2 as pb
from servicekit.topics import id_key


def known(world: Any, *ids: int) -> list[bool]:
    return world.items.known(np.array(ids, np.uint64)).tolist()


def test_an_item_is_there_until_it_is_removed(world: Any) -> None:
    """By `deleted`, or by a tombstone."""
    world.items.take_items(0, [LogRecord(50, -1, id_key(1), pb.Item(id=1, deleted=True).SerializeToString())])
    world.items.take_items(0, [LogRecord(51, -1, id_key(2), None)])
    assert [False, False, True] == known(world, 1, 2, 3)


def test_bad_records_are_skipped_and_counted(world: Any) -> None:
    """Bytes, keys and layouts that are not ours; good neighbours are applied."""
    world.records.clear()
    world.items.take_items(0, [LogRecord(1, -1, id_key(40), b"\xff\xff")])
    world.items.take_items(0, [LogRecord(2, -1, id_key(41), pb.Item(id=42).SerializeToString())])
    world.items.take_items(0, [LogRecord(3, -1, id_key(43), pb.Item(id=43).SerializeToString())])
    world.items.take_features(0, [LogRecord(4, -1, b"short", b"")])
    world.items.take_features(0, [LogRecord(5, -1, item_features_key(3, 0), b"no partial")])
    world.items.take_features(0, [LogRecord(6, -1, item_features_key(0, 0), b"no marker")])
    assert ["bad", "bad", "applied", "bad", "bad", "bad"] == [outcome for _, outcome in world.records]
    assert [False, True] == known(world, 42, 43)


def test_a_partial_of_another_layout_is_counted_as_such(world: Any) -> None:
    """A rollout under way: the readers of the former layout go on without it."""
    other = layout_of(world.usecase.model_copy(update={"features": world.usecase.features[:3]}))
    table = ItemTable(other)
    table.fold(world._events([1], [3], [10**15]))
    world.records.clear()
    world.items.take_features(0, [LogRecord(4, -1, item_features_key(3, 0), partial_value(1, table.partial(3)))])
    assert [("item-features", "layout")] == world.records


def test_aggregates_appear_with_their_marker_and_not_before(world: Any) -> None:
    """So that an impression can name an exact cut."""
    table = ItemTable(world.layout)
    table.fold(world._events([1, 2], [3, 3], [10**15, 10**15]))
    column = world.layout.feature_names.index("i_rated_all")

    def rated() -> float:
        world.rank(3)
        shown = world.sink.shown[-1]
        return shown.features[0, column], shown.item_markers

    world.items.take_features(0, [LogRecord(60, -1, item_features_key(3, 1), partial_value(1, table.partial(3)))])
    assert (3.0, {0: 55}) == rated()
    world.items.take_features(0, [LogRecord(61, -1, item_features_key(0, 1), marker_value(1, 2))])
    assert (5.0, {0: 55, 1: 2}) == rated()


def test_a_marker_of_an_older_writer_is_ignored(world: Any) -> None:
    """It lost its lease, and must not make readers believe that they know more than they do."""
    world.items.take_features(0, [LogRecord(60, -1, item_features_key(0, 1), marker_value(5, 100))])
    world.items.take_features(0, [LogRecord(61, -1, item_features_key(0, 1), marker_value(4, 200))])
    world.rank(3)
    assert {0: 55, 1: 100} == world.sink.shown[-1].item_markers
    assert ("item-features", "stale") == world.records[-1]


def test_a_partial_of_an_older_writer_is_ignored(world: Any) -> None:
    """Stopped between the check of its lease and its send, it still sends: the newer marker must not let that in."""
    column = world.layout.feature_names.index("i_rated_all")
    newer, older = ItemTable(world.layout), ItemTable(world.layout)
    newer.fold(world._events([1, 2], [3, 3], [10**15, 10**15]))
    older.fold(world._events([1], [3], [10**15]))

    world.items.take_features(0, [LogRecord(60, -1, item_features_key(3, 1), partial_value(5, newer.partial(3)))])
    world.items.take_features(0, [LogRecord(61, -1, item_features_key(3, 1), partial_value(4, older.partial(3)))])
    world.items.take_features(0, [LogRecord(62, -1, item_features_key(0, 1), marker_value(4, 1))])
    world.items.take_features(0, [LogRecord(63, -1, item_features_key(0, 1), marker_value(5, 2))])

    assert ["stale", "stale", "marked"] == [outcome for _, outcome in world.records[-3:]]
    world.rank(3)
    shown = world.sink.shown[-1]
    assert 5.0 == shown.features[0, column]
    assert {0: 55, 1: 2} == shown.item_markers


def test_popularity_is_ordered_anew_only_when_something_changed(world: Any) -> None:
    """An idle catalogue costs nothing."""
    before = world.items.popularity
    world.items.refresh()
    assert before is world.items.popularity
    world.items.take_items(0, [LogRecord(60, -1, id_key(10), None)])
    world.items.refresh()
    assert [9, 8, 7] == world.items.popularity.item_ids[:3].tolist()
