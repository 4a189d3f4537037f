"""Candidates of several sources, merged by quota: the same in the gateway and where sources are evaluated."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.uint64]


@dataclass(frozen=True, eq=False)
class Candidates:
    """`item_ids` uint64 (n,), distinct; `source` int8 (n,): place among the sources that brought each, -1 = filled."""

    item_ids: Ids
    source: npt.NDArray[np.int8]


def merge(
    sources: Sequence[Callable[[int], Ids]], quotas: Sequence[int], limit: int, fill: Callable[[int], Ids]
) -> Candidates:
    """Candidates of several sources, each item once, from the first source that brings it.

    Args:
        sources: give that many of their best, uint64, best first, or fewer.
        quotas: how many each may bring that no source before it has brought.
        limit: of all.
        fill: a source for what is missing then.
    """
    parts: list[Ids] = []
    brought: list[npt.NDArray[np.int8]] = []
    taken = np.empty(0, np.uint64)
    for index, (find, quota) in enumerate(zip((*sources, fill), (*quotas, limit), strict=True)):
        quota = min(quota, limit - len(taken))
        if quota <= 0:
            continue
        found = find(quota + len(taken))
        if len(taken):
            found = found[~np.isin(found, taken)]
        found = found[:quota]
        parts.append(found)
        brought.append(np.full(len(found), index if index < len(sources) else -1, np.int8))
        taken = np.concatenate(parts)
    return Candidates(taken, np.concatenate([np.empty(0, np.int8), *brought]))
