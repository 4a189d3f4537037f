"""The compiled tables of users and items keep what one event at a time, written plainly, gives: to the bit."""

from bisect import bisect_right, insort_right
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from definitions.compiled import kernel
from definitions.events import EventColumns, micros
from definitions.item_state import ItemState, pack_item
from definitions.item_table import ItemTable
from definitions.kernel import Moment, TableState, UserState, decayed_add, matches
from definitions.layout import Layout, layout_of
from definitions.packed import pack_user
from definitions.packed_rows import PackedRows
from definitions.plan import BLOCK, Side, Table
from definitions.seen import seen_hash
from definitions.slots import Index, ids_in, new_index, places_of, remove, row_of
from definitions.tiles import decayed, oldest_kept_tile
from definitions.usecase import load_usecase
from definitions.user_state import UserTable

BASE, DAY = 1_702_080_000_000_000, 86_400_000_000
USECASES = Path(__file__).parents[3] / "usecases"


def plain_sums(side: Side, state: UserState | ItemState, moment: Moment) -> None:
    for index, measure in enumerate(side.measures):
        if matches(measure.selector, moment):
            state.totals[index] += moment.value if measure.is_sum else 1
    for index, (number, tiles) in enumerate(side.tile_columns):
        measure = side.measures[number]
        if matches(measure.selector, moment):
            cells, tile = state.tiles[index], moment.time_us // tiles.hop_us
            cells[tile] = cells.get(tile, 0) + (moment.value if measure.is_sum else 1)


def plain_decays(side: Side, state: UserState | ItemState, moment: Moment) -> None:
    for index, decay in enumerate(side.decays):
        if matches(decay.selector, moment):
            state.decay_values[index], state.decay_times[index] = decayed_add(
                state.decay_values[index],
                state.decay_times[index],
                moment.time_us,
                float(moment.value) if decay.is_sum else 1.0,
                decay.half_life_us,
            )
    for index, selector in enumerate(side.recencies):
        if matches(selector, moment):
            state.recencies[index] = max(state.recencies[index], moment.time_us)


def plain_table(table: Table, state: TableState, moment: Moment) -> None:
    if not moment.category or not matches(table.selector, moment):
        return
    positive, half_life = float(matches(table.positive, moment)), table.half_life_us
    state.total, state.time_us = decayed_add(state.total, state.time_us, moment.time_us, 1.0, half_life)
    if (old := state.entries.get(moment.category)) is not None:
        weight, time_us = decayed_add(old[0], old[2], moment.time_us, 1.0, half_life)
        positive, _ = decayed_add(old[1], old[2], moment.time_us, positive, half_life)
        state.entries[moment.category] = weight, positive, time_us
        return
    if len(state.entries) == table.k:
        del state.entries[
            min((decayed(w, state.time_us - at, half_life), c) for c, (w, _, at) in state.entries.items())[1]
        ]
    state.entries[moment.category] = 1.0, positive, moment.time_us


def plain_retire(side: Side, state: UserState, moment: Moment) -> None:
    plain_decays(side, state, moment)
    for history, kept in zip(side.histories, state.histories, strict=True):
        if matches(history.selector, moment):
            kept.insert(bisect_right(kept, moment.time_us, key=lambda each: each.time_us), moment)
            del kept[: -history.k]
    for table, weights in zip(side.tables, state.tables, strict=True):
        plain_table(table, weights, moment)


def sweep(side: Side, state: UserState | ItemState) -> None:
    for cells, (_, tiles) in zip(state.tiles, side.tile_columns, strict=True):
        oldest = oldest_kept_tile(state.newest_us, tiles.keep_us, tiles.hop_us)
        for index in [index for index in cells if index < oldest]:
            del cells[index]


def moments(events: EventColumns) -> Iterable[Moment]:
    return map(
        Moment,
        events.event_time_us.tolist(),
        events.item_id.tolist(),
        events.action.tolist(),
        micros(events.value).tolist(),
        events.category.tolist(),
    )


def plain_rows(layout: Layout, events: EventColumns) -> dict[int, bytes]:
    """Every user's row, epoch 5, folded one event at a time."""
    side, states = layout.user, dict[int, UserState]()
    for user, offset, moment in zip(events.user_id.tolist(), events.offset.tolist(), moments(events), strict=True):
        state = states.setdefault(user, UserState(side))
        state.newest_us = max(state.newest_us, moment.time_us)
        plain_sums(side, state, moment)
        insort_right(state.block, moment, key=lambda each: each.time_us)
        if len(state.block) > BLOCK:
            plain_retire(side, state, state.block.pop(0))
        state.interactions_offset = offset + 1
        if moment.action in layout.seen_actions:
            state.seen.pop(seen_hash(moment.item_id), None)
            state.seen[seen_hash(moment.item_id)] = None
            if len(state.seen) > layout.usecase.seen.last:
                del state.seen[next(iter(state.seen))]
    for state in states.values():
        sweep(side, state)
    return {user: pack_user(layout, state, 5) for user, state in states.items()}


def plain_partials(layout: Layout, events: EventColumns) -> dict[int, bytes]:
    side, states = layout.item, dict[int, ItemState]()
    for moment in moments(events):
        state = states.setdefault(moment.item_id, ItemState(side))
        state.newest_us = max(state.newest_us, moment.time_us)
        plain_sums(side, state, moment)
        plain_decays(side, state, moment)
    for state in states.values():
        sweep(side, state)
    return {item: pack_item(layout, state) for item, state in states.items()}


def events_of(seed: int, users: int, items: int, categories: int) -> EventColumns:
    """700 events over twenty days in a log's order: a fifth late, many tied, ids and codes of all sizes."""
    random, n = np.random.default_rng(seed), 700
    times = np.sort(random.integers(0, 20 * DAY, n))
    times = np.where(random.random(n) < 0.2, random.integers(0, 20 * DAY, n), times)
    return EventColumns.of(
        n,
        event_id=range(1, n + 1),
        user_id=random.integers(1, users + 1, n),
        item_id=random.integers(1, items + 1, n).astype(np.uint64) * np.uint64(2**63 // 900),
        action=random.integers(0, 3, n),
        value=random.choice([0, 1, 3.5, 4, 5, -2.25], n),
        event_time_us=BASE + times // 3_600_000_000 * 3_600_000_000,
        category=random.integers(0, categories, n) * np.uint32(2**32 // categories - 1),
        offset=np.arange(n) * 2,
    )


@pytest.mark.parametrize(("seed", "users", "items", "categories"), [(0, 2, 5, 90), (1, 40, 800, 4), (2, 3, 800, 50)])
@pytest.mark.parametrize("usecase", ["everything", "movies"])
def test_tables_keep_what_plain_folding_keeps(
    layout: Layout, usecase: str, seed: int, users: int, items: int, categories: int
) -> None:
    """Any cuts, with restarts between them: rows and partials are those of the plain fold, byte for byte."""
    if usecase != "everything":
        layout = layout_of(load_usecase(USECASES / f"{usecase}.yaml"))
    events = events_of(seed, users, items, categories)
    user_table, item_table = UserTable(layout), ItemTable(layout)
    random = np.random.default_rng(seed)
    for start, end in pairwise([0, *sorted(random.integers(0, len(events), 4).tolist()), len(events)]):
        user_table.fold(events.take(slice(start, end)))
        item_table.fold(events.take(slice(start, end)))
        if random.random() < 0.5:
            saved_users, saved_items = user_table.save(), item_table.save()
            user_table, item_table = UserTable(layout), ItemTable(layout)
            user_table.load(saved_users)
            item_table.load(saved_items)

    assert dict(user_table.rows(user_table.all_users(), 5).items()) == plain_rows(layout, events)
    assert dict(item_table.partials(item_table.all_items()).items()) == plain_partials(layout, events)


@pytest.mark.parametrize("users", [3, 60])
def test_users_who_leave_and_return_keep_what_plain_folding_keeps(layout: Layout, users: int) -> None:
    """Dropped between batches, taken back by their rows when they come again: byte for byte as if they had stayed."""
    events = events_of(5, users, 50, 6)
    table, away = UserTable(layout), dict[int, bytes]()
    random = np.random.default_rng(users)
    for start in range(0, len(events), 10):
        batch = events.take(slice(start, start + 10))
        back = [user for user in table.unknown(batch.user_id).tolist() if user in away]
        table.take(rows_of({user: away[user] for user in back}))
        table.fold(batch)
        table.take_dirty()
        leaving = table.least_active(int(random.integers(0, len(table) + 1)))
        away |= dict(table.rows(leaving, 5).items())
        table.drop(leaving)
        assert not set(leaving.tolist()) & set(table.all_users().tolist())
    table.take(rows_of({user: away[user] for user in away.keys() - set(table.all_users().tolist())}))

    assert dict(table.rows(table.all_users(), 5).items()) == plain_rows(layout, events)


def rows_of(rows: dict[int, bytes]) -> PackedRows:
    bounds = np.cumsum([0, *(len(row) for row in rows.values())])
    return PackedRows(np.array(list(rows), np.uint64), bounds, np.frombuffer(b"".join(rows.values()), np.uint8))


def test_those_whose_last_event_is_longest_ago_leave_first(layout: Layout) -> None:
    """Whoever was in a later batch stays."""
    events = events_of(6, 30, 50, 6)
    table = UserTable(layout)
    for start in (0, 300, 600):
        table.fold(events.take(slice(start, start + 100 if start else 300)))
    last = set(events.user_id[600:700].tolist())
    gone = table.least_active(len(table) - len(last))

    assert len(gone) == len(table) - len(last)
    assert not last & set(gone.tolist())


def test_memory_of_users_who_left_is_used_again(layout: Layout) -> None:
    """Ten times as many users as there is room for take no more than the first ones did."""
    table, sizes = UserTable(layout), []
    for turn in range(10):
        events = events_of(turn, 40, 50, 6)
        events.user_id[:] += np.uint64(100 * turn)
        table.fold(events)
        table.take_dirty()
        sizes.append(table.used_bytes)
        table.drop(table.all_users())
        assert len(table) == 0

    assert max(sizes) < 1.2 * sizes[0]


def test_an_index_forgets_what_is_removed_and_nothing_else() -> None:
    """Chains that run through removed rows and around the end stay whole: as a dict does, step by step."""
    random, index, known = np.random.default_rng(3), new_index(30), dict[int, int]()
    for step in range(2_000):
        key = np.uint64(int(random.integers(1, 60)) * 2**58)
        if len(known) < 30 and random.random() < 0.5:
            _put(index, key, step + 1)
            known[int(key)] = step + 1
        elif int(key) in known:
            _remove(index, key)
            del known[int(key)]
        keys = np.array(sorted(known), np.uint64)
        assert ids_in(index, len(known)).tolist() == keys.tolist()
        assert places_of(index, keys).tolist() == [known[key] for key in keys.tolist()]


@kernel
def _put(index: Index, key: np.uint64, place: int) -> None:
    row = row_of(index, key)
    index[row, 0] = np.int64(key)
    index[row, 1] = place


@kernel
def _remove(index: Index, key: np.uint64) -> None:
    remove(index, row_of(index, key))
