"""Candidates for `Recommend`: the rules' sources, each guarded, merged by quota and counted."""

from typing import Protocol

import numpy as np
from definitions.candidates import NOTHING, BundleSources, Candidates, Catalogue, Find, Ids, Want
from definitions.serving_rules import ServingRules
from definitions.shortlist import find_candidates

from gateway.errors import Unavailable


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
    found = find_candidates(want, rules, bundle, catalogue, lambda name, find: _guarded(name, find, meter))
    names = rules.reasons
    for index, n in enumerate(np.bincount(found.source + 1, minlength=len(names)).tolist()):
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
