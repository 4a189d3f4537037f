"""What a user may be shown, and what is found for him: filters and sources of the rules, in the gateway, in the nightly
job and where both are evaluated.
"""

from collections.abc import Callable
from typing import Protocol

import numpy as np
import numpy.typing as npt

from definitions.assembly import RequestContext
from definitions.candidates import (
    NOTHING,
    BundleSources,
    Candidates,
    Catalogue,
    Eligible,
    Find,
    Ids,
    Want,
    fill,
    finder,
    first,
    merge,
)
from definitions.item_snapshot import Attributes
from definitions.rules import MAX_CANDIDATES
from definitions.serving_rules import ServingRules
from definitions.user_values import UserAt

Guard = Callable[[str, Find], Find]
"""A source and its name -> one that survives the errors of the other."""


class Shelf(Protocol):
    """What is asked of the catalogue."""

    def known(self, item_ids: Ids) -> npt.NDArray[np.bool_]:
        """Whether each is in it, bool (n,)."""
        ...

    def attributes(self, item_ids: Ids) -> Attributes:
        """What filters read."""
        ...


def eligible_items(
    shelf: Shelf,
    rules: ServingRules,
    context: RequestContext,
    time_us: int,
    *,
    seen: Eligible | None = None,
    exclude: Ids = NOTHING,
) -> Eligible:
    """Which items a user may be shown: known ones that every filter lets pass, neither seen nor excluded.

    Args:
        shelf: the catalogue.
        rules: their filters.
        context, time_us: of the request; the filters compare with them.
        seen: which items the user has consumed; None: none.
        exclude: uint64 (k,), what the caller does not want.
    """

    def eligible(item_ids: Ids) -> npt.NDArray[np.bool_]:
        if rules.filters:
            items = shelf.attributes(item_ids)
            mask = items.known & rules.passes(items, context, time_us)
        else:
            mask = shelf.known(item_ids)
        if len(exclude):
            mask &= ~np.isin(item_ids, exclude)
        if seen is not None:
            mask &= ~seen(item_ids)
        return mask

    return eligible


def history_ids(rules: ServingRules, user: UserAt) -> Ids:
    """The items that sources search by, uint64 (k,), newest first."""
    return NOTHING if rules.history is None else user.history(rules.history)


def how_many(rules: ServingRules, shown: int) -> int:
    """Candidates for a list of so many: those that the rules rank, or as many as are shown."""
    return min(MAX_CANDIDATES, max(rules.rules.candidates.limit, shown))


def find_candidates(
    want: Want, rules: ServingRules, bundle: BundleSources, catalogue: Catalogue, guard: Guard | None = None
) -> Candidates:
    """Candidates of the rules' sources, pinned items before them; `rules.reasons` names each one's source."""
    finders = [finder(source, want, bundle, catalogue) for source in rules.sources]
    if guard is not None:
        finders = [guard(source.name, find) for source, find in zip(rules.sources, finders, strict=True)]
    quotas = list(rules.quotas(want.limit))
    if len(rules.pinned):
        finders.insert(0, lambda limit: first(rules.pinned, limit, want.eligible))
        quotas.insert(0, len(rules.pinned))
    return merge(finders, quotas, want.limit, fill(want, catalogue))
