"""Many users' rows at once, and back: the bytes of `packed.pack_user`, compiled."""

import numpy as np
import numpy.typing as npt

from definitions.aggregates import clear_head, fetch_words, head_of
from definitions.compiled import (
    brief,
    inlined,
    kernel,
    prefetch,
    put,
    put_half,
    take_half,
    take_i64,
    take_u16,
    take_u32,
)
from definitions.memory import (
    KEYS,
    LINE,
    TOP,
    VECTOR,
    Words,
    capacity_of,
    length_of,
    release,
    reserve,
    set_vector,
    start_of,
)
from definitions.packed_sums import cells_bytes, count_cells, put_cells, put_words, take_cells, take_words
from definitions.plan import BLOCK, FORMAT_VERSION
from definitions.program import (
    AT_BLOCK,
    AT_CELLS,
    AT_CODES,
    AT_HISTORIES,
    AT_NUMBERS,
    AT_SEEN,
    AT_TABLE_TOTALS,
    AT_TABLES,
    AT_TOTALS,
    CELL,
    CLASSES,
    CODES,
    COLUMNS,
    DECAYS,
    ENTRY,
    ERASED,
    EVENT_WORDS,
    FLAGS,
    HASH,
    HEAD_WORDS,
    HISTORIES,
    INTERACTIONS,
    KS,
    MEASURES,
    MOMENT,
    NEWEST,
    NUMBERS,
    RECENCIES,
    SEEN_LAST,
    TABLE_KS,
    TABLES,
    USERS,
    WIDTHS,
    Plan,
)
from definitions.row_header import HEADER
from definitions.slots import Index
from definitions.user_fold import moment_at, reserve_seen

Bytes = npt.NDArray[np.uint8]

HEADER_BYTES = HEADER.size
_AHEAD = 8  # rows
MOMENT_BYTES, ENTRY_BYTES = 32, 28


@inlined
def _fixed_bytes(plan: Plan) -> int:
    longs = plan[MEASURES] + 2 * plan[DECAYS] + plan[RECENCIES] + plan[NUMBERS] + 2 * plan[TABLES]
    shorts = plan[HISTORIES] + plan[TABLES] + plan[COLUMNS] + 1
    return int(HEADER_BYTES + 8 * longs + 4 * plan[CODES] + 2 + 2 * shorts)


@inlined
def _fetch_ahead(plan: Plan, words: Words, heads: Words, i: int) -> None:
    """Ask for what later rows hold: heads first, then what these point to."""
    fetch_words(words, heads, i + 2 * _AHEAD, plan[HEAD_WORDS])
    if i + _AHEAD < len(heads):
        for vector in range(heads[i + _AHEAD] + plan[AT_CELLS], heads[i + _AHEAD] + plan[AT_TOTALS], VECTOR):
            for word in range(0, 4 * LINE, LINE):
                prefetch(words, words[vector] + word)


@kernel
def row_bounds(plan: Plan, words: Words, heads: Words) -> npt.NDArray[np.int64]:
    """Where each row begins, and the end, int64 (n + 1,); sweeps the rows' tiles."""
    fixed = _fixed_bytes(plan)
    bounds = np.zeros(len(heads) + 1, np.int64)
    for i in range(len(heads)):
        _fetch_ahead(plan, words, heads, i)
        head = heads[i]
        size = fixed + cells_bytes(plan, words, head)
        size += MOMENT_BYTES * length_of(words, head + plan[AT_BLOCK])
        for number in range(plan[HISTORIES]):
            size += MOMENT_BYTES * length_of(words, head + plan[AT_HISTORIES] + VECTOR * number)
        for number in range(plan[TABLES]):
            size += ENTRY_BYTES * length_of(words, head + plan[AT_TABLES] + VECTOR * number)
        size += 4 * length_of(words, head + plan[AT_SEEN])
        bounds[i + 1] = bounds[i] + size
    return bounds


@kernel
def put_rows(
    plan: Plan,
    words: Words,
    heads: Words,
    epoch: int,
    bounds: npt.NDArray[np.int64],
    out: Bytes,
) -> None:
    """Write the rows of `heads` between their `bounds`."""
    for i in range(len(heads)):
        _fetch_ahead(plan, words, heads, i)
        head, at = heads[i], bounds[i]
        put(out, at, np.uint8(FORMAT_VERSION))
        put(out, at + 1, np.uint32(plan[HASH]))
        put(out, at + 5, words[head + NEWEST])
        put(out, at + 13, np.uint32(epoch))
        put(out, at + 17, words[head + INTERACTIONS])
        put(out, at + 25, words[head + USERS])
        at += HEADER_BYTES
        sums = plan[MEASURES] + 2 * plan[DECAYS] + plan[RECENCIES] + plan[NUMBERS]
        at = put_words(words, head + plan[AT_TOTALS], sums - plan[NUMBERS], out, at)
        at = put_words(words, head + plan[AT_NUMBERS], plan[NUMBERS], out, at)
        for code in range(plan[CODES]):
            put(out, at, np.uint32(words[head + plan[AT_CODES] + code]))
            at += 4
        at = put_words(words, head + plan[AT_TABLE_TOTALS], 2 * plan[TABLES], out, at)
        put(out, at, np.uint8(1 if words[head + FLAGS] & ERASED else 0))
        put(out, at + 1, np.uint8(length_of(words, head + plan[AT_BLOCK])))
        at += 2
        for number in range(plan[HISTORIES] + plan[TABLES]):  # their vectors stand side by side
            put(out, at, np.uint16(length_of(words, head + plan[AT_HISTORIES] + VECTOR * number)))
            at += 2
        for number in range(plan[CLASSES]):
            for column in range(plan[plan[WIDTHS] + number]):
                put(out, at, np.uint16(count_cells(plan, words, head, number, column)))
                at += 2
        put(out, at, np.uint16(length_of(words, head + plan[AT_SEEN])))
        at += 2
        for number in range(plan[HISTORIES] + 1):  # the block's vector stands before theirs
            at = _put_moments(words, head + plan[AT_BLOCK] + VECTOR * number, out, at)
        for number in range(plan[TABLES]):
            at = _put_entries(words, head + plan[AT_TABLES] + VECTOR * number, out, at)
        at = put_cells(plan, words, head, out, at)
        _put_seen(words, head + plan[AT_SEEN], out, at)


@inlined
def _put_moments(words: Words, vector: int, out: Bytes, at: int) -> int:
    """Times, items, actions, values, categories."""
    length = length_of(words, vector)
    for number in range(length):
        moment = moment_at(words, vector, number)
        put(out, at + 8 * number, words[moment])
        put(out, at + 8 * (length + number), words[moment + 1])
        put(out, at + 16 * length + 4 * number, np.uint32(words[moment + 3]))
        put(out, at + 20 * length + 8 * number, words[moment + 2])
        put(out, at + 28 * length + 4 * number, np.uint32(words[moment + 3] >> 32))
    return at + MOMENT_BYTES * length


@inlined
def _put_entries(words: Words, vector: int, out: Bytes, at: int) -> int:
    length, base = length_of(words, vector), words[vector]
    for number in range(length):
        entry = base + number * ENTRY
        put(out, at + 4 * number, np.uint32(words[entry]))
        for part in range(3):
            put(out, at + 4 * length + 8 * (part * length + number), words[entry + 1 + part])
    return at + ENTRY_BYTES * length


@inlined
def _put_seen(words: Words, vector: int, out: Bytes, at: int) -> None:
    length, start, base = length_of(words, vector), start_of(words, vector), 2 * words[vector]
    for number in range(length):
        place = start + number
        place -= length if place >= length else 0  # a ring is full
        put(out, at + 4 * number, take_half(words, base + place))


@kernel
def take_rows(
    plan: Plan,
    words: Words,
    index: Index,
    ids: npt.NDArray[np.uint64],
    bounds: npt.NDArray[np.int64],
    data: Bytes,
    first: int,
) -> int:
    """Put rows into the table, from number `first` on; the number of the one that lacks room, or their count.

    A row whose lengths do not add up ends it with -1 - number. A row takes the place of what is known of its user.
    """
    for i in range(first, len(ids)):
        if words[TOP] + plan[EVENT_WORDS] > len(words) or 2 * words[KEYS] >= len(index):
            return i
        if not _is_whole(plan, data, bounds[i], bounds[i + 1]):
            return -1 - i
        head = head_of(plan, words, index, ids[i])
        release_all(plan, words, head)
        clear_head(plan, words, head)
        at = bounds[i]
        words[head + NEWEST] = take_i64(data, at + 5)
        words[head + INTERACTIONS] = take_i64(data, at + 17)
        words[head + USERS] = take_i64(data, at + 25)
        at += HEADER_BYTES
        sums = plan[MEASURES] + 2 * plan[DECAYS] + plan[RECENCIES]
        at = take_words(words, head + plan[AT_TOTALS], sums, data, at)
        at = take_words(words, head + plan[AT_NUMBERS], plan[NUMBERS], data, at)
        for code in range(plan[CODES]):
            words[head + plan[AT_CODES] + code] = np.int64(take_u32(data, at))
            at += 4
        at = take_words(words, head + plan[AT_TABLE_TOTALS], 2 * plan[TABLES], data, at)
        words[head + FLAGS] = ERASED if data[at] else 0
        lengths = at + 1
        at = lengths + 1 + 2 * (plan[HISTORIES] + plan[TABLES] + plan[COLUMNS] + 1)
        at = _take_moments(words, head + plan[AT_BLOCK], int(np.int64(data[lengths])), BLOCK, data, at)
        lengths += 1
        for number in range(plan[HISTORIES]):
            length, vector = int(np.int64(take_u16(data, lengths))), head + plan[AT_HISTORIES] + VECTOR * number
            at = _take_moments(words, vector, length, plan[plan[KS] + number], data, at)
            lengths += 2
        for number in range(plan[TABLES]):
            length, vector = int(np.int64(take_u16(data, lengths))), head + plan[AT_TABLES] + VECTOR * number
            at = _take_entries(words, vector, length, plan[plan[TABLE_KS] + number], data, at)
            lengths += 2
        at = take_cells(plan, words, head, lengths, data, at)
        lengths += 2 * plan[COLUMNS]
        length = int(np.int64(take_u16(data, lengths)))
        if length:
            seen = head + plan[AT_SEEN]
            reserve_seen(words, seen, length, plan[SEEN_LAST])
            for number in range(length):
                put_half(words, 2 * words[seen] + number, take_u32(data, at + 4 * number))
            set_vector(words, seen, length, 0, words[seen + 1] >> 40)
    return len(ids)


@inlined
def release_all(plan: Plan, words: Words, head: int) -> None:
    """Give a user's vectors back."""
    for number in range(plan[CLASSES]):
        release(words, head + plan[AT_CELLS] + VECTOR * number, CELL + plan[plan[WIDTHS] + number])
    for number in range(plan[HISTORIES] + 1):  # the block's vector stands before theirs
        release(words, head + plan[AT_BLOCK] + VECTOR * number, MOMENT)
    for number in range(plan[TABLES]):
        release(words, head + plan[AT_TABLES] + VECTOR * number, ENTRY)
    seen = head + plan[AT_SEEN]
    set_vector(words, seen, 0, 0, (capacity_of(words, seen) + 1) // 2)  # in words, as its block was taken
    release(words, seen, 1)


@brief
def is_whole(plan: Plan, row: Bytes) -> bool:
    """Is it a row of this plan whose lengths add up and fit."""
    return _is_whole(plan, row, 0, len(row))


@inlined
def _is_whole(plan: Plan, data: Bytes, at: int, end: int) -> bool:
    """Do the row's lengths add up, and does every vector hold them."""
    fixed = _fixed_bytes(plan)
    columns = plan[COLUMNS]
    if end - at < fixed or data[at] != FORMAT_VERSION or take_u32(data, at + 1) != plan[HASH]:
        return False
    lengths = at + fixed - 2 * (plan[HISTORIES] + plan[TABLES] + columns + 1) - 1
    total = MOMENT_BYTES * np.int64(data[lengths])
    if data[lengths] > BLOCK:
        return False
    lengths += 1
    for number in range(plan[HISTORIES] + plan[TABLES]):
        length = np.int64(take_u16(data, lengths + 2 * number))
        is_history = number < plan[HISTORIES]
        if length > (plan[plan[KS] + number] if is_history else plan[plan[TABLE_KS] + number - plan[HISTORIES]]):
            return False
        total += (MOMENT_BYTES if is_history else ENTRY_BYTES) * length
    lengths += 2 * (plan[HISTORIES] + plan[TABLES])
    for column in range(columns):
        total += 16 * np.int64(take_u16(data, lengths + 2 * column))
    seen = np.int64(take_u16(data, lengths + 2 * columns))
    return bool(seen <= plan[SEEN_LAST] and at + fixed + total + 4 * seen == end)


@inlined
def _take_moments(words: Words, vector: int, length: int, most: int, data: Bytes, at: int) -> int:
    if length:
        reserve(words, vector, length, most, MOMENT)
        base = words[vector]
        for number in range(length):
            moment = base + number * MOMENT
            words[moment] = take_i64(data, at + 8 * number)
            words[moment + 1] = take_i64(data, at + 8 * (length + number))
            words[moment + 2] = take_i64(data, at + 20 * length + 8 * number)
            category = np.int64(take_u32(data, at + 28 * length + 4 * number))
            words[moment + 3] = np.int64(take_u32(data, at + 16 * length + 4 * number)) | (category << 32)
        set_vector(words, vector, length, 0, words[vector + 1] >> 40)
    return at + MOMENT_BYTES * length


@inlined
def _take_entries(words: Words, vector: int, length: int, most: int, data: Bytes, at: int) -> int:
    if length:
        reserve(words, vector, length, most, ENTRY)
        for number in range(length):
            entry = words[vector] + number * ENTRY
            words[entry] = np.int64(take_u32(data, at + 4 * number))
            for part in range(3):
                words[entry + 1 + part] = take_i64(data, at + 4 * length + 8 * (part * length + number))
        set_vector(words, vector, length, 0, words[vector + 1] >> 40)
    return at + ENTRY_BYTES * length
