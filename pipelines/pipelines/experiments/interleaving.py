"""Which of two rankings people prefer, from lists that both drafted: many times as sensitive as two arms.

Each user compares both rankings, so what users differ in cancels; Chapelle, Joachims, Radlinski, Yue (Large-Scale
Validation and Analysis of Interleaved Search Evaluation, ACM TOIS 2012) needed a tenth to a hundredth of the users. It
says which ranking is preferred, not what that is worth: for that, compare arms.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipelines.experiments import sequential
from pipelines.experiments.comparing import ALPHA

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Preference:
    """Mean over users of (lists that `other` won - lists that `one` won) / lists of theirs, in [-1, 1].

    [low, high] and `p` are always valid. `wins`: lists won by one, by other, and ties among lists with a click.
    """

    value: float
    low: float
    high: float
    p: float
    users: int
    wins: tuple[int, int, int]


def preference(
    users: npt.NDArray[np.uint64], clicks_one: Ints, clicks_other: Ints, *, planned: int, alpha: float = ALPHA
) -> Preference:
    """Of n interleaved lists: whose they were, and how many of each team's items people took, int64 (n,).

    A list is won by the team with more; a user counts once, however many lists. `planned`: users that the interval is
    narrowest for. Too few users (`sequential.MIN_USERS`): p is 1.
    """
    won = np.sign(clicks_other - clicks_one)
    with_click = (clicks_one + clicks_other) > 0
    _, code = np.unique(users, return_inverse=True)
    each = np.bincount(code, won) / np.maximum(np.bincount(code), 1)
    count = len(each)
    value = float(each.mean()) if count else math.nan
    error = float(each.std(ddof=1) / math.sqrt(count)) if count > 1 else math.nan
    variance = sequential.mixture(planned, alpha)
    reach = sequential.multiplier(count, variance, alpha)
    p = 1.0
    if count >= sequential.MIN_USERS:
        p = float(sequential.p_values(np.array([value]), np.array([error]), np.array([float(count)]), variance)[0])
    wins = (int((won < 0).sum()), int((won > 0).sum()), int((with_click & (won == 0)).sum()))
    return Preference(value, value - reach * error, value + reach * error, p, count, wins)
