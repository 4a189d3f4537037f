"""What folding one event does to totals, tiles, decayed sums and recencies; users and items alike. Compiled."""

import numpy as np

from definitions.compiled import bits_of, float_of, inlined, prefetch, prefetch_row
from definitions.memory import (
    DIRTY,
    KEYS,
    LINE,
    VECTOR,
    Words,
    capacity_of,
    length_of,
    reserve,
    set_vector,
    take_lines,
)
from definitions.program import (
    ADDS,
    AT_CELLS,
    AT_CODES,
    AT_DECAY_TIMES,
    AT_DECAY_VALUES,
    AT_NUMBERS,
    AT_RECENCIES,
    AT_TABLE_TIMES,
    AT_TOTALS,
    CELL,
    CELLS,
    CLASSES,
    CODES,
    DECAYS,
    FADES,
    FLAGS,
    HALF_LIVES,
    HEAD_WORDS,
    HOPS,
    ID,
    IS_DIRTY,
    KEEPS,
    NUMBERS,
    RECENCIES,
    TABLES,
    TIMES,
    WIDTHS,
    Plan,
)
from definitions.slots import Ids, Index, home_of, row_of
from definitions.tiles import NEVER

_LONG_AGO = -(2**62)


@inlined
def clear_head(plan: Plan, words: Words, head: int) -> None:
    """A key of which nothing is known but its id; its vectors must have been released."""
    for word in range(ID + 1, plan[AT_CODES] + plan[CODES]):
        words[head + word] = 0
    for i in range(plan[DECAYS]):
        words[head + plan[AT_DECAY_TIMES] + i] = NEVER
    for i in range(plan[RECENCIES]):
        words[head + plan[AT_RECENCIES] + i] = NEVER
    for i in range(plan[TABLES]):
        words[head + plan[AT_TABLE_TIMES] + i] = NEVER
    for i in range(plan[NUMBERS]):
        words[head + plan[AT_NUMBERS] + i] = bits_of(np.nan)


@inlined
def head_of(plan: Plan, words: Words, index: Index, key: np.uint64) -> int:
    """The place of a key's head, a new one for a key that has none. The caller has seen to the room."""
    row = row_of(index, key)
    head = index[row, 1]
    if head == 0:
        head = take_lines(words, plan[HEAD_WORDS])
        words[head + ID] = np.int64(key)
        clear_head(plan, words, head)
        index[row, 0] = np.int64(key)
        index[row, 1] = head
        words[KEYS] += 1
    return int(head)


@inlined
def fetch_heads(
    words: Words,
    index: Index,
    ids: Ids,
    heads: Words,
    begin: int,
    end: int,
    size: int,
) -> None:
    """Find the heads of ids `begin` to `end`, 0 for new ones, and ask for their first `size` words without waiting."""
    for i in range(begin, end):
        prefetch_row(index, home_of(index, ids[i]))
    for i in range(begin, end):
        head = index[row_of(index, ids[i]), 1]
        heads[i - begin] = head
        for word in range(0, size, LINE):
            prefetch(words, head + word)


@inlined
def fetch_words(words: Words, heads: Words, number: int, size: int) -> None:
    """Ask for the first `size` words of the head of this number, if there is one."""
    if number < len(heads):
        for word in range(0, size, LINE):
            prefetch(words, heads[number] + word)


@inlined
def fetch_newest_cell(plan: Plan, words: Words, head: int, number: int) -> None:
    """Ask for the tile of a class that the next event most likely adds to."""
    vector = head + plan[AT_CELLS] + VECTOR * number
    size = CELL + plan[plan[WIDTHS] + number]
    prefetch(words, words[vector] + (length_of(words, vector) - 1) * size)


@inlined
def mark_dirty(words: Words, dirty: Words, head: int) -> None:
    """Put a head on the list of what has changed, once."""
    if not words[head + FLAGS] & IS_DIRTY:
        words[head + FLAGS] |= IS_DIRTY
        dirty[words[DIRTY]] = head
        words[DIRTY] += 1


@inlined
def oldest_tile(newest_us: int, keep_us: int, hop_us: int) -> int:
    """`tiles.oldest_kept_tile`; times so far back that it would overflow keep nothing."""
    newest_us = max(newest_us, _LONG_AGO)
    return int(-((keep_us + 2 * hop_us - newest_us) // hop_us) - 1)


@inlined
def sweep_class(plan: Plan, words: Words, head: int, number: int, newest_us: int) -> None:
    """Forget the tiles of one class that no read at or near the key's newest time can see."""
    vector = head + plan[AT_CELLS] + VECTOR * number
    length = length_of(words, vector)
    if length == 0:
        return
    size = 2 + plan[plan[WIDTHS] + number]
    oldest = oldest_tile(newest_us, plan[plan[KEEPS] + number], plan[plan[HOPS] + number])
    base = words[vector]
    dead = 0
    while dead < length and words[base + dead * size] < oldest:
        dead += 1
    if dead:
        for word in range((length - dead) * size):
            words[base + word] = words[base + dead * size + word]
        set_vector(words, vector, length - dead, 0, capacity_of(words, vector))


@inlined
def cell_of(plan: Plan, words: Words, head: int, number: int, tile: int, newest_us: int) -> int:
    """The place of a tile's cell, a new one where there is none. Cells ascend."""
    vector = head + plan[AT_CELLS] + VECTOR * number
    size = 2 + plan[plan[WIDTHS] + number]
    length = length_of(words, vector)
    at = length
    base = words[vector]
    while at > 0 and words[base + (at - 1) * size] >= tile:
        at -= 1
    if at < length and words[base + at * size] == tile:
        return int(base + at * size)
    if length == capacity_of(words, vector):
        sweep_class(plan, words, head, number, newest_us)
        at -= length - length_of(words, vector)  # what was swept is older than the tile
        length = length_of(words, vector)
        most = plan[plan[KEEPS] + number] // plan[plan[HOPS] + number] + 8
        reserve(words, vector, length + 1, most, size)
        base = words[vector]
    for word in range(length * size - 1, at * size - 1, -1):
        words[base + size + word] = words[base + word]
    cell = base + at * size
    words[cell] = tile
    for word in range(1, size):
        words[cell + word] = 0
    set_vector(words, vector, length + 1, 0, capacity_of(words, vector))
    return int(cell)


@inlined
def add_sums(plan: Plan, words: Words, head: int, action: int, value: int, time_us: int, newest_us: int) -> None:
    """Add one event to totals and tiles; `newest_us` is the key's newest time with it.

    An event whose tile no read can see any more is left out of it: a sweep would forget it before bytes are written.
    """
    for i in range(plan[plan[ADDS] + action], plan[plan[ADDS] + action + 1], 3):
        if value >= plan[i + 1]:
            words[head + plan[AT_TOTALS] + plan[i]] += value if plan[i + 2] else 1
    for number in range(plan[CLASSES]):
        group = action * plan[CLASSES] + number
        cell = 0
        for i in range(plan[plan[CELLS] + group], plan[plan[CELLS] + group + 1], 3):
            if value < plan[i + 1]:
                continue
            if cell == 0:
                hop_us = plan[plan[HOPS] + number]
                tile = time_us // hop_us
                if tile < oldest_tile(newest_us, plan[plan[KEEPS] + number], hop_us):
                    break
                cell = cell_of(plan, words, head, number, tile, newest_us)
            column = plan[i]
            words[cell + 1] |= 1 << column
            words[cell + 2 + column] += value if plan[i + 2] else 1


@inlined
def faded(value: float, age_us: float, half_life_us: int) -> float:
    """`tiles.decayed`; an age is a float, since a difference of hostile times would overflow."""
    return value * 2.0 ** (-age_us / half_life_us) if age_us > 0 else value


@inlined
def fade_add(value: float, time_us: int, at_us: int, weight: float, half_life_us: int) -> float:
    """The value of `kernel.decayed_add`; its time is the later one."""
    if time_us == NEVER:
        return weight
    if at_us >= time_us:
        return faded(value, float(at_us) - float(time_us), half_life_us) + weight
    return value + faded(weight, float(time_us) - float(at_us), half_life_us)


@inlined
def add_decayed(plan: Plan, words: Words, head: int, action: int, value: int, time_us: int) -> None:
    """Add one event to decayed sums and recencies."""
    for i in range(plan[plan[FADES] + action], plan[plan[FADES] + action + 1], 3):
        if value < plan[i + 1]:
            continue
        decay = plan[i]
        place = head + plan[AT_DECAY_VALUES] + decay
        at = head + plan[AT_DECAY_TIMES] + decay
        weight = float(value) if plan[i + 2] else 1.0
        half_life_us = plan[plan[HALF_LIVES] + decay]
        words[place] = bits_of(fade_add(float_of(words[place]), words[at], time_us, weight, half_life_us))
        words[at] = max(words[at], time_us)
    for i in range(plan[plan[TIMES] + action], plan[plan[TIMES] + action + 1], 2):
        at = head + plan[AT_RECENCIES] + plan[i]
        if value >= plan[i + 1] and time_us > words[at]:
            words[at] = time_us
