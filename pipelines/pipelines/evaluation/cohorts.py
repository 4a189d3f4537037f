"""Groups of rows that an average hides: people and items that training never met or hardly knows, devices."""

from collections.abc import Collection, Mapping
from typing import Final

import numpy as np
import numpy.typing as npt

from pipelines.evaluation.intervals import LEVEL, RESAMPLES, Bootstrap, Interval
from pipelines.evaluation.metrics import Labels, Vector

COLD_USERS, WARM_USERS = "cold users", "warm users"
HEAD_ITEMS, TAIL_ITEMS = "head items", "tail items"
ALL: Final = "all rows"
COHORT_METRICS: Final = ("auc", "gauc", "logloss", "calibration")  # what reports and model cards say of each
HEAD_SHARE: Final = 0.5  # of the past rows: the fewest items that make it up are the head

Ids = npt.NDArray[np.uint64]
Mask = npt.NDArray[np.bool_]


def cohort_masks(
    past_users: Ids,
    past_items: Ids,
    users: Ids,
    items: Ids,
    *,
    codes: Mapping[str, npt.NDArray[np.integer]] | None = None,
) -> dict[str, Mask]:
    """Name -> bool (n,), without empty ones. A row is in several.

    `cold users` have no row in the past (here: the rows that were trained and validated on), `warm users` do; `head
    items` are the most frequent that together make up HEAD_SHARE of the past, `tail items` all others.

    Args:
        past_users, past_items: of the past's rows, (m,).
        users, items: of the rows to divide, (n,).
        codes: more ways to divide, such as the device of each request: name -> codes (n,); 0 = unknown makes no cohort.
    """
    ids, counts = np.unique(past_items, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    share_before = np.r_[0, np.cumsum(counts[order])[:-1]] / max(int(counts.sum()), 1)
    warm, head = np.isin(users, past_users), np.isin(items, ids[order[share_before < HEAD_SHARE]])
    found = {COLD_USERS: ~warm, WARM_USERS: warm, HEAD_ITEMS: head, TAIL_ITEMS: ~head}
    for name, values in (codes or {}).items():
        found |= {f"{name} {code}": values == code for code in np.unique(values[values != 0]).tolist()}
    return {name: mask for name, mask in found.items() if mask.any()}


def measure(
    labels: Labels,
    scores: Vector,
    users: Ids,
    metrics: Collection[str],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = LEVEL,
) -> dict[str, Interval]:
    """Each of `intervals.METRICS` that is asked for, with its interval by user."""
    drawn = Bootstrap(users, resamples=resamples, seed=seed, level=level)
    return {name: drawn.interval(name, labels, scores) for name in metrics}


def by_cohort(
    masks: Mapping[str, Mask], labels: Labels, scores: Vector, users: Ids, metrics: Collection[str], *, seed: int = 0
) -> dict[str, dict[str, Interval]]:
    """Cohort -> metric -> interval, all rows first."""
    every = {ALL: np.ones(len(labels), bool), **masks}
    return {name: measure(labels[mask], scores[mask], users[mask], metrics, seed=seed) for name, mask in every.items()}
