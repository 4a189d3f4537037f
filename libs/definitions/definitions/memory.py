"""Where streaming state lives: one array of 64-bit words that grows in place, and vectors in it of doubling size.

A place is the number of a word. Blocks have a power of two of words, at least 8 (a cache line); a freed block waits in
the list of its size. Nothing is ever moved by growth, so places stay valid.
"""

import mmap
from typing import Final

import numpy as np
import numpy.typing as npt

from definitions.compiled import inlined

Words = npt.NDArray[np.int64]

# What a table counts, in its first words.
TOP: Final = 0  # first word never given out
KEYS: Final = 1  # ids in the index
DIRTY: Final = 2  # entries of the dirty list
FREE_WORDS: Final = 3  # in freed blocks
CLOCK: Final = 4  # number of the running batch, for the order in which keys were active
LINES: Final = 5  # first of the lines that were given back, all of one size; 0 for none
FREE: Final = 8  # first block of each size that was freed, by the size's exponent; 0 for none
_BOOKS: Final = 64  # words of all that

LINE: Final = 8  # words of a cache line
SMALLEST: Final = 3  # exponent: a line
_FIRST_WORDS: Final = 1 << 13
_LENGTH_BITS: Final = 20  # of length, start and capacity of a vector
_MASK: Final = (1 << _LENGTH_BITS) - 1

# A vector takes two words of its owner: the place of its elements; then length, first element and capacity. An element
# is some words. Only a full vector of its greatest capacity may begin elsewhere than at 0, as a ring.
VECTOR: Final = 2


class Memory:
    """Anonymous memory: untouched words cost nothing, and growing copies nothing."""

    def __init__(self) -> None:
        self._map = mmap.mmap(-1, 8 * _FIRST_WORDS, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._see()
        self.words[TOP] = _BOOKS

    def _see(self) -> None:
        self.words: Words = np.frombuffer(self._map, np.int64)

    def grow(self, least: int) -> None:
        """Room for `least` words, or twice what there was. No caller may hold the array."""
        size = max(least, 2 * len(self.words))
        del self.words
        self._map.resize(8 * size)
        if size >= 1 << 20:
            self._map.madvise(mmap.MADV_HUGEPAGE)  # random access over GiB: pages of 4 KiB would miss the TLB
        self._see()


@inlined
def exponent_of(words: int) -> int:
    """Of the smallest block that holds so many words."""
    exponent = SMALLEST
    while (1 << exponent) < words:
        exponent += 1
    return exponent


@inlined
def take_block(words: Words, exponent: int) -> int:
    """A block of 2^exponent words, their content undefined. The caller has seen to the room."""
    place = words[FREE + exponent]
    if place:
        words[FREE + exponent] = words[place]
        words[FREE_WORDS] -= 1 << exponent
        return int(place)
    place = words[TOP]
    words[TOP] = place + (1 << exponent)
    return int(place)


@inlined
def take_lines(words: Words, size: int) -> int:
    """A place of `size` words, a multiple of `LINE` and the same for all of a table; their content is undefined."""
    place = words[LINES]
    if place:
        words[LINES] = words[place]
        words[FREE_WORDS] -= size
        return int(place)
    place = words[TOP]
    words[TOP] = place + size
    return int(place)


@inlined
def give_lines(words: Words, place: int, size: int) -> None:
    """Back to the list of them."""
    words[place] = words[LINES]
    words[LINES] = place
    words[FREE_WORDS] += size


@inlined
def give_block(words: Words, place: int, exponent: int) -> None:
    """Back to the list of its size."""
    words[place] = words[FREE + exponent]
    words[FREE + exponent] = place
    words[FREE_WORDS] += 1 << exponent


@inlined
def length_of(words: Words, vector: int) -> int:
    """Elements of the vector whose two words begin at `vector`."""
    return int(words[vector + 1] & _MASK)


@inlined
def start_of(words: Words, vector: int) -> int:
    """Its first element's number in the block."""
    return int((words[vector + 1] >> _LENGTH_BITS) & _MASK)


@inlined
def capacity_of(words: Words, vector: int) -> int:
    """Elements that its block holds."""
    return int(words[vector + 1] >> (2 * _LENGTH_BITS))


@inlined
def set_vector(words: Words, vector: int, length: int, start: int, capacity: int) -> None:
    """Write the second word."""
    words[vector + 1] = length | (start << _LENGTH_BITS) | (capacity << (2 * _LENGTH_BITS))


@inlined
def reserve(words: Words, vector: int, wanted: int, most: int, size: int) -> None:
    """See that the block holds `wanted` elements of `size` words; it keeps those it has, from number 0 on.

    A capacity never exceeds `most`. A vector that must grow is no ring yet.
    """
    capacity = capacity_of(words, vector)
    if wanted <= capacity:
        return
    old = words[vector]
    exponent = exponent_of(wanted * size)
    place = take_block(words, exponent)
    length = length_of(words, vector)
    if capacity:
        for word in range(length * size):
            words[place + word] = words[old + word]
        give_block(words, old, exponent_of(capacity * size))
    words[vector] = place
    set_vector(words, vector, length, 0, min((1 << exponent) // size, most))


@inlined
def release(words: Words, vector: int, size: int) -> None:
    """Give the block back; the vector is empty."""
    capacity = capacity_of(words, vector)
    if capacity:
        give_block(words, words[vector], exponent_of(capacity * size))
    words[vector] = 0
    words[vector + 1] = 0
