"""Folding events into users, compiled: what `kernel.UserFolder` does, to the bit, for a batch at once."""

import numpy as np
import numpy.typing as npt

from definitions.aggregates import (
    add_decayed,
    add_sums,
    fade_add,
    faded,
    fetch_heads,
    fetch_newest_cell,
    head_of,
    mark_dirty,
)
from definitions.compiled import bits_of, float_of, inlined, kernel, prefetch, put_half, take_half
from definitions.memory import (
    CLOCK,
    KEYS,
    TOP,
    VECTOR,
    Words,
    capacity_of,
    exponent_of,
    give_block,
    length_of,
    reserve,
    set_vector,
    start_of,
    take_block,
)
from definitions.plan import BLOCK
from definitions.program import (
    ACTIVE,
    AT_BLOCK,
    AT_HISTORIES,
    AT_SEEN,
    AT_TABLE_TIMES,
    AT_TABLE_TOTALS,
    AT_TABLES,
    CLASSES,
    ENTRY,
    ERASED,
    EVENT_WORDS,
    FLAGS,
    HEAD_WORDS,
    INTERACTIONS,
    IS_SEEN,
    KEPT,
    KS,
    MOMENT,
    NEWEST,
    RATES,
    SEEN_LAST,
    TABLE_HALF_LIVES,
    TABLE_KS,
    Plan,
)
from definitions.slots import AHEAD, Index, mixed

_CATEGORY, _ACTION = 32, 0xFFFFFFFF  # an event's kind: its category above its action


@kernel
def fold_users(
    plan: Plan,
    words: Words,
    index: Index,
    dirty: Words,
    user_ids: npt.NDArray[np.uint64],
    item_ids: npt.NDArray[np.uint64],
    actions: npt.NDArray[np.uint32],
    values: npt.NDArray[np.int64],
    times: npt.NDArray[np.int64],
    categories: npt.NDArray[np.uint32],
    offsets: npt.NDArray[np.int64],
    first: int,
) -> int:
    """Fold events from number `first` on, in order; the number of the one that lacks room, or their count."""
    count = len(user_ids)
    heads = np.empty(AHEAD, np.int64)
    for begin in range(first, count, AHEAD):
        end = min(begin + AHEAD, count)
        fetch_heads(words, index, user_ids, heads, begin, end, plan[HEAD_WORDS])
        for i in range(end - begin):
            if heads[i]:
                _fetch_vectors(plan, words, heads[i])
        for i in range(begin, end):
            if words[TOP] + plan[EVENT_WORDS] > len(words) or 2 * words[KEYS] >= len(index):
                return i
            head = head_of(plan, words, index, user_ids[i])
            if words[head + FLAGS] & ERASED or offsets[i] < words[head + INTERACTIONS]:
                continue
            action = int(np.int64(actions[i]))
            kind = action | (int(np.int64(categories[i])) << _CATEGORY)
            _fold(plan, words, head, times[i], int(np.int64(item_ids[i])), values[i], kind)
            words[head + INTERACTIONS] = offsets[i] + 1
            words[head + ACTIVE] = words[CLOCK]
            if plan[plan[IS_SEEN] + action]:
                item_hash = np.uint32(mixed(item_ids[i]) >> np.uint64(32))  # `seen.seen_hash`
                _remember(words, head + plan[AT_SEEN], item_hash, plan[SEEN_LAST])
            mark_dirty(words, dirty, head)
    return count


@inlined
def _fetch_vectors(plan: Plan, words: Words, head: int) -> None:
    """Ask for what folding an event will read beside the head: newest tiles, both ends of the block, seen items."""
    for number in range(plan[CLASSES]):
        fetch_newest_cell(plan, words, head, number)
    block = head + plan[AT_BLOCK]
    prefetch(words, moment_at(words, block, 0))
    prefetch(words, moment_at(words, block, length_of(words, block)))
    prefetch(words, words[head + plan[AT_SEEN]])


@inlined
def _fold(
    plan: Plan,
    words: Words,
    head: int,
    time_us: int,
    item: int,
    value: int,
    kind: int,
) -> None:
    """One event: into sums and block; the oldest of a full block goes into the older aggregates."""
    block = head + plan[AT_BLOCK]
    length = length_of(words, block)
    if length == 0 or time_us > words[head + NEWEST]:
        words[head + NEWEST] = time_us
    action = kind & _ACTION
    add_sums(plan, words, head, action, value, time_us, words[head + NEWEST])
    at = _bisect(words, block, time_us)
    if length < BLOCK:
        reserve(words, block, length + 1, BLOCK, MOMENT)
        _insert(words, block, at, time_us, item, value, kind)
    elif at == 0:
        _retire(plan, words, head, time_us, item, value, kind)
    else:
        oldest = words[block] + start_of(words, block) * MOMENT
        old_time, old_item, old_value, old_kind = (
            words[oldest],
            words[oldest + 1],
            words[oldest + 2],
            words[oldest + 3],
        )
        _drop_first(words, block)
        _insert(words, block, at - 1, time_us, item, value, kind)
        _retire(plan, words, head, old_time, old_item, old_value, old_kind)


@inlined
def moment_at(words: Words, vector: int, number: int) -> int:
    """The place of a vector's event, counted from the oldest."""
    place = start_of(words, vector) + number
    capacity = capacity_of(words, vector)
    return int(words[vector] + (place - capacity if place >= capacity else place) * MOMENT)


@inlined
def _bisect(words: Words, vector: int, time_us: int) -> int:
    """Where an event of this time belongs: after all that are not later."""
    at = length_of(words, vector)
    while at > 0 and words[moment_at(words, vector, at - 1)] > time_us:
        at -= 1
    return at


@inlined
def _insert(words: Words, vector: int, at: int, time_us: int, item: int, value: int, kind: int) -> None:
    """Put an event at number `at`, those from there on one further; there is room."""
    length, start, capacity = length_of(words, vector), start_of(words, vector), capacity_of(words, vector)
    for number in range(length, at, -1):
        source, target = moment_at(words, vector, number - 1), moment_at(words, vector, number)
        for word in range(MOMENT):
            words[target + word] = words[source + word]
    place = moment_at(words, vector, at)
    words[place] = time_us
    words[place + 1] = item
    words[place + 2] = value
    words[place + 3] = kind
    set_vector(words, vector, length + 1, start, capacity)


@inlined
def _drop_first(words: Words, vector: int) -> None:
    start, capacity = start_of(words, vector) + 1, capacity_of(words, vector)
    set_vector(words, vector, length_of(words, vector) - 1, 0 if start == capacity else start, capacity)


@inlined
def _retire(
    plan: Plan,
    words: Words,
    head: int,
    time_us: int,
    item: int,
    value: int,
    kind: int,
) -> None:
    """An event leaves the block for the older aggregates."""
    action = kind & _ACTION
    add_decayed(plan, words, head, action, value, time_us)
    for i in range(plan[plan[KEPT] + action], plan[plan[KEPT] + action + 1], 2):
        if value < plan[i + 1]:
            continue
        number = plan[i]
        history = head + plan[AT_HISTORIES] + VECTOR * number
        at = _bisect(words, history, time_us)
        if length_of(words, history) == plan[plan[KS] + number]:
            if at == 0:
                continue
            _drop_first(words, history)
            at -= 1
        else:
            reserve(words, history, length_of(words, history) + 1, plan[plan[KS] + number], MOMENT)
        _insert(words, history, at, time_us, item, value, kind)
    category = (kind >> _CATEGORY) & _ACTION
    if category == 0:
        return
    for i in range(plan[plan[RATES] + action], plan[plan[RATES] + action + 1], 3):
        if value >= plan[i + 1]:
            positive = 1.0 if value >= plan[i + 2] else 0.0
            _count(plan, words, head, plan[i], category, positive, time_us)


@inlined
def _count(
    plan: Plan,
    words: Words,
    head: int,
    number: int,
    category: int,
    positive: float,
    time_us: int,
) -> None:
    """`kernel.TableState.add`. Entries ascend by category."""
    half_life_us = plan[plan[TABLE_HALF_LIVES] + number]
    total, newest = head + plan[AT_TABLE_TOTALS] + number, head + plan[AT_TABLE_TIMES] + number
    words[total] = bits_of(fade_add(float_of(words[total]), words[newest], time_us, 1.0, half_life_us))
    words[newest] = max(words[newest], time_us)
    table = head + plan[AT_TABLES] + VECTOR * number
    length, base = length_of(words, table), words[table]
    at = 0
    while at < length and words[base + at * ENTRY] < category:
        at += 1
    entry = base + at * ENTRY
    if at < length and words[entry] == category:
        old_us = words[entry + 3]
        words[entry + 1] = bits_of(fade_add(float_of(words[entry + 1]), old_us, time_us, 1.0, half_life_us))
        words[entry + 2] = bits_of(fade_add(float_of(words[entry + 2]), old_us, time_us, positive, half_life_us))
        words[entry + 3] = max(old_us, time_us)
        return
    if length >= plan[plan[TABLE_KS] + number]:
        gone = _weakest(words, base, length, words[newest], half_life_us)
        for word in range(gone * ENTRY, (length - 1) * ENTRY):
            words[base + word] = words[base + word + ENTRY]
        length -= 1
        at -= 1 if gone < at else 0
    else:
        reserve(words, table, length + 1, plan[plan[TABLE_KS] + number], ENTRY)
        base = words[table]
    for word in range(length * ENTRY - 1, at * ENTRY - 1, -1):
        words[base + word + ENTRY] = words[base + word]
    entry = base + at * ENTRY
    words[entry] = category
    words[entry + 1] = bits_of(1.0)
    words[entry + 2] = bits_of(positive)
    words[entry + 3] = time_us
    set_vector(words, table, length + 1, 0, capacity_of(words, table))


@inlined
def _weakest(words: Words, base: int, length: int, now_us: int, half_life_us: int) -> int:
    """Number of the entry of least weight now; of equal ones, that of the smallest category."""
    weakest, least = 0, np.inf
    for number in range(length):
        entry = base + number * ENTRY
        weight = faded(float_of(words[entry + 1]), float(now_us) - float(words[entry + 3]), half_life_us)
        if weight < least:
            weakest, least = number, weight
    return weakest


@inlined
def _remember(words: Words, seen: int, item_hash: np.uint32, last: int) -> None:
    """The hash stands last; the first goes where there are more than `last`. Elements are half words."""
    length, capacity = length_of(words, seen), capacity_of(words, seen)
    start, base = start_of(words, seen), 2 * words[seen]
    is_known = False
    for i in range(length):  # without a way out, so that it is done by the dozen
        is_known |= take_half(words, base + i) == item_hash
    if is_known:
        at = start
        while take_half(words, base + at) != item_hash:
            at = at + 1 if at + 1 < capacity else 0
        end = start + length - 1
        end -= capacity if end >= capacity else 0
        while at != end:
            after = at + 1 if at + 1 < capacity else 0
            put_half(words, base + at, take_half(words, base + after))
            at = after
        put_half(words, base + at, item_hash)
    elif length == last:
        put_half(words, base + start, item_hash)
        set_vector(words, seen, length, start + 1 if start + 1 < capacity else 0, capacity)
    else:
        if length == capacity:
            reserve_seen(words, seen, length + 1, last)
        put_half(words, 2 * words[seen] + length, item_hash)
        set_vector(words, seen, length + 1, 0, capacity_of(words, seen))


@inlined
def reserve_seen(words: Words, seen: int, wanted: int, last: int) -> None:
    """Room for `wanted` hashes."""
    length, capacity, old = length_of(words, seen), capacity_of(words, seen), words[seen]
    exponent = exponent_of((wanted + 1) // 2)
    place = take_block(words, exponent)
    for i in range(length):
        put_half(words, 2 * place + i, take_half(words, 2 * old + i))
    if capacity:
        give_block(words, old, exponent_of((capacity + 1) // 2))
    words[seen] = place
    set_vector(words, seen, length, 0, min(2 << exponent, last))
