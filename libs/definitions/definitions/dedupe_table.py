"""The ids of a partition's newest records in two tables, an older and a newer, compiled.

A table is what came, in order, and slots that say where an id stands there: 4 bytes a slot, a number and, above it,
some bits of the id's hash, so that another id is seldom looked at.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from definitions.compiled import inlined, kernel, prefetch_slot
from definitions.slots import AHEAD, Ids, mixed

Offsets = npt.NDArray[np.int64]
Slots = npt.NDArray[np.uint32]

_FIRST = 1024
_GROWTH = 2


class Table(NamedTuple):
    """Ids and the offset of each one's newest record, (capacity,); slots, a power of two of twice as many at least."""

    ids: Ids
    offsets: Offsets
    slots: Slots


def new_table() -> Table:
    """Empty."""
    return Table(np.empty(_FIRST, np.uint64), np.empty(_FIRST, np.int64), np.zeros(2 * _FIRST, np.uint32))


def grown(table: Table, count: int, room: int) -> Table:
    """The same `count` ids where `room` more fit."""
    capacity = len(table.ids)
    while capacity < count + room:
        capacity *= _GROWTH
    if capacity == len(table.ids):
        return table
    larger = Table(np.empty(capacity, np.uint64), np.empty(capacity, np.int64), np.zeros(2 * capacity, np.uint32))
    larger.ids[:count], larger.offsets[:count] = table.ids[:count], table.offsets[:count]
    _fill(larger, count)
    return larger


@inlined
def _slot_of(table: Table, key: np.uint64) -> int:
    """The slot of the id, or the empty one where it belongs."""
    mask = len(table.slots) - 1
    tag_mask = np.uint32(0xFFFFFFFF ^ mask)  # numbers go up to half the slots
    bits = mixed(key)
    tag = np.uint32(bits >> np.uint64(32)) & tag_mask
    slot = np.int64(bits) & mask
    while table.slots[slot]:
        found = table.slots[slot]
        if found & tag_mask == tag and table.ids[np.int64(found & np.uint32(mask)) - 1] == key:
            break
        slot = (slot + 1) & mask
    return int(slot)


@inlined
def _filled(table: Table, key: np.uint64, number: int) -> np.uint32:
    """What a slot says of the id that came as `number`."""
    mask = len(table.slots) - 1
    return (np.uint32(mixed(key) >> np.uint64(32)) & np.uint32(0xFFFFFFFF ^ mask)) | np.uint32(number + 1)


@kernel
def _fill(table: Table, count: int) -> None:
    for number in range(count):
        table.slots[_slot_of(table, table.ids[number])] = _filled(table, table.ids[number], number)


@inlined
def _newest(table: Table, slot: int) -> int:
    """1 + the offset of the newest record of a slot's id, 0 for an empty one."""
    number = np.int64(table.slots[slot] & np.uint32(len(table.slots) - 1))
    return int(table.offsets[number - 1] + 1) if number else 0


@kernel
def judge(
    older: Table,
    newer: Table,
    count: int,
    ids: Ids,
    offsets: Offsets,
    first: int,
    end: int,
    window: int,
    keep: npt.NDArray[np.bool_],
) -> int:
    """Say of events `first` to `end` whether they count, and remember them in `newer`, which holds `count` ids and has
    room; how many it holds then.
    """
    older_mask, newer_mask = len(older.slots) - 1, len(newer.slots) - 1
    for begin in range(first, end, AHEAD):
        stop = min(begin + AHEAD, end)
        for i in range(begin, stop):
            bits = np.int64(mixed(ids[i]))
            prefetch_slot(newer.slots, bits & newer_mask)
            prefetch_slot(older.slots, bits & older_mask)
        for i in range(begin, stop):
            slot = _slot_of(newer, ids[i])
            before = _newest(newer, slot)
            if before:
                newer.offsets[np.int64(newer.slots[slot] & np.uint32(newer_mask)) - 1] = offsets[i]
            else:
                before = _newest(older, _slot_of(older, ids[i]))
                newer.ids[count] = ids[i]
                newer.offsets[count] = offsets[i]
                newer.slots[slot] = _filled(newer, ids[i], count)
                count += 1
            keep[i] = before == 0 or offsets[i] + 1 - before > window
    return count


@kernel
def entries(older: Table, held_older: int, newer: Table, held_newer: int, floor: int) -> tuple[Ids, Offsets]:
    """Ids and newest offsets of all records at or above `floor`, nearly in their order; each id once."""
    ids, offsets = np.empty(held_older + held_newer, np.uint64), np.empty(held_older + held_newer, np.int64)
    count = 0
    for number in range(held_older):
        if older.offsets[number] >= floor and not newer.slots[_slot_of(newer, older.ids[number])]:
            ids[count], offsets[count] = older.ids[number], older.offsets[number]
            count += 1
    for number in range(held_newer):
        if newer.offsets[number] >= floor:
            ids[count], offsets[count] = newer.ids[number], newer.offsets[number]
            count += 1
    return ids[:count], offsets[:count]
