"""From scores to a list: order, diversity, business rules and exploration. Pure: the same inputs give the same list,
in the gateway when it answers and in the audit that recomputes the answer.
"""

from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt

from definitions.greedy import take_places
from definitions.plan import Side
from definitions.rules import Diversity, Exploration, Rules

Ids = npt.NDArray[np.uint64]
Floats = npt.NDArray[np.float32]
Codes = npt.NDArray[np.uint32]
Mask = npt.NDArray[np.bool_]
Order = npt.NDArray[np.intp]
Places = npt.NDArray[np.int64]

_NO_VECTORS: Final = np.zeros((0, 0), np.float32)


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
        compiled()
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
        draws = {} if slots is None or not shown else _draws(slots, request_id)
        depth = 0
        if self.diversity is not None and self.diversity.weight < 1 and (self.alike is not None or vectors is not None):
            depth = min(self.diversity.depth, shown)
        # Where no share counts, all below the last place that a rule speaks of are by score.
        spoken = max((depth, *(place + 1 for place in draws), *(place + 1 for place, _ in self.pins)))
        places = shown if self.caps else min(shown, spoken)
        if not places:
            propensities = np.zeros(n, np.float32)
            propensities[:shown] = 1
            return Ordered(order, shown, propensities)
        columns, allowed, pin_places, pin_ids = _arrays(self.caps, self.pins, shown)
        drawn = _undrawn(shown)
        if draws:
            drawn = drawn.copy()
            for place, pair in draws.items():
                if place < shown:
                    drawn[place] = pair
        # Copies: of an array that may not be written numba would compile the kernel anew, for seconds.
        order, propensities = take_places(
            order,
            np.array(scores, np.float32),
            np.zeros(n, np.bool_) if last is None else np.array(last),
            np.array(item_ids, np.uint64),
            np.array(codes, np.uint32, order="C"),
            _NO_VECTORS if vectors is None else np.array(vectors, np.float32, order="C"),
            0 if self.alike is None else self.alike.start,
            0 if self.alike is None else self.alike.stop - self.alike.start,
            np.float32(1.0 if self.diversity is None else self.diversity.weight),
            depth,
            columns,
            allowed,
            pin_places,
            pin_ids,
            drawn,
            0.0 if slots is None else slots.epsilon,
            1 if slots is None else slots.among,
            shown,
            places,
        )
        return Ordered(order, shown, propensities)


def by_score(item_ids: Ids, scores: Floats, last: Mask | None = None) -> Order:
    """Indices (n,) best first; ties by item id. Items marked `last` come after all others."""
    if last is None:
        return np.lexsort((item_ids, -scores))
    return np.lexsort((item_ids, -scores, last))


@cache
def compiled() -> None:
    """Have the kernel compiled, or loaded: not in the first request that needs it."""
    rules = Reranker((0,), ((0, 1.0),), slice(0, 1), (), Diversity(weight=0.5), None)  # type: ignore[call-arg]
    rules.order(np.ones(1, np.uint64), np.ones(1, np.float32), 1, request_id=1, codes=np.ones((1, 1), np.uint32))


@lru_cache(maxsize=4_096)
def _arrays(
    caps: tuple[tuple[int, float], ...], pins: tuple[tuple[int, int], ...], shown: int
) -> tuple[Places, Places, Places, Ids]:
    """As `take_places` reads them: columns of the shares and how many they allow of `shown`, places and ids of pins."""
    return (
        np.array([column for column, _ in caps], np.int64),
        np.array([max(1, int(share * shown)) for _, share in caps], np.int64),
        np.array([place for place, _ in pins], np.int64),
        np.array([item_id for _, item_id in pins], np.uint64),
    )


@lru_cache(maxsize=256)
def _undrawn(shown: int) -> npt.NDArray[np.float64]:
    """What `take_places` reads where no place is explored."""
    return np.full((shown, 2), -1.0)


def _draws(slots: Exploration, request_id: int) -> dict[int, tuple[float, float]]:
    """0-based place -> two numbers in [0, 1): whether to draw, and what. Counter-based, so keyed by the request alone
    (Philox: Salmon et al., SC 2011).
    """
    numbers = np.random.Generator(np.random.Philox(key=request_id)).random(2 * len(slots.slots)).tolist()
    return {slot - 1: (numbers[2 * i], numbers[2 * i + 1]) for i, slot in enumerate(slots.slots)}
