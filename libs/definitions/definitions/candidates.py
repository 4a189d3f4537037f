"""Candidates of several sources, merged by quota: the same in the gateway and where sources are evaluated."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from definitions.assembly import RequestContext
from definitions.rules import Source

Ids = npt.NDArray[np.uint64]
Eligible = Callable[[Ids], npt.NDArray[np.bool_]]
"""uint64 (n,) item ids -> bool (n,): which of them the user may be shown."""
Find = Callable[[int], Ids]
"""A source: at most so many of its best, uint64, best first."""

NOTHING: Final = np.empty(0, np.uint64)
_SMALLEST_WINDOW: Final = 64


class Found(Protocol):
    """What a search gives."""

    @property
    def item_ids(self) -> Ids:
        """uint64 (n,), best first."""
        ...


class BySimilarity(Protocol):
    """A user tower with its index, or neighbours of items."""

    def retrieve(self, history: Ids, limit: int, eligible: Eligible) -> Found:
        """Nearest eligible items to a history uint64 (k,), newest first."""
        ...


class Towers(BySimilarity, Protocol):
    """A user tower with its index."""

    def directions(self, item_ids: Ids) -> npt.NDArray[np.float32]:
        """Vectors of length 1, float32 (n, width); zeros where unknown."""
        ...


class PopularLists(Protocol):
    """What is popular by surface and country."""

    def retrieve(self, surface: int, country: int, limit: int, eligible: Eligible) -> Ids:
        """Eligible items, best first; none where there is no list."""
        ...


@dataclass(frozen=True, slots=True)
class BundleSources:
    """What a bundle finds candidates with; None for what it does not hold."""

    towers: Towers | None = None
    neighbours: BySimilarity | None = None
    popular: PopularLists | None = None


NO_SOURCES: Final = BundleSources()


@dataclass(frozen=True, slots=True)
class Catalogue:
    """All items by popularity, uint64 (m,), and `largest(attribute)`: those with the largest of a number first."""

    popular: Ids
    largest: Callable[[str], Ids]


@dataclass(frozen=True, slots=True)
class Want:
    """For whom: `history` uint64 (k,), item ids newest first; at most `limit` candidates, `eligible` ones only."""

    history: Ids
    context: RequestContext
    limit: int
    eligible: Eligible


@dataclass(frozen=True, eq=False)
class Candidates:
    """`item_ids` uint64 (n,), distinct; `source` int8 (n,): place among the sources that brought each, -1 = filled."""

    item_ids: Ids
    source: npt.NDArray[np.int8]


def merge(sources: Sequence[Find], quotas: Sequence[int], limit: int, fill: Find) -> Candidates:
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


def first(ids: Ids, limit: int, eligible: Eligible) -> Ids:
    """The first `limit` eligible ones of uint64 (m,), looked at window by window."""
    found: list[Ids] = []
    missing, start = limit, 0
    while missing > 0 and start < len(ids):
        window = ids[start : start + max(2 * missing, _SMALLEST_WINDOW)]
        start += len(window)
        chosen = window[eligible(window)][:missing]
        missing -= len(chosen)
        found.append(chosen)
    return np.concatenate(found) if found else NOTHING


def finder(source: Source, want: Want, bundle: BundleSources, catalogue: Catalogue) -> Find:
    """How a source is asked for `want`. What the bundle lacks finds nothing."""
    match source.name:
        case "two_tower":
            return _similar(bundle.towers, want)
        case "neighbours":
            return _similar(bundle.neighbours if len(want.history) else None, want)
        case "fresh":
            return lambda limit: first(catalogue.largest(source.by[0]), limit, want.eligible)
        case "popular":
            return _popular(source, want, bundle.popular, catalogue)


def fill(want: Want, catalogue: Catalogue) -> Find:
    """What fills up: the most popular items."""
    return lambda limit: first(catalogue.popular, limit, want.eligible)


def _similar(source: BySimilarity | None, want: Want) -> Find:
    if source is None:
        return lambda _: NOTHING
    return lambda limit: source.retrieve(want.history, limit, want.eligible).item_ids


def _popular(source: Source, want: Want, lists: PopularLists | None, catalogue: Catalogue) -> Find:
    """Of the request's surface and country where the bundle has such a list, else of everybody."""
    surface = want.context.surface if "surface" in source.by else 0
    country = want.context.country if "country" in source.by else 0

    def find(limit: int) -> Ids:
        here = NOTHING if lists is None else lists.retrieve(surface, country, limit, want.eligible)
        return here if len(here) else first(catalogue.popular, limit, want.eligible)

    return find
