"""Items' aggregates of one partition of origin, compiled: fold a batch, pack many partials, and back."""

import numpy as np
import numpy.typing as npt

from definitions.aggregates import (
    add_decayed,
    add_sums,
    clear_head,
    fetch_heads,
    fetch_newest_cell,
    fetch_words,
    head_of,
    mark_dirty,
)
from definitions.compiled import inlined, kernel, put, take_i64, take_u16, take_u32
from definitions.memory import KEYS, TOP, VECTOR, Words, release
from definitions.packed_sums import cells_bytes, count_cells, put_cells, put_words, take_cells, take_words
from definitions.plan import FORMAT_VERSION
from definitions.program import (
    AT_CELLS,
    AT_TOTALS,
    CELL,
    CLASSES,
    COLUMNS,
    DECAYS,
    EVENT_WORDS,
    HASH,
    HEAD_WORDS,
    MEASURES,
    NEWEST,
    RECENCIES,
    WIDTHS,
    Plan,
)
from definitions.slots import AHEAD, Index
from definitions.tiles import NEVER

Bytes = npt.NDArray[np.uint8]

_HEADER = 13


@kernel
def fold_items(
    plan: Plan,
    words: Words,
    index: Index,
    dirty: Words,
    item_ids: npt.NDArray[np.uint64],
    actions: npt.NDArray[np.uint32],
    values: npt.NDArray[np.int64],
    times: npt.NDArray[np.int64],
    first: int,
) -> int:
    """Fold events from number `first` on, in order; the number of the one that lacks room, or their count."""
    count = len(item_ids)
    heads = np.empty(AHEAD, np.int64)
    for begin in range(first, count, AHEAD):
        end = min(begin + AHEAD, count)
        fetch_heads(words, index, item_ids, heads, begin, end, plan[HEAD_WORDS])
        for i in range(end - begin):
            if heads[i]:
                for number in range(plan[CLASSES]):
                    fetch_newest_cell(plan, words, heads[i], number)
        for i in range(begin, end):
            if words[TOP] + plan[EVENT_WORDS] > len(words) or 2 * words[KEYS] >= len(index):
                return i
            keys = words[KEYS]
            head = head_of(plan, words, index, item_ids[i])
            if words[KEYS] != keys:
                words[head + NEWEST] = NEVER
            words[head + NEWEST] = max(words[head + NEWEST], times[i])
            action = int(np.int64(actions[i]))
            add_sums(plan, words, head, action, values[i], times[i], words[head + NEWEST])
            add_decayed(plan, words, head, action, values[i], times[i])
            mark_dirty(words, dirty, head)
    return count


@inlined
def _fixed_bytes(plan: Plan) -> int:
    return int(_HEADER + 8 * (plan[MEASURES] + 2 * plan[DECAYS] + plan[RECENCIES]) + 2 * plan[COLUMNS])


@inlined
def _fetch_ahead(plan: Plan, words: Words, heads: Words, i: int) -> None:
    """Ask for what a later partial will be made of: its head, then its newest tiles."""
    fetch_words(words, heads, i + AHEAD, plan[HEAD_WORDS])
    if i + AHEAD // 2 < len(heads):
        for number in range(plan[CLASSES]):
            fetch_newest_cell(plan, words, heads[i + AHEAD // 2], number)


@kernel
def partial_bounds(plan: Plan, words: Words, heads: Words) -> npt.NDArray[np.int64]:
    """Where each partial begins, and the end, int64 (n + 1,); sweeps their tiles."""
    bounds = np.zeros(len(heads) + 1, np.int64)
    for i in range(len(heads)):
        _fetch_ahead(plan, words, heads, i)
        bounds[i + 1] = bounds[i] + _fixed_bytes(plan) + cells_bytes(plan, words, heads[i])
    return bounds


@kernel
def put_partials(plan: Plan, words: Words, heads: Words, bounds: npt.NDArray[np.int64], out: Bytes) -> None:
    """Write the partials of `heads` between their `bounds`: the bytes of `item_state.pack_item`."""
    for i in range(len(heads)):
        _fetch_ahead(plan, words, heads, i)
        head, at = heads[i], bounds[i]
        put(out, at, np.uint8(FORMAT_VERSION))
        put(out, at + 1, np.uint32(plan[HASH]))
        put(out, at + 5, words[head + NEWEST])
        sums = plan[MEASURES] + 2 * plan[DECAYS] + plan[RECENCIES]
        at = put_words(words, head + plan[AT_TOTALS], sums, out, at + _HEADER)
        for number in range(plan[CLASSES]):
            for column in range(plan[plan[WIDTHS] + number]):
                put(out, at, np.uint16(count_cells(plan, words, head, number, column)))
                at += 2
        put_cells(plan, words, head, out, at)


@kernel
def take_partials(
    plan: Plan,
    words: Words,
    index: Index,
    ids: npt.NDArray[np.uint64],
    bounds: npt.NDArray[np.int64],
    data: Bytes,
    first: int,
) -> int:
    """Put partials into the table, from number `first` on; the number of the one that lacks room, or their count.

    A partial whose lengths do not add up ends it with -1 - number. One takes the place of what is known of its item.
    """
    fixed = _fixed_bytes(plan)
    for i in range(first, len(ids)):
        if words[TOP] + plan[EVENT_WORDS] > len(words) or 2 * words[KEYS] >= len(index):
            return i
        at, end = bounds[i], bounds[i + 1]
        if end - at < fixed or data[at] != FORMAT_VERSION or take_u32(data, at + 1) != plan[HASH]:
            return -1 - i
        lengths, tiles = at + fixed - 2 * plan[COLUMNS], 0
        for column in range(plan[COLUMNS]):
            tiles += int(np.int64(take_u16(data, lengths + 2 * column)))
        if at + fixed + 16 * tiles != end:
            return -1 - i
        head = head_of(plan, words, index, ids[i])
        for number in range(plan[CLASSES]):
            release(words, head + plan[AT_CELLS] + VECTOR * number, CELL + plan[plan[WIDTHS] + number])
        clear_head(plan, words, head)
        words[head + NEWEST] = take_i64(data, at + 5)
        sums = plan[MEASURES] + 2 * plan[DECAYS] + plan[RECENCIES]
        take_words(words, head + plan[AT_TOTALS], sums, data, at + _HEADER)
        take_cells(plan, words, head, lengths, data, at + fixed)
    return len(ids)
