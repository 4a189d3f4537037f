"""Candidates for `Recommend`: the rules' sources, each guarded, merged by quota and counted."""

from typing import Protocol

import numpy as np
from definitions.candidates import (
    NOTHING,
    BundleSources,
    Candidates,
    Catalogue,
    Find,
    Ids,
    Want,
    fill,
    finder,
    first,
    merge,
)

from gateway.errors import Unavailable
from gateway.rules import ServingRules


class SourceMeter(Protocol):
    """Counts what the sources bring."""

    def candidates(self, source: str, found: int) -> None:
        """A source brought so many."""

    def source_failed(self, source: str) -> None:
        """A source failed: its quota is filled from the popular items."""


def candidates(
    want: Want, rules: ServingRules, bundle: BundleSources, catalogue: Catalogue, meter: SourceMeter
) -> Candidates:
    """Candidates of the rules' sources, pinned items before them; `rules.reasons` names each one's source."""
    finders = [_guarded(source.name, finder(source, want, bundle, catalogue), meter) for source in rules.sources]
    quotas = list(rules.quotas(want.limit))
    if len(rules.pinned):
        finders.insert(0, lambda limit: first(rules.pinned, limit, want.eligible))
        quotas.insert(0, len(rules.pinned))
    found = merge(finders, quotas, want.limit, fill(want, catalogue))
    names = rules.reasons
    for index, n in enumerate(np.bincount(found.source + 1, minlength=len(finders) + 1).tolist()):
        if n:
            meter.candidates(names[index - 1], n)
    return found


def _guarded(name: str, find: Find, meter: SourceMeter) -> Find:
    def guarded(limit: int) -> Ids:
        try:
            return find(limit)
        except Unavailable:
            meter.source_failed(name)
            return NOTHING

    return guarded
