"""Counter-based random numbers: each draw is a function of what it is for, so no order or batch can change it.

Philox4x64-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011), the generator of
`numpy.random.Philox`, evaluated for many counters at once. numpy's own makes one stream at a time: 6 us a counter.
"""

from enum import IntEnum
from typing import Final

import numpy as np
import numpy.typing as npt

Words = tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64], npt.NDArray[np.uint64], npt.NDArray[np.uint64]]

_MULTIPLIERS: Final = (0xD2E7470EE14C6C93, 0xCA5A826395121157)
_WEYL: Final = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)
_ROUNDS: Final = 10
_BLOCK: Final = 8_192  # counters at once: the temporaries stay in the cache
_LOW: Final = np.uint64(0xFFFFFFFF)
_HALF: Final = np.uint64(32)


class Stream(IntEnum):
    """What a draw is for; the second word of the key. Reactions after the first take `REACTION` + their place."""

    FACTORS = 1
    GAP = 2
    CONTEXT = 3
    CANDIDATE = 4
    CHOICE = 5
    EVENT = 6
    SAMPLE = 7
    REACTION = 16


def words(seed: int, stream: int, user: npt.ArrayLike, ordinal: npt.ArrayLike, item: npt.ArrayLike) -> Words:
    """Four words of 64 random bits for each (user, request ordinal, item).

    Args:
        seed, stream: the key; 0 <= each < 2**64.
        user, ordinal, item: counters, non-negative integers, broadcast against each other.

    Returns:
        Four uint64 arrays of the broadcast shape, equal to `numpy.random.Philox` at key (seed, stream) and counter
        (user, ordinal, item, 0).
    """
    broadcast = np.broadcast_arrays(
        np.asarray(user, np.uint64), np.asarray(ordinal, np.uint64), np.asarray(item, np.uint64)
    )
    shape = broadcast[0].shape
    counters = [np.ascontiguousarray(each).reshape(-1) for each in broadcast]
    out = np.empty((4, counters[0].size), np.uint64)
    for begin in range(0, counters[0].size, _BLOCK):
        part = slice(begin, begin + _BLOCK)
        _block(seed, stream, [each[part] for each in counters], out[:, part])
    first, second, third, fourth = (each.reshape(shape) for each in out)
    return first, second, third, fourth


def uniform(word: npt.NDArray[np.uint64]) -> npt.NDArray[np.float64]:
    """float64 in (0, 1) from the upper 53 bits: never 0, so that a logarithm of it is finite."""
    out: npt.NDArray[np.float64] = ((word >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    return out


def normal(first: npt.NDArray[np.uint64], second: npt.NDArray[np.uint64]) -> npt.NDArray[np.float64]:
    """Standard normal float64 of two words (Box and Muller, 1958)."""
    out: npt.NDArray[np.float64] = np.sqrt(-2.0 * np.log(uniform(first))) * np.cos(2.0 * np.pi * uniform(second))
    return out


def generator(seed: int, stream: int) -> np.random.Generator:
    """For what is made once and whole: the world itself."""
    return np.random.Generator(np.random.Philox(key=np.array([seed, stream], np.uint64)))


def _block(seed: int, stream: int, counters: list[npt.NDArray[np.uint64]], out: npt.NDArray[np.uint64]) -> None:
    c0, c1, c2 = counters
    c3 = np.zeros_like(c0)
    keys = [seed, stream]
    for _ in range(_ROUNDS):
        high0, low0 = _multiply(_MULTIPLIERS[0], c0)
        high1, low1 = _multiply(_MULTIPLIERS[1], c2)
        c0, c1, c2, c3 = high1 ^ c1 ^ np.uint64(keys[0]), low1, high0 ^ c3 ^ np.uint64(keys[1]), low0
        keys = [(key + weyl) & 0xFFFFFFFFFFFFFFFF for key, weyl in zip(keys, _WEYL, strict=True)]
    out[0], out[1], out[2], out[3] = c0, c1, c2, c3


def _multiply(constant: int, x: npt.NDArray[np.uint64]) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """Upper and lower 64 bits of the 128-bit product."""
    high, low = np.uint64(constant >> 32), np.uint64(constant & 0xFFFFFFFF)
    x_high, x_low = x >> _HALF, x & _LOW
    crossed = low * x_high
    middle = high * x_low + ((low * x_low) >> _HALF) + (crossed & _LOW)  # at most 2**64 - 1
    return high * x_high + (crossed >> _HALF) + (middle >> _HALF), np.uint64(constant) * x
