"""A user's values at time t: one compiled function of the packed row, for the gateway, the nightly batch and tests."""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from definitions.compiled import brief, float_of, inlined, take_i64, take_u16, take_u32
from definitions.kernel import UserState
from definitions.layout import Layout
from definitions.packed import UserRow, pack_user, unpack_user_row
from definitions.plan import BLOCK
from definitions.program import (
    ADDS,
    CODES,
    COLUMNS,
    DECAYS,
    FADES,
    HALF_LIVES,
    HISTORIES,
    KEPT,
    KS,
    MEASURES,
    NUMBERS,
    RATES,
    RECENCIES,
    TABLE_HALF_LIVES,
    TABLES,
    TIMES,
    Plan,
)
from definitions.reads import (
    NONE,
    SECOND_US,
    Codes,
    Floats,
    Ids,
    Ints,
    decayed_at,
    end_tile_at,
    first_tile_at,
    ratio_at,
)
from definitions.tiles import NEVER
from definitions.user_pack import ENTRY_BYTES, HEADER_BYTES, MOMENT_BYTES, Bytes
from definitions.user_reads import UserReads, user_reads


class Past(NamedTuple):
    """Events of all histories, each one's newest first from its place in `UserReads.past_at` on: item ids uint64,
    values int64 (1e-6 units), categories uint32; `counts` int64 (histories,), how many each has.
    """

    ids: Ids
    values: Ints
    categories: Codes
    counts: Ints


class TablesAt(NamedTuple):
    """Affinity tables at t: categories uint32 (T, room), their weights float64 (T, room, 2) of all and of positive
    events, the weight of a whole table float64 (T,), and how many categories it has, int64 (T,).
    """

    categories: Codes
    weights: Floats
    totals: Floats
    counts: Ints


class UserAt:
    """One user evaluated at `time_us`: only events with event time < t exist. Row None: a user without history.

    `floats` float64 (F,): the user's columns at their positions, 0 elsewhere; never NaN. `ints` int64 (Ku,): last-k ids
    (the uint64 bits) and values, and user codes; 0 where the request's codes go. `last_us`: the newest event before t,
    NEVER if there is none. `tied`: all 16 newest events are at or after t, so older ones among them may be counted
    too; count such rows.
    """

    __slots__ = ("floats", "ints", "last_us", "layout", "past", "tables", "tied", "time_us")

    def __init__(self, layout: Layout, row: UserRow | None, time_us: int) -> None:
        reads = user_reads(layout)
        data = _nobody(layout) if row is None else row.data
        tables, past = int(reads.plan[TABLES]), int(reads.past_at[-1])
        self.layout, self.time_us = layout, time_us
        self.floats = np.zeros(len(layout.feature_names))
        self.ints = np.zeros(len(layout.user_int_names), np.int64)
        self.past = Past(
            np.zeros(past, np.uint64),
            np.zeros(past, np.int64),
            np.zeros(past, np.uint32),
            np.zeros(len(reads.past_at) - 1, np.int64),
        )
        self.tables = TablesAt(
            np.empty((tables, reads.room), np.uint32),
            np.empty((tables, reads.room, 2)),
            np.zeros(tables),
            np.zeros(tables, np.int64),
        )
        self.last_us, self.tied = _evaluate(*reads, data, time_us, self.floats, self.ints, *self.past, *self.tables)

    def history(self, index: int) -> Ids:
        """Ids of a history's newest k events before t, uint64 (n,), newest first."""
        begin = int(user_reads(self.layout).past_at[index])
        return self.past.ids[begin : begin + int(self.past.counts[index])]


@lru_cache(maxsize=64)
def _nobody(layout: Layout) -> Bytes:
    """The row of a user without history."""
    return unpack_user_row(layout, pack_user(layout, UserState(layout.user), 0)).data


class _Row(NamedTuple):
    """Where the parts of a row begin, and what of its block is before t."""

    decay_values: int
    decay_times: int
    recencies: int
    numbers: int
    codes: int
    table_totals: int
    table_times: int
    lengths: int
    block: int
    histories: int
    time_us: int
    held: int  # events of the block
    before: int  # those before t
    last_us: int
    tied: bool


@inlined
def _read(plan: Plan, row: Bytes, time_us: int) -> _Row:
    decay_values = HEADER_BYTES + 8 * plan[MEASURES]
    decay_times = decay_values + 8 * plan[DECAYS]
    recencies = decay_times + 8 * plan[DECAYS]
    numbers = recencies + 8 * plan[RECENCIES]
    codes = numbers + 8 * plan[NUMBERS]
    table_totals = codes + 4 * plan[CODES]
    table_times = table_totals + 8 * plan[TABLES]
    lengths = table_times + 8 * plan[TABLES] + 1
    block = lengths + 1 + 2 * (plan[HISTORIES] + plan[TABLES] + plan[COLUMNS] + 1)
    held = int(np.int64(row[lengths]))
    before = held
    while before and take_i64(row, block + 8 * (before - 1)) >= time_us:
        before -= 1
    last_us = take_i64(row, block + 8 * (before - 1)) if before else NEVER
    return _Row(
        decay_values, decay_times, recencies, numbers, codes, table_totals, table_times, lengths, block,
        block + MOMENT_BYTES * held, time_us, held, before, last_us, held - before == BLOCK,
    )  # fmt: skip


@inlined
def _moment(row: Bytes, at: int, held: int, number: int) -> tuple[int, np.uint64, int, int, np.uint32]:
    """Time, item, action, value and category of one of `held` events that begin at `at`."""
    return (
        take_i64(row, at + 8 * number),
        np.uint64(take_i64(row, at + 8 * (held + number))),
        int(np.int64(take_u32(row, at + 16 * held + 4 * number))),
        take_i64(row, at + 20 * held + 8 * number),
        take_u32(row, at + 28 * held + 4 * number),
    )


@inlined
def is_over(ttl_us: int, time_us: int, last_us: int, tied: bool) -> bool:
    """Is the user's newest event before t too old. A `tied` row's is not known, and counts as fresh."""
    return ttl_us != NONE and not tied and (last_us == NEVER or time_us - last_us > ttl_us)


@brief
def _evaluate(
    plan: Plan, actions: int, sums: Ints, windows: Ints, window_scales: Floats, decayed: Ints, decayed_scales: Floats,
    recencies: Ints, numbers: Ints, defaults: Floats, history_ints: Ints, code_ints: Ints, past_at: Ints, room: int,
    row: Bytes, time_us: int, floats: Floats, ints: Ints, past_ids: Ids, past_values: Ints, past_categories: Codes,
    past_counts: Ints, table_categories: Codes, table_weights: Floats, table_totals: Floats, table_counts: Ints,
) -> tuple[int, bool]:  # fmt: skip
    """Fill `floats`, `ints`, a `Past` and a `TablesAt`; the newest event before t, and whether the row is tied."""
    reads = UserReads(
        plan, actions, sums, windows, window_scales, decayed, decayed_scales, recencies, numbers, defaults,
        history_ints, code_ints, past_at, room,
    )  # fmt: skip
    past = Past(past_ids, past_values, past_categories, past_counts)
    tables = TablesAt(table_categories, table_weights, table_totals, table_counts)
    found = _read(reads.plan, row, time_us)
    tables_at = _find_past(reads, row, found, past)
    tiles_at = _find_tables(reads, row, found, tables_at, tables)
    _put_ratios(reads.windows, reads.window_scales, found, _sums(reads, row, found, tiles_at), floats)
    _put_ratios(reads.decayed, reads.decayed_scales, found, _decays(reads, row, found), floats)
    _put_recencies(reads, row, found, floats)
    for i in range(len(reads.numbers)):
        value = float_of(take_i64(row, found.numbers + 8 * reads.numbers[i, 1]))
        floats[reads.numbers[i, 0]] = reads.defaults[i] if np.isnan(value) else value
    for i in range(len(reads.history_ints)):
        history, first, k = reads.history_ints[i]
        begin = reads.past_at[history]
        for j in range(past.counts[history]):
            ints[first + j] = np.int64(past.ids[begin + j])
            ints[first + k + j] = past.values[begin + j]
    for i in range(len(reads.code_ints)):
        first, start, width = reads.code_ints[i]
        for j in range(width):
            ints[first + j] = np.int64(take_u32(row, found.codes + 4 * (start + j)))
    return found.last_us, found.tied


@brief
def _sums(reads: UserReads, row: Bytes, found: _Row, tiles_at: int) -> Ints:
    """Every matching event of each window, less the block's at or after t."""
    plan, time_us = reads.plan, found.time_us
    lengths = found.lengths + 1 + 2 * (plan[HISTORIES] + plan[TABLES])
    begins = np.empty(plan[COLUMNS], np.int64)
    for column in range(plan[COLUMNS]):
        begins[column] = tiles_at
        tiles_at += 16 * int(np.int64(take_u16(row, lengths + 2 * column)))
    sums = np.zeros(len(reads.sums), np.int64)
    for i in range(len(sums)):
        measure, window_us, column, hop_us = reads.sums[i]
        if window_us == NONE:
            sums[i] = take_i64(row, HEADER_BYTES + 8 * measure)
            continue
        first, end = first_tile_at(time_us, window_us, hop_us), end_tile_at(time_us, hop_us)
        tiles = int(np.int64(take_u16(row, lengths + 2 * column)))
        for tile in range(tiles - 1, -1, -1):
            index = take_i64(row, begins[column] + 8 * tile)
            if index < first:
                break
            if index < end:
                sums[i] += take_i64(row, begins[column] + 8 * (tiles + tile))
    for number in range(found.before, found.held):
        at_us, _, action, value, _ = _moment(row, found.block, found.held, number)
        if action >= reads.actions:
            continue
        begin, end = _listed(plan, ADDS, action)
        for i in range(len(sums)):
            measure, window_us, _, hop_us = reads.sums[i]
            if window_us != NONE and at_us >= end_tile_at(time_us, hop_us) * hop_us:
                continue  # later tiles were not read
            for at in range(begin, end, 3):
                if plan[at] == measure and value >= plan[at + 1]:
                    sums[i] -= value if plan[at + 2] else 1
    return sums


@inlined
def _listed(plan: Plan, which: int, action: int) -> tuple[int, int]:
    """Where an action's rows of a list begin and end."""
    at = plan[which] + action
    return plan[at], plan[at + 1]


@inlined
def _put_ratios(columns: Ints, scales: Floats, found: _Row, weights: Ints | Floats, floats: Floats) -> None:
    """Count, sum, mean or rate of windows' sums, or of decayed ones."""
    for i in range(len(columns)):
        position, num, den, ttl_us = columns[i]
        scale, mean, prior = scales[i]
        counts = 0 if is_over(ttl_us, found.time_us, found.last_us, found.tied) else 1
        if den == NONE:
            floats[position] = counts * weights[num] / scale
        else:
            floats[position] = ratio_at(counts * weights[num], counts * weights[den], scale, mean, prior)


@brief
def _decays(reads: UserReads, row: Bytes, found: _Row) -> Floats:
    """Older events' weight, and the block's before t."""
    plan = reads.plan
    decays = np.zeros(plan[DECAYS])
    for i in range(len(decays)):
        at_us = take_i64(row, found.decay_times + 8 * i)
        if at_us != NEVER:
            value = float_of(take_i64(row, found.decay_values + 8 * i))
            decays[i] = decayed_at(value, found.time_us - at_us, plan[plan[HALF_LIVES] + i])
    for number in range(found.before):
        at_us, _, action, value, _ = _moment(row, found.block, found.held, number)
        if action < reads.actions:
            begin, end = _listed(plan, FADES, action)
            for at in range(begin, end, 3):
                if value >= plan[at + 1]:
                    left = decayed_at(1.0, found.time_us - at_us, plan[plan[HALF_LIVES] + plan[at]])
                    decays[plan[at]] += (float(value) if plan[at + 2] else 1.0) * left
    return decays


@inlined
def _put_recencies(reads: UserReads, row: Bytes, found: _Row, floats: Floats) -> None:
    plan = reads.plan
    for i in range(len(reads.recencies)):
        position, recency, cap_us, ttl_us = reads.recencies[i]
        newest_us = take_i64(row, found.recencies + 8 * recency)
        for number in range(found.before):  # all of them newer than what has left the block
            at_us, _, action, value, _ = _moment(row, found.block, found.held, number)
            if action < reads.actions:
                begin, end = _listed(plan, TIMES, action)
                for at in range(begin, end, 2):
                    if plan[at] == recency and value >= plan[at + 1]:
                        newest_us = at_us
        over = newest_us == NEVER or is_over(ttl_us, found.time_us, found.last_us, found.tied)
        age_us = cap_us if over else max(0, min(found.time_us - newest_us, cap_us))
        floats[position] = age_us / SECOND_US


@inlined
def _find_past(reads: UserReads, row: Bytes, found: _Row, past: Past) -> int:
    """Fill `past`; where the row's tables begin."""
    plan, at = reads.plan, found.histories
    for history in range(plan[HISTORIES]):
        begin, k, n = reads.past_at[history], plan[plan[KS] + history], 0
        for number in range(found.before - 1, -1, -1):
            _, item, action, value, category = _moment(row, found.block, found.held, number)
            if n == k or action >= reads.actions:
                continue
            first, end = _listed(plan, KEPT, action)
            for place in range(first, end, 2):
                if plan[place] == history and value >= plan[place + 1]:
                    past.ids[begin + n], past.values[begin + n] = item, value
                    past.categories[begin + n] = category
                    n += 1
        older = int(np.int64(take_u16(row, found.lengths + 1 + 2 * history)))
        for number in range(older - 1, -1, -1):
            at_us, item, _, value, category = _moment(row, at, older, number)
            if n == k:
                break
            if found.tied and at_us >= found.time_us:
                continue
            past.ids[begin + n], past.values[begin + n] = item, value
            past.categories[begin + n] = category
            n += 1
        past.counts[history] = n
        at += MOMENT_BYTES * older
    return at


@inlined
def _find_tables(reads: UserReads, row: Bytes, found: _Row, at: int, tables: TablesAt) -> int:
    """Fill `tables`; where the row's tiles begin."""
    plan, time_us = reads.plan, found.time_us
    for table in range(plan[TABLES]):
        half_life_us = plan[plan[TABLE_HALF_LIVES] + table]
        n = int(np.int64(take_u16(row, found.lengths + 1 + 2 * (plan[HISTORIES] + table))))
        for entry in range(n):
            left = decayed_at(1.0, time_us - take_i64(row, at + 20 * n + 8 * entry), half_life_us)
            tables.categories[table, entry] = take_u32(row, at + 4 * entry)
            tables.weights[table, entry, 0] = float_of(take_i64(row, at + 4 * n + 8 * entry)) * left
            tables.weights[table, entry, 1] = float_of(take_i64(row, at + 12 * n + 8 * entry)) * left
        at += ENTRY_BYTES * n
        at_us, total = take_i64(row, found.table_times + 8 * table), 0.0
        if at_us != NEVER:
            total = float_of(take_i64(row, found.table_totals + 8 * table))
            total = decayed_at(total, time_us - at_us, half_life_us)
        for number in range(found.before):
            at_us, _, action, value, category = _moment(row, found.block, found.held, number)
            if category == 0 or action >= reads.actions:
                continue
            begin, end = _listed(plan, RATES, action)
            for place in range(begin, end, 3):
                if plan[place] != table or value < plan[place + 1]:
                    continue
                left, entry = decayed_at(1.0, time_us - at_us, half_life_us), 0
                total += left
                while entry < n and tables.categories[table, entry] != category:
                    entry += 1
                if entry == n:
                    tables.categories[table, n] = category
                    tables.weights[table, n, 0] = tables.weights[table, n, 1] = 0.0
                    n += 1
                tables.weights[table, entry, 0] += left
                if value >= plan[place + 2]:
                    tables.weights[table, entry, 1] += left
        tables.totals[table], tables.counts[table] = total, n
    return at
