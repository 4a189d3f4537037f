"""Rows as bytes: canonical, guarded by their header, and the same state when read back."""

import struct
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash
import yaml
from definitions.attributes import category_code
from definitions.errors import CorruptRow, LayoutMismatch
from definitions.events import EventColumns
from definitions.item_state import unpack_item
from definitions.item_table import ItemTable
from definitions.layout import Layout, layout_of
from definitions.packed import unpack_user_row
from definitions.row_header import RowHeader, read_header
from definitions.seen import seen_hash
from definitions.usecase import UseCase
from definitions.user_state import UserTable
from hypothesis import given, settings
from hypothesis import strategies as st
from millrace.events.v1 import events_pb2 as pb

Build = Callable[[Sequence[Any]], EventColumns]
BASE, S = 1_702_080_000_000_000, 1_000_000


@pytest.fixture(scope="session")
def log(event: type[Any], columns: Build) -> EventColumns:
    """300 events of 5 users on 9 items, some late, some tied, over twelve days."""
    random = np.random.default_rng(3)
    times = BASE + random.integers(0, 1_000_000, 300) // 20 * 20 * S
    return columns(
        [
            event(*map(int, random.integers([1, 1, 0, 0], [6, 10, 3, 6])), time_us, int(random.integers(0, 5)))
            for time_us in map(int, np.where(random.random(300) < 0.8, np.sort(times), times))
        ]
    )


def other_layout(layout: Layout) -> Layout:
    content = yaml.safe_load((Path(__file__).parent / "everything.yaml").read_text())
    return layout_of(UseCase.model_validate(content | {"features": content["features"][:-1]}))


def attributes(**values: Any) -> dict[str, pb.AttributeValue]:
    def one(value: Any) -> pb.AttributeValue:
        if isinstance(value, str):
            return pb.AttributeValue(text=value)
        if isinstance(value, list):
            return pb.AttributeValue(categories=pb.CategoryCodes(codes=value))
        return pb.AttributeValue(number=value)

    return {name: one(value) for name, value in values.items()}


def test_the_header_is_what_contracts_say(layout: Layout, event: type[Any], columns: Build) -> None:
    """33 bytes, little-endian: version, layout, newest event, epoch, offsets one past the newest folded records."""
    table = UserTable(layout)
    table.fold(columns([event(9, 1, 0, 0, BASE), event(7, 1, 0, 0, BASE + 5), event(7, 1, 0, 0, BASE + 3)]))
    table.fold_users([pb.User(id=7)], [40])
    row = table.row(7, epoch=6)

    assert read_header(row) == RowHeader(1, layout.layout_hash, BASE + 5, 6, 3, 41)
    assert struct.unpack_from("<BIqIQQ", row) == read_header(row)


@pytest.mark.property
def test_bytes_depend_on_the_log_alone(layout: Layout, log: EventColumns) -> None:
    """Any batch cuts, emissions and restarts between them: the same rows, partials and checkpoints."""

    def run(cuts: Sequence[int], restarts: set[int]) -> tuple[bytes, bytes]:
        users, items = UserTable(layout), ItemTable(layout)
        bounds = [0, *cuts, len(log)]
        for number, (start, end) in enumerate(pairwise(bounds)):
            users.fold(log.take(slice(start, end)))
            items.fold(log.take(slice(start, end)))
            for user in users.take_dirty().tolist():
                users.row(user, 1)
            if number in restarts:
                saved_users, saved_items = users.save(), items.save()
                users, items = UserTable(layout), ItemTable(layout)
                users.load(saved_users)
                items.load(saved_items)
        return users.save(), items.save()

    once = run([], set())

    @settings(max_examples=60, deadline=None)
    @given(cuts=st.lists(st.integers(0, len(log)), max_size=8).map(sorted), restarts=st.sets(st.integers(0, 8)))
    def holds(cuts: list[int], restarts: set[int]) -> None:
        assert run(cuts, restarts) == once

    holds()


def test_a_restart_changes_no_byte(layout: Layout, log: EventColumns) -> None:
    """Fold half, save, load, fold the rest: as if never stopped, dirty ids included."""
    straight, first, second = UserTable(layout), UserTable(layout), UserTable(layout)
    straight.fold(log)
    first.fold(log.take(slice(0, 150)))
    second.load(first.save())
    assert second.take_dirty().tolist() == []
    assert second.row(1, 7) == first.row(1, 7)
    second.fold(log.take(slice(150, None)))

    assert second.all_users().tolist() == straight.all_users().tolist() == [1, 2, 3, 4, 5]
    assert [second.row(user, 3) for user in range(1, 6)] == [straight.row(user, 3) for user in range(1, 6)]


def test_a_full_affinity_table_gives_up_its_weakest_category(event: type[Any], columns: Build) -> None:
    """Of three genres the two heaviest stay, old weight counting less; a newcomer always gets a place."""
    content = yaml.safe_load((Path(__file__).parent / "everything.yaml").read_text())
    features = [feature | ({"k": 2} if feature["name"] == "u_genre" else {}) for feature in content["features"]]
    layout = layout_of(UseCase.model_validate(content | {"features": features}))
    table, day = UserTable(layout), 86_400 * S
    genres = [1] * 30 + [2] * 5 + [3] * 2 + [0] * 16  # the last sixteen push the others out of the block
    early = [event(1, 1, 0, 0, BASE + (8 * day if genre else 9 * day), genre) for genre in genres]
    later = [event(1, 1, 0, 0, BASE + (18 * day if genre else 19 * day), genre) for genre in [4, 4] + [0] * 16]
    events = columns([*early, event(1, 1, 0, 0, BASE + 17 * day, 3), *later])
    table.fold(events.take(slice(0, len(early))))
    held = unpack_user_row(layout, table.row(1, 1)).state().tables[0]

    assert {genre: weight for genre, (weight, _, _) in held.entries.items()} == {1: 30, 3: 2}
    assert held.total == 37

    table.fold(events.take(slice(len(early), None)))
    assert set(unpack_user_row(layout, table.row(1, 1)).state().tables[0].entries) == {
        3,
        4,
    }  # thirty of ten days ago weigh 0.03


def test_bytes_hold_no_tile_that_nobody_can_read(layout: Layout, event: type[Any], columns: Build) -> None:
    """Two days later the 5-min tile of the first event is gone from row and partial, the daily one is not."""
    users, items = UserTable(layout), ItemTable(layout)
    events = columns([event(1, 1, 0, 0, BASE), event(1, 1, 0, 0, BASE + 2 * 86_400 * S)])
    users.fold(events)
    items.fold(events)
    partial = unpack_item(layout, items.partial(1))
    row = unpack_user_row(layout, users.row(1, 1)).state()

    for side, tiles in ((layout.user, row.tiles), (layout.item, partial.tiles)):
        kept = {of.hop_us // S: len(tiles[i]) for i, (m, of) in enumerate(side.tile_columns) if m == 0}
        assert kept == {300: 1, 3600: 1 if side is layout.user else 2, 86_400: 2}


def test_only_the_epoch_differs_between_two_writers(layout: Layout, log: EventColumns) -> None:
    """Rows are byte-equal in all but the epoch."""
    table = UserTable(layout)
    table.fold(log)
    one, two = table.row(1, 1), table.row(1, 2)

    assert one[:13] + one[17:] == two[:13] + two[17:]
    assert read_header(two) == read_header(one)._replace(epoch=2)


def test_dirty_ids_are_told_once(layout: Layout, log: EventColumns) -> None:
    """Ascending, and none is left."""
    users, items = UserTable(layout), ItemTable(layout)
    users.fold(log)
    items.fold(log)

    assert users.take_dirty().tolist() == users.all_users().tolist()
    assert items.take_dirty().tolist() == items.all_items().tolist() == list(range(1, 10))
    for table in (users, items):
        assert table.dirty == 0
        assert table.take_dirty().tolist() == []


def test_another_layout_is_a_mismatch_and_damage_is_corrupt(layout: Layout, log: EventColumns) -> None:
    """A reader treats both as missing; neither is ever read as something else."""
    table = UserTable(layout)
    table.fold(log)
    row = table.row(1, 1)

    with pytest.raises(LayoutMismatch, match="rebuild"):
        unpack_user_row(other_layout(layout), row)
    with pytest.raises(LayoutMismatch):
        unpack_user_row(layout, b"\x02" + row[1:])
    for damaged in (b"", row[:20], row[:60], row[:-1], row + b"\0"):
        with pytest.raises(CorruptRow):
            unpack_user_row(layout, damaged)


def test_a_checkpoint_of_another_layout_or_cut_short_is_refused(layout: Layout, log: EventColumns) -> None:
    """The caller rebuilds from the log."""
    users, items = UserTable(layout), ItemTable(layout)
    users.fold(log)
    saved = users.save()

    with pytest.raises(LayoutMismatch):
        UserTable(other_layout(layout)).load(saved)
    with pytest.raises(CorruptRow):
        items.load(saved)
    for cut in (3, 40, len(saved) - 1):
        with pytest.raises(CorruptRow):
            users.load(saved[:cut])


def test_seen_items_are_remembered_latest_last(layout: Layout, event: type[Any], columns: Build) -> None:
    """The last 8 different ones of the consuming actions; a view consumes nothing."""
    table = UserTable(layout)
    table.fold(
        columns([event(1, item, 2, 3, BASE) for item in (1, 2, 3, 4, 5, 6, 7, 8, 1, 9)] + [event(1, 50, 0, 0, BASE)])
    )
    row = unpack_user_row(layout, table.row(1, 1))

    assert row.seen_mask(np.array([1, 2, 3, 9, 50], np.uint64)).tolist() == [True, False, True, True, False]
    assert not unpack_user_row(layout, table.row(2, 1)).seen_mask(np.array([1], np.uint64)).any()


def test_one_hash_for_numbers_and_arrays() -> None:
    """The writer hashes one id, the reader many."""
    ids = np.array([1, 2, 2**63, 2**64 - 1, 1682], np.uint64)

    assert seen_hash(ids).tolist() == [seen_hash(item) for item in ids.tolist()]


def test_attributes_of_users_are_columns_of_the_row(layout: Layout) -> None:
    """Numbers, codes as they are, text as stable codes; the wrong kind, NaN and the unknown are absent."""
    table = UserTable(layout)
    known = pb.User(id=1, attributes=attributes(age=31, gender="F", likes=[5, 6, 7, 8], bio="hello", zip="1"))
    strange = pb.User(id=2, attributes=attributes(age=float("nan"), gender=1.5, likes=9))
    table.fold_users([known, strange], [3, 4])
    one, two = (unpack_user_row(layout, table.row(user, 1)).state() for user in (1, 2))

    assert (one.numbers, one.codes) == ([31], [category_code("F"), 5, 6, 7])
    assert (str(two.numbers), two.codes) == ("[nan]", [0, 9, 0, 0])
    assert table.take_dirty().tolist() == [1, 2]


def test_a_category_code_is_31_bits_and_never_0() -> None:
    """And the same for ever: it is in rows, on events and in vocabularies."""
    codes = [category_code(text) for text in ("", "Drama", "Action", "Ω")]

    assert all(0 < code < 2**31 for code in codes)
    assert category_code("Drama") == 0x7FFFFFFF & xxhash.xxh3_64_intdigest(b"Drama")


def test_an_erased_user_leaves_an_empty_row_for_good(layout: Layout, log: EventColumns) -> None:
    """The row still wins over the old one by its offsets, and later records of the id change nothing."""
    table = UserTable(layout)
    table.fold(log)
    offset = read_header(table.row(1, 1)).interactions_offset
    table.take_dirty()
    table.fold_users([pb.User(id=1, deleted=True)], [70])
    assert table.take_dirty().tolist() == [1]
    erased = table.row(1, 1)
    table.fold(log)
    table.fold_users([pb.User(id=1, attributes=attributes(age=31))], [71])

    assert table.row(1, 1) == erased
    row = unpack_user_row(layout, erased)
    assert (row.header.interactions_offset, row.header.users_offset) == (offset, 71)
    state = row.state()
    assert (row.header.last_event_time_us, sum(state.totals), state.block) == (0, 0, [])
    assert state.erased


def test_event_columns_hold_their_types() -> None:
    """A wrong dtype or length is refused by name; parts join and are taken from."""
    two = EventColumns.of(2, user_id=[1, 2], value=[0.5, 1])
    joined = EventColumns.concat([two, EventColumns.empty(), two])

    assert joined.user_id.tolist() == [1, 2, 1, 2]
    assert joined.take(joined.user_id == 2).value.tolist() == [1, 1]
    assert len(EventColumns.concat([])) == 0
    with pytest.raises(ValueError, match="column value"):
        EventColumns.of(2, value=[1])
    with pytest.raises(ValueError, match="no such column: valve"):
        EventColumns.of(2, valve=[1, 2])
