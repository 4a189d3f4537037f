"""A use case's serving rules, compiled for one layout: once when they change, never for a request."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt

from definitions.assembly import RequestContext
from definitions.attributes import category_code
from definitions.features import LastK
from definitions.heads import head_weights
from definitions.item_snapshot import Attributes
from definitions.layout import Layout
from definitions.plan import CodeSlots
from definitions.rerank import Reranker
from definitions.rules import Filter, Rules, Source

Mask = npt.NDArray[np.bool_]
_UNIT_US: Final = {"s": 1_000_000, "days": 86_400_000_000}


@dataclass(frozen=True, slots=True)
class _NumberFilter:
    column: int
    at_least: float | str | None
    at_most: float | str | None
    unit_us: int

    def passes(self, items: Attributes, time_us: int) -> Mask:
        numbers, now = items.numbers[:, self.column], time_us / self.unit_us
        low, high = (now if isinstance(bound, str) else bound for bound in (self.at_least, self.at_most))
        fails = np.zeros(len(numbers), np.bool_)  # NaN is neither under nor over: what is absent passes
        if low is not None:
            fails |= numbers < low
        if high is not None:
            fails |= numbers > high
        return ~fails


@dataclass(frozen=True, slots=True)
class _CodeFilter:
    slots: CodeSlots
    none_of: npt.NDArray[np.uint32]
    same_as: str | None

    def passes(self, items: Attributes, context: RequestContext) -> Mask:
        codes = items.codes[:, self.slots.start : self.slots.start + self.slots.width]
        passed = np.ones(len(codes), np.bool_)
        if len(self.none_of):
            passed &= ~np.isin(codes, self.none_of).any(axis=1)
        if self.same_as is not None and (wanted := getattr(context, self.same_as)):
            passed &= (codes == wanted).any(axis=1) | ~codes.any(axis=1)
        return passed


class ServingRules:
    """`rules` and what is made of them for `layout`; its item attributes must be there."""

    def __init__(self, rules: Rules, layout: Layout) -> None:
        self.rules = rules
        self.reranker = Reranker.of(rules, layout.item)
        self.sources: tuple[Source, ...] = rules.candidates.sources
        self.pinned = np.array([item_id for _, item_id in self.reranker.pins], np.uint64)
        names = [source.name for source in self.sources]
        # By the place of the source among the candidates' sources; the last, so place -1, is what filled them up.
        self.reasons: tuple[str, ...] = (*(["pinned"] if len(self.pinned) else []), *names, "popular")
        self.history = _history(rules.candidates.history, layout)
        self._weights: dict[str, npt.NDArray[np.float32]] = {}  # by the bundle's digest
        self._quotas = rules.candidates.quotas(rules.candidates.limit)
        filters = [_compiled(each, layout) for each in rules.filters]
        self._numbers = [each for each in filters if isinstance(each, _NumberFilter)]
        self._codes = [each for each in filters if isinstance(each, _CodeFilter)]

    def weights(self, digest: str, trained: Mapping[str, float]) -> npt.NDArray[np.float32]:
        """Of the heads of a bundle, float32 (H,): worked out once."""
        found = self._weights.get(digest)
        if found is None:
            found = self._weights[digest] = head_weights(trained, self.rules.heads)
        return found

    def quotas(self, limit: int) -> tuple[int, ...]:
        """How many of `limit` candidates each source may bring."""
        wanted = self.rules.candidates
        return self._quotas if limit == wanted.limit else wanted.quotas(limit)

    @property
    def filters(self) -> bool:
        """Whether `passes` may refuse anything."""
        return bool(self._numbers or self._codes)

    def passes(self, items: Attributes, context: RequestContext, time_us: int) -> Mask:
        """Which items every filter lets pass, bool (n,)."""
        passed = np.ones(len(items.numbers), np.bool_)
        for number in self._numbers:
            passed &= number.passes(items, time_us)
        for code in self._codes:
            passed &= code.passes(items, context)
        return passed

    @cached_property
    def text(self) -> str:
        """The rules as an impression logs them."""
        return self.rules.to_json()


def _history(name: str | None, layout: Layout) -> int | None:
    """Which of the row's histories tells what the user did: the named `last_k` feature, or the first."""
    names = [feature.name for feature in layout.usecase.features if isinstance(feature, LastK)]
    if not names:
        return None
    return 0 if name is None else names.index(name)


def _compiled(each: Filter, layout: Layout) -> _NumberFilter | _CodeFilter:
    if each.of_number:
        return _NumberFilter(layout.item.numbers.index(each.by), each.at_least, each.at_most, _UNIT_US[each.unit])
    refused = [value if isinstance(value, int) else category_code(value) for value in each.none_of]
    return _CodeFilter(layout.item.codes[each.by], np.array(refused, np.uint32), each.same_as)
