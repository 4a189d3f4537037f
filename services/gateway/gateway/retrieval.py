"""Candidates for `Recommend`: several sources, merged by quota, each item with the source that brought it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt
from definitions.assembly import RequestContext
from definitions.candidates import Candidates, merge
from definitions.rules import Source

from gateway.errors import Unavailable
from gateway.popularity import Popularity
from gateway.query import Floats, Ids
from gateway.rules import ServingRules

Eligible = Callable[[Ids], npt.NDArray[np.bool_]]

NOTHING: Final = np.empty(0, np.uint64)


class Catalogue(Protocol):
    """The items in memory, as far as retrieval asks."""

    @property
    def popularity(self) -> Popularity:
        """The catalogue by popularity."""
        ...

    def largest(self, number: str) -> Ids:
        """The catalogue by a number attribute, largest first; empty until it has been ordered for the first time."""
        ...


class Towers(Protocol):
    """The user tower and its index."""

    def retrieve(self, history: Ids, limit: int, eligible: Eligible) -> Ids:
        """Nearest eligible items, best first. Raises Unavailable."""
        ...

    def directions(self, item_ids: Ids) -> Floats:
        """Vectors of length 1, float32 (n, width); zeros where unknown."""
        ...


class Neighbours(Protocol):
    """Nearest items of items."""

    def retrieve(self, history: Ids, limit: int, eligible: Eligible) -> Ids:
        """Nearest eligible items to all of the history, best first."""
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
    neighbours: Neighbours | None = None
    popular: PopularLists | None = None


NO_SOURCES: Final = BundleSources()


class SourceMeter(Protocol):
    """Counts what the sources bring."""

    def candidates(self, source: str, found: int) -> None:
        """A source brought so many."""

    def source_failed(self, source: str) -> None:
        """A source failed: its quota is filled from the popular items."""


@dataclass(frozen=True, slots=True)
class Want:
    """For whom: `history` uint64 (k,), item ids newest first; at most `limit` candidates, `eligible` ones only."""

    history: Ids
    context: RequestContext
    limit: int
    eligible: Eligible


def first(ids: Ids, limit: int, eligible: Eligible) -> Ids:
    """The first `limit` eligible ones of uint64 (m,), looked at window by window."""
    found: list[Ids] = []
    missing, start = limit, 0
    while missing > 0 and start < len(ids):
        window = ids[start : start + max(2 * missing, 64)]
        start += len(window)
        chosen = window[eligible(window)][:missing]
        missing -= len(chosen)
        found.append(chosen)
    return np.concatenate(found) if found else NOTHING


def candidates(
    want: Want, rules: ServingRules, bundle: BundleSources, items: Catalogue, meter: SourceMeter
) -> Candidates:
    """Candidates of the rules' sources, pinned items before them; `rules.reasons` names each one's source."""
    popularity = items.popularity
    finders = [_finder(source, want, bundle, items, meter) for source in rules.sources]
    quotas = list(rules.quotas(want.limit))
    if len(rules.pinned):
        finders.insert(0, lambda limit: first(rules.pinned, limit, want.eligible))
        quotas.insert(0, len(rules.pinned))
    found = merge(finders, quotas, want.limit, lambda limit: first(popularity.item_ids, limit, want.eligible))
    names = rules.reasons
    for index, n in enumerate(np.bincount(found.source + 1, minlength=len(finders) + 1).tolist()):
        if n:
            meter.candidates(names[index - 1], n)
    return found


def _finder(
    source: Source, want: Want, bundle: BundleSources, items: Catalogue, meter: SourceMeter
) -> Callable[[int], Ids]:
    match source.name:
        case "two_tower":
            towers = bundle.towers
            if towers is None:
                return _none

            def nearest(limit: int) -> Ids:
                try:
                    return towers.retrieve(want.history, limit, want.eligible)
                except Unavailable:
                    meter.source_failed(source.name)
                    return NOTHING

            return nearest
        case "neighbours":
            neighbours = bundle.neighbours
            if neighbours is None or not len(want.history):
                return _none
            return lambda limit: neighbours.retrieve(want.history, limit, want.eligible)
        case "fresh":
            return lambda limit: first(items.largest(source.by[0]), limit, want.eligible)
        case "popular":
            return _popular(source, want, bundle, items)


def _popular(source: Source, want: Want, bundle: BundleSources, items: Catalogue) -> Callable[[int], Ids]:
    """Of the request's surface and country where the bundle has such a list, else of everybody."""
    lists = bundle.popular
    surface = want.context.surface if "surface" in source.by else 0
    country = want.context.country if "country" in source.by else 0

    def find(limit: int) -> Ids:
        here = NOTHING if lists is None else lists.retrieve(surface, country, limit, want.eligible)
        return here if len(here) else first(items.popularity.item_ids, limit, want.eligible)

    return find


def _none(limit: int) -> Ids:  # noqa: ARG001  a source without anything to search
    return NOTHING
