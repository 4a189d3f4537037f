"""From scores to a list: order, diversity, business rules and exploration. Pure: the same inputs give the same list,
in the gateway when it answers and in the audit that recomputes the answer.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from definitions.plan import Side
from definitions.rules import Diversity, Exploration, Rules

Ids = npt.NDArray[np.uint64]
Floats = npt.NDArray[np.float32]
Codes = npt.NDArray[np.uint32]
Mask = npt.NDArray[np.bool_]
Order = npt.NDArray[np.intp]

_FREE: Final = b"\x01"
_WORST: Final = np.float32(-np.inf)
_BEHIND: Final = np.float32(2)  # objectives lie in -1 to 1: what must come last gets less than any


@dataclass(frozen=True, slots=True)
class Ordered:
    """`order`: all candidates as indices (n,), the `shown` first ones are the list. `propensities` float32 (n,), in
    that order: with which probability this item was given this place, given those above it; 0 where not shown.
    """

    order: Order
    shown: int
    propensities: Floats


@dataclass(frozen=True, slots=True)
class Reranker:
    """The re-rank rules, compiled for a layout.

    `columns`: which of an item's codes (`ItemColumns.codes`) the rules read, in the order of `codes` below. `caps`:
    (place among those, share). `alike`: the places that tell which items are similar; None: item vectors tell.
    `pins`: (0-based place of the list, item id).
    """

    columns: tuple[int, ...]
    caps: tuple[tuple[int, float], ...]
    alike: slice | None
    pins: tuple[tuple[int, int], ...]
    diversity: Diversity | None
    exploration: Exploration | None

    @classmethod
    def of(cls, rules: Rules, item: Side) -> "Reranker":
        """`item`: the side of the layout that the codes come from."""
        shares = [rule.max_share for rule in rules.rerank if rule.max_share is not None]
        columns = [item.codes[share.by].start for share in shares]
        alike = None
        if rules.diversity is not None and rules.diversity.by is not None:
            slots = item.codes[rules.diversity.by]
            alike = slice(len(columns), len(columns) + slots.width)
            columns += range(slots.start, slots.start + slots.width)
        return cls(
            columns=tuple(columns),
            caps=tuple((place, share.share) for place, share in enumerate(shares)),
            alike=alike,
            pins=tuple((rule.pin.position - 1, rule.pin.item_id) for rule in rules.rerank if rule.pin is not None),
            diversity=rules.diversity,
            exploration=rules.exploration,
        )

    @property
    def wants_vectors(self) -> bool:
        """Whether `order` needs the candidates' vectors."""
        return self.diversity is not None and self.alike is None

    def order(
        self,
        item_ids: Ids,
        scores: Floats,
        limit: int,
        *,
        request_id: int,
        codes: Codes,
        last: Mask | None = None,
        vectors: Floats | None = None,
        explore: bool = True,
    ) -> Ordered:
        """All candidates, the list first: best first where no rule says otherwise, ties by item id.

        No rule makes a list shorter than it could be: where a share forbids all that is left, it gives way.

        Args:
            item_ids: uint64 (n,), distinct.
            scores: float32 (n,), finite.
            limit: length of the list; 0 = all.
            request_id: seed of the draws.
            codes: uint32 (n, len(columns)), 0 = none.
            last: bool (n,), which come after all others.
            vectors: float32 (n, width), rows of length 1, or 0 where unknown; without them nothing is similar.
            explore: whether the exploration slots are drawn.
        """
        n = len(item_ids)
        order = by_score(item_ids, scores, last)
        shown = min(limit or n, n)
        slots = self.exploration if explore else None
        if shown and (self.caps or self.pins or self.diversity is not None or slots is not None):
            if self.alike is not None:
                vectors = vectors_of(codes[:, self.alike])
            chosen, propensities = _Greedy(self, order, item_ids, scores, codes, last, vectors, shown).run(
                slots, request_id
            )
            rest = np.ones(n, np.bool_)
            rest[chosen] = False
            return Ordered(np.concatenate([order[chosen], order[rest]]), shown, propensities)
        propensities = np.zeros(n, np.float32)
        propensities[:shown] = 1
        return Ordered(order, shown, propensities)


def by_score(item_ids: Ids, scores: Floats, last: Mask | None = None) -> Order:
    """Indices (n,) best first; ties by item id. Items marked `last` come after all others."""
    if last is None:
        return np.lexsort((item_ids, -scores))
    return np.lexsort((item_ids, -scores, last))


def vectors_of(codes: Codes) -> Floats:
    """Rows float32 (n, distinct codes) whose products are the cosines of the items' sets of codes (n, width)."""
    distinct, place = np.unique(codes, return_inverse=True)
    table = np.zeros((len(codes), len(distinct)), np.float32)
    np.put_along_axis(table, place.reshape(codes.shape), 1, axis=1)
    if len(distinct) and distinct[0] == 0:
        table[:, 0] = 0
    length = np.sqrt(table.sum(axis=1, keepdims=True))
    return np.divide(table, length, out=table, where=length > 0)


class _Greedy:
    """One list, place by place. Candidates are named by their place in the order by score; `_free` says which may be
    taken now, as bytes, since searching those costs a twentieth of searching an array.
    """

    def __init__(
        self,
        rules: Reranker,
        order: Order,
        item_ids: Ids,
        scores: Floats,
        codes: Codes,
        last: Mask | None,
        vectors: Floats | None,
        limit: int,
    ) -> None:
        n = len(order)
        self._limit = limit
        self._free_bytes = bytearray(_FREE * n)
        self._free = np.frombuffer(self._free_bytes, np.bool_)
        self._left = np.ones(n, np.bool_)
        self._caps = [
            (codes[order, place], max(1, int(share * limit)), dict[int, int]()) for place, share in rules.caps
        ]
        self._pinned = self._pins(rules.pins, item_ids[order]) if rules.pins else {}
        self._objective: Floats | None = None
        self._depth = 0
        if rules.diversity is not None and vectors is not None and rules.diversity.weight < 1:
            self._weight = np.float32(rules.diversity.weight)
            self._vectors = vectors[order]
            self._relevance = self._weight * _scaled(scores[order])
            if last is not None:
                self._relevance -= _BEHIND * last[order]
            self._nearest = np.zeros(n, np.float32)
            self._objective = self._relevance
            self._depth = min(rules.diversity.depth, limit)

    def run(self, slots: Exploration | None, request_id: int) -> tuple[list[int], Floats]:
        """The places taken, and the propensity of each, 0 for the candidates after them."""
        propensities = np.zeros(len(self._left), np.float32)
        propensities[: self._limit] = 1
        draws = {} if slots is None else _draws(slots, request_id)
        # Where no share counts, all below the last place that a rule speaks of are by score.
        spoken = max((self._depth, *(place + 1 for place in (*draws, *self._pinned))))
        last = self._limit if self._caps else min(self._limit, spoken)
        chosen: list[int] = []
        for place in range(last):
            pick = self._pinned.get(place)
            if pick is None:
                if self._caps and not self._free_bytes.count(_FREE):
                    self._give_way(place)
                draw = draws.get(place)
                if draw is None or slots is None:
                    pick = self._best()
                else:
                    pool = min(slots.among, self._free_bytes.count(_FREE))
                    index = int(draw[1] * pool) if draw[0] < slots.epsilon else 0
                    pick = self._nth(index)
                    propensities[place] = slots.epsilon / pool + (0 if index else 1 - slots.epsilon)
            self._take(pick, place)
            chosen.append(pick)
        return chosen, propensities

    def _pins(self, pins: tuple[tuple[int, int], ...], item_ids: Ids) -> dict[int, int]:
        """Place of the list -> candidate kept for it."""
        found = {}
        for place, item_id in pins:
            where = np.flatnonzero(item_ids == np.uint64(item_id))
            if len(where) and place < self._limit:
                found[place] = int(where[0])
                self._free[where[0]] = False
        return found

    def _best(self) -> int:
        if self._objective is None:
            return self._free_bytes.index(_FREE)
        return int(np.where(self._free, self._objective, _WORST).argmax())

    def _nth(self, index: int) -> int:
        """The free candidate with so many better ones."""
        if index == 0:
            return self._best()
        if self._objective is None:
            return int(np.flatnonzero(self._free)[index])
        return int(np.argsort(-np.where(self._free, self._objective, _WORST), kind="stable")[index])

    def _take(self, pick: int, place: int) -> None:
        self._free[pick] = self._left[pick] = False
        for codes, allowed, taken in self._caps:
            code = int(codes[pick])
            if code:
                taken[code] = count = taken.get(code, 0) + 1
                if count == allowed:
                    self._free[codes == code] = False
        if self._objective is None:
            return
        if place + 1 >= self._depth:
            self._objective = None
            return
        np.maximum(self._nearest, self._vectors @ self._vectors[pick], out=self._nearest)
        self._objective = self._relevance - (1 - self._weight) * self._nearest

    def _give_way(self, place: int) -> None:
        """All that the shares have passed over may be taken again."""
        self._caps = []
        self._free[:] = self._left
        for kept, pick in self._pinned.items():
            if kept > place:
                self._free[pick] = False


def _scaled(scores: Floats) -> Floats:
    """0 to 1 over the candidates, float32 (n,); in float64, where no difference is infinite."""
    wide = scores.astype(np.float64)
    low, high = wide.min(), wide.max()
    return ((wide - low) / (high - low) if high > low else wide - low).astype(np.float32)


def _draws(slots: Exploration, request_id: int) -> dict[int, tuple[float, float]]:
    """0-based place -> two numbers in [0, 1): whether to draw, and what. Counter-based, so keyed by the request alone
    (Philox: Salmon et al., SC 2011).
    """
    numbers = np.random.Generator(np.random.Philox(key=request_id)).random(2 * len(slots.slots)).tolist()
    return {slot - 1: (numbers[2 * i], numbers[2 * i + 1]) for i, slot in enumerate(slots.slots)}
