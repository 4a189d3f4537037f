"""Candidates for `Recommend`: the most popular items that the user may still be shown."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from gateway.popularity import Popularity
from gateway.query import Ids

Eligible = Callable[[Ids], npt.NDArray[np.bool_]]


def popular(table: Popularity, limit: int, eligible: Eligible) -> Ids:
    """At most `limit` eligible items, uint64 (k,), most popular first."""
    found: list[Ids] = []
    missing, start = limit, 0
    while missing > 0 and start < len(table):
        window = table.item_ids[start : start + max(2 * missing, 64)]
        start += len(window)
        chosen = window[eligible(window)][:missing]
        missing -= len(chosen)
        found.append(chosen)
    return np.concatenate(found) if found else np.empty(0, np.uint64)
