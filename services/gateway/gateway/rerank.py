"""From scores to a list: order, then the use case's rules."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gateway.query import Floats, Ids

Order = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class MaxShare:
    """No category may take more than `share` of the list. `column`: the attribute's first among the items' codes."""

    column: int
    share: float


def by_score(item_ids: Ids, scores: Floats, last: npt.NDArray[np.bool_] | None = None) -> Order:
    """Indices (n,) best first; ties by item id. Items marked `last` come after all others."""
    if last is None:
        return np.lexsort((item_ids, -scores))
    return np.lexsort((item_ids, -scores, last))


def capped(order: Order, rules: Sequence[tuple[npt.NDArray[np.uint32], float]], limit: int) -> Order:
    """The first `limit` of `order` in which no category takes more than its share, indices (k,).

    Each rule is the candidates' codes uint32 (n,), 0 = none and never capped, and the share of the list that one code
    may take (at least one place). Where that leaves too few, the rules give way: items passed over fill the list from
    its end, best first, so that no list is shorter than it could be.
    """
    limit = min(limit, len(order))
    columns = [(codes.tolist(), max(1, int(share * limit)), dict[int, int]()) for codes, share in rules]
    chosen: list[int] = []
    passed: list[int] = []
    for index in order.tolist():
        if len(chosen) == limit:
            break
        if any(codes[index] and taken.get(codes[index], 0) >= allowed for codes, allowed, taken in columns):
            passed.append(index)
            continue
        for codes, _, taken in columns:
            taken[codes[index]] = taken.get(codes[index], 0) + 1
        chosen.append(index)
    return np.asarray(chosen + passed[: limit - len(chosen)], dtype=np.intp)
