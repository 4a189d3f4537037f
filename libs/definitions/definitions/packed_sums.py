"""Sums and tiles as bytes and back, compiled; rows and item partials share them."""

import numpy as np
import numpy.typing as npt

from definitions.aggregates import cell_of, sweep_class
from definitions.compiled import inlined, put, take_i64, take_u16
from definitions.memory import VECTOR, Words, length_of
from definitions.program import AT_CELLS, CLASSES, NEWEST, WIDTHS, Plan

Bytes = npt.NDArray[np.uint8]


@inlined
def put_words(words: Words, place: int, count: int, out: Bytes, at: int) -> int:
    """Words side by side; where they end."""
    for word in range(count):
        put(out, at + 8 * word, words[place + word])
    return at + 8 * count


@inlined
def take_words(words: Words, place: int, count: int, data: Bytes, at: int) -> int:
    """And back."""
    for word in range(count):
        words[place + word] = take_i64(data, at + 8 * word)
    return at + 8 * count


@inlined
def cells_bytes(plan: Plan, words: Words, head: int) -> int:
    """Sweep the key's tiles; bytes of those that are left, 16 a column in which they are."""
    found = 0
    for number in range(plan[CLASSES]):
        sweep_class(plan, words, head, number, words[head + NEWEST])
        vector = head + plan[AT_CELLS] + VECTOR * number
        size, base = 2 + plan[plan[WIDTHS] + number], words[vector]
        for cell in range(length_of(words, vector)):
            mask = words[base + cell * size + 1]
            while mask:
                mask &= mask - 1
                found += 1
    return 16 * found


@inlined
def count_cells(plan: Plan, words: Words, head: int, number: int, column: int) -> int:
    """Tiles of a column of a class."""
    vector = head + plan[AT_CELLS] + VECTOR * number
    size, base, found = 2 + plan[plan[WIDTHS] + number], words[vector], 0
    for cell in range(length_of(words, vector)):
        found += (words[base + cell * size + 1] >> column) & 1
    return int(found)


@inlined
def put_cells(plan: Plan, words: Words, head: int, out: Bytes, at: int) -> int:
    """Each column's indexes, then its sums; where they end."""
    for number in range(plan[CLASSES]):
        vector = head + plan[AT_CELLS] + VECTOR * number
        size, base, length = 2 + plan[plan[WIDTHS] + number], words[vector], length_of(words, vector)
        for column in range(plan[plan[WIDTHS] + number]):
            present = count_cells(plan, words, head, number, column)
            place = at
            for cell in range(length):
                if (words[base + cell * size + 1] >> column) & 1:
                    put(out, place, words[base + cell * size])
                    put(out, place + 8 * present, words[base + cell * size + 2 + column])
                    place += 8
            at += 16 * present
    return at


@inlined
def take_cells(plan: Plan, words: Words, head: int, lengths: int, data: Bytes, at: int) -> int:
    """And back; `lengths` is where the columns' lengths stand."""
    for number in range(plan[CLASSES]):
        for column in range(plan[plan[WIDTHS] + number]):
            present = int(np.int64(take_u16(data, lengths)))
            lengths += 2
            for tile in range(present):
                cell = cell_of(plan, words, head, number, take_i64(data, at + 8 * tile), words[head + NEWEST])
                words[cell + 1] |= 1 << column
                words[cell + 2 + column] = take_i64(data, at + 8 * (present + tile))
            at += 16 * present
    return at
