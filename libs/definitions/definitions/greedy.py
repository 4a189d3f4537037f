"""The greedy loop of the re-rank as a kernel: in numpy a dozen small operations for each place of the list.

Candidates are named by their place in the order by score.
"""

import math

import numpy as np
import numpy.typing as npt

from definitions.compiled import brief, inlined

Floats = npt.NDArray[np.float32]
Codes = npt.NDArray[np.uint32]
Places = npt.NDArray[np.int64]


@inlined
def _put_sets(codes: Codes, start: int, width: int, sets: Codes, sizes: Places) -> None:
    """The distinct codes of each row's `width` from `start` on, 0 being none: in front in `sets`, `sizes` of them."""
    for row in range(len(codes)):
        size = 0
        for column in range(start, start + width):
            code = codes[row, column]
            again = code == 0
            for place in range(size):
                again = again or sets[row, place] == code
            if not again:
                sets[row, size] = code
                size += 1
        sizes[row] = size


@inlined
def _cosine(sets: Codes, sizes: Places, one: int, other: int) -> float:
    """Of two sets of codes."""
    shared = 0
    for i in range(sizes[one]):
        for j in range(sizes[other]):
            shared += sets[one, i] == sets[other, j]
    return shared / math.sqrt(sizes[one] * sizes[other]) if shared else 0.0


@inlined
def _dot(vectors: Floats, one: int, other: int) -> float:
    total = 0.0
    for i in range(vectors.shape[1]):
        total += np.float64(vectors[one, i]) * np.float64(vectors[other, i])
    return total


@brief
def cosines(codes: Codes, other: int) -> npt.NDArray[np.float64]:
    """Likeness float64 (n,) of sets of codes uint32 (n, width) to that of row `other`."""
    sets, sizes, found = np.empty_like(codes), np.empty(len(codes), np.int64), np.empty(len(codes))
    _put_sets(codes, 0, codes.shape[1], sets, sizes)
    for one in range(len(codes)):
        found[one] = _cosine(sets, sizes, one, other)
    return found


@inlined
def _best(free: npt.NDArray[np.bool_], objective: Floats, diverse: bool) -> int:
    """The free candidate with the largest objective, the first of equals; in the order by score without one."""
    found = -1
    for place in range(len(free)):
        if free[place]:
            if not diverse:
                return place
            if found < 0 or objective[place] > objective[found]:
                found = place
    return found


@brief
def take_places(
    order: Places,
    scores: Floats,
    behind: npt.NDArray[np.bool_],
    item_ids: npt.NDArray[np.uint64],
    codes: Codes,
    vectors: Floats,
    alike: int,
    width: int,
    weight: np.float32,
    depth: int,
    caps: Places,
    allowed: Places,
    pin_places: Places,
    pin_ids: npt.NDArray[np.uint64],
    draws: npt.NDArray[np.float64],
    epsilon: float,
    among: int,
    limit: int,
    places: int,
) -> tuple[Places, Floats]:
    """Fill the first `places` of a list of `limit`; the rest stays by score.

    Args:
        order: int64 (n,), candidates best first; `scores` float32, `behind` (which come after all others), `item_ids`,
            `codes` uint32 (n, columns), `vectors` float32 (n, width) are in the candidates' order.
        alike, width: first column and number of the codes that tell likeness; number 0: the vectors do.
        weight, depth: of the diversity; depth 0 is none.
        caps: int64 (k,), columns of the codes that have a share, and int64 (k,) how many of one code are allowed.
        pin_places, pin_ids: 0-based places of the list and the items that stand there.
        draws: float64 (limit, 2), two numbers in [0, 1) at places that are explored; else -1.
        epsilon, among: of the exploration.

    Returns:
        All candidates in their new order int64 (n,), and their propensities float32 (n,).
    """
    n = len(order)
    free, left, kept = np.ones(n, np.bool_), np.ones(n, np.bool_), np.full(limit, -1)
    for pin in range(len(pin_places)):
        for place in range(n):
            if item_ids[order[place]] == pin_ids[pin] and pin_places[pin] < limit:
                kept[pin_places[pin]] = place
                free[place] = False
    free_count = int(free.sum())
    relevance, nearest, objective = np.zeros(n, np.float32), np.zeros(n, np.float32), np.zeros(n, np.float32)
    if depth:
        low, high = np.float64(scores.min()), np.float64(scores.max())
        for place in range(n):
            above = np.float64(scores[order[place]]) - low
            relevance[place] = weight * np.float32(above / (high - low) if high > low else above)
            if behind[order[place]]:
                relevance[place] -= np.float32(2)  # objectives lie in -1 to 1: what comes last gets less than any
            objective[place] = relevance[place]
    sets, sizes = np.empty((n, width), np.uint32), np.empty(n, np.int64)
    if depth:
        _put_sets(codes, alike, width, sets, sizes)
    chosen, propensities = np.empty(n, np.int64), np.zeros(n, np.float32)
    propensities[:limit] = 1
    capped = len(caps) > 0
    for at in range(places):
        pick = kept[at]
        diverse = at < depth
        if pick < 0:
            if capped and free_count == 0:  # all that the shares have passed over may be taken again
                capped = False
                free[:] = left
                for later in range(at + 1, limit):
                    if kept[later] >= 0:
                        free[kept[later]] = False
                free_count = int(free.sum())
            pick = _best(free, objective, diverse)
            if draws[at, 0] >= 0:
                pool = min(among, free_count)
                index = int(draws[at, 1] * pool) if draws[at, 0] < epsilon else 0
                propensities[at] = epsilon / pool + (0 if index else 1 - epsilon)
                if index:
                    rest = free.copy()
                    for _ in range(index):
                        rest[pick] = False
                        pick = _best(rest, objective, diverse)
        free_count -= free[pick]
        free[pick] = left[pick] = False
        chosen[at] = pick
        if capped:
            for cap in range(len(caps)):
                code, count = codes[order[pick], caps[cap]], 0
                if code:
                    for earlier in range(at + 1):
                        count += codes[order[chosen[earlier]], caps[cap]] == code
                if code and count == allowed[cap]:
                    for place in range(n):
                        if free[place] and codes[order[place], caps[cap]] == code:
                            free[place] = False
                            free_count -= 1
        if at + 1 < depth:
            taken = order[pick]
            for place in range(n):
                if left[place]:
                    one = order[place]
                    if width:
                        like = np.float32(_cosine(sets, sizes, one, taken))
                    else:
                        like = np.float32(_dot(vectors, one, taken))
                    nearest[place] = max(nearest[place], like)
                    objective[place] = relevance[place] - (np.float32(1) - weight) * nearest[place]
    found, at = np.empty(n, np.int64), places
    for place in range(places):
        found[place] = order[chosen[place]]
    for place in range(n):
        if left[place]:
            found[at] = order[place]
            at += 1
    return found, propensities
