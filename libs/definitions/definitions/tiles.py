"""Sawtooth windows: tiles aligned to the epoch, and the arithmetic that all readers of them share.

The window W at read time t is [floor((t - W) / hop) * hop, t): the tiles `first_tile` <= index < `end_tile`, less the
part of the open tile at or after t. Times are int64 microseconds, intervals half open.
"""

import math
from typing import overload

import numpy as np
import numpy.typing as npt

NEVER = -(2**63)  # the time of an event that has not been


def first_tile(time_us: int, window_us: int, hop_us: int) -> int:
    """Index of the oldest tile in the window that ends at `time_us`."""
    return (time_us - window_us) // hop_us


def end_tile(time_us: int, hop_us: int) -> int:
    """One past the newest tile that begins before `time_us` (the open tile, as it is called)."""
    return (time_us - 1) // hop_us + 1


def oldest_kept_tile(newest_us: int, keep_us: int, hop_us: int) -> int:
    """Index of the oldest tile that is kept: it ends at or after (newest time of the key) - W - 2 hops."""
    return -((keep_us + 2 * hop_us - newest_us) // hop_us) - 1


def ring_length(keep_us: int, hop_us: int) -> int:
    """How many tiles can be kept at once, for the longest window of a hop."""
    return keep_us // hop_us + 4


@overload
def ratio(num: float, den: float, scale: float, mean: float, weight: float) -> float: ...
@overload
def ratio(
    num: npt.NDArray[np.int64] | npt.NDArray[np.float64],
    den: npt.NDArray[np.int64] | npt.NDArray[np.float64],
    scale: float,
    mean: float,
    weight: float,
) -> npt.NDArray[np.float64]: ...
def ratio(
    num: float | npt.NDArray[np.int64] | npt.NDArray[np.float64],
    den: float | npt.NDArray[np.int64] | npt.NDArray[np.float64],
    scale: float,
    mean: float,
    weight: float,
) -> float | npt.NDArray[np.float64]:
    """(num / scale + mean * weight) / (den + weight) in float64, 0 where the denominator is 0.

    `scale` is 1 or units per value. Numbers and arrays give the same bits, so streaming equals backfill.
    """
    if not isinstance(num, np.ndarray) and not isinstance(den, np.ndarray):
        return ratio_of(num, den, scale, mean, weight)
    below = den + weight
    above = num / scale + mean * weight
    if weight:  # no count is negative
        return np.asarray(above / below)
    return np.divide(above, below, out=np.zeros(np.shape(below)), where=np.not_equal(below, 0))


def ratio_of(num: float, den: float, scale: float, mean: float, weight: float) -> float:
    """`ratio` of two numbers."""
    below = den + weight
    return float((num / scale + mean * weight) / below) if below else 0.0


def decayed(value: float, age_us: int, half_life_us: int) -> float:
    """value * 2^(-age / half_life); a negative age (a reader before the newest event) counts as none."""
    return value * math.exp2(-age_us / half_life_us) if age_us > 0 else value  # as compiled kernels do, to the bit
