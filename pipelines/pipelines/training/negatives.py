"""Fewer negatives, or drawn ones, and what makes the scores of a model that saw fewer probabilities again.

All draws are a function of the seed and the row's own ids, so that a row more, or a label corrected late, changes no
other row's draw. In-batch negatives are the model's own.
"""

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import polars as pl
from definitions.events import EventColumns
from millrace.events.v1 import events_pb2 as pb

from pipelines.datasets.split import Split
from pipelines.training.candidates import NONE, Candidates, Ids, Ints, Mask

Floats = npt.NDArray[np.float64]
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def thin_negatives(split: Split, keys: Ids, label: Ints, keep: float, *, seed: int = 0) -> Split:
    """The split with a share `keep` of the fit part's negatives; validation and test rows stay as they happened.

    Args:
        split: of n rows.
        keys: uint64 (n,), what tells a row from the others (`Examples.keys`).
        label: (n,) 0 = negative.
        keep: rate w, above 0, at most 1.
        seed: of the draw.
    """
    if keep == 1:
        return split
    return split.fitted_on((label != 0) | (_uniform(keys, seed) < keep))


def undo_sampling(score: Floats, keep: float) -> Floats:
    """Probabilities float64 (n,) of a model that was trained on a share `keep` of the negatives, among all of them:
    p = q / (q + (1 - q) / keep); He et al., Practical Lessons from Predicting Clicks on Ads at Facebook, ADKDD 2014.
    """
    return score / (score + (1 - score) / keep)


def sampling_shift(keep: float) -> float:
    """The same as something to add to the logit: log(keep). For graphs, and for trainers that score validation rows."""
    return math.log(keep)


def draw_negatives(
    positives: Candidates,
    source: str,
    per_positive: int,
    events: EventColumns,
    items: Mapping[int, pb.Item],
    *,
    seed: int = 0,
) -> Candidates:
    """`per_positive` drawn items for each positive, at its user, time and context; fewer where items repeat.

    `uniform`: of the catalogue, but none whose first event is yet to come. `popularity`: as often as an item had events
    before the positive's time. Both are known at that time. Left out is what the user had met by then; whether one is
    met within the attribution window, so that it is no negative, is for labels to say.

    Args:
        positives: n rows.
        source: `uniform` or `popularity`.
        per_positive: draws a row.
        events: the log, each event once.
        items: the catalogue, without which it is the items of the log.
        seed: of the draws.
    """
    pool, known_from_us = _popular(events) if source == "popularity" else _catalogue(events, items)
    who = np.repeat(np.arange(len(positives)), per_positive)
    drawn = positives.take(who)
    turn = np.tile(np.arange(per_positive, dtype=np.uint64), len(positives))
    size = np.searchsorted(known_from_us, drawn.time_us, side="left")
    place = (_uniform(_row_keys(positives)[who] + turn * _GOLDEN, seed) * size).astype(np.int64)
    item = pool[np.minimum(place, len(pool) - 1)]
    good = (size > 0) & ~_met_before(drawn.user_id, item, drawn.time_us, events)
    good &= (
        pl.DataFrame({"who": who, "item": item})
        .select(pl.struct("who", "item").is_first_distinct())
        .to_series()
        .to_numpy()
    )
    rows = drawn.take(good)
    n = len(rows)
    none = np.full(n, NONE, np.int64)
    return Candidates(
        rows.user_id, item[good], np.zeros(n, np.uint64), rows.time_us, rows.device, rows.surface, rows.country,
        event=none, shown=none, sampled=np.ones(n, bool),
    )  # fmt: skip


def mixed(*columns: Ids) -> Ids:
    """A uint64 (n,) that looks random and is a function of the columns (splitmix64's finaliser, Steele et al. 2014)."""
    state = np.zeros(len(columns[0]), np.uint64)
    for column in columns:
        state = (state ^ column) + _GOLDEN
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state ^= state >> np.uint64(31)
    return state


def _uniform(keys: Ids, seed: int) -> Floats:
    """In [0, 1), float64 (n,)."""
    high = mixed(keys, np.full(len(keys), seed, np.uint64)) >> np.uint64(11)
    return high.astype(np.float64) * 2.0**-53


def _row_keys(rows: Candidates) -> Ids:
    return mixed(rows.user_id, rows.item_id, rows.time_us.view(np.uint64))


def _popular(events: EventColumns) -> tuple[Ids, Ints]:
    """Items of all events in time order, and those times: a draw below the count so far is a draw by popularity."""
    order = np.argsort(events.event_time_us, kind="stable")
    return events.item_id[order], events.event_time_us[order]


def _catalogue(events: EventColumns, items: Mapping[int, pb.Item]) -> tuple[Ids, Ints]:
    """Items by the time of their first event, those without any first."""
    order = np.argsort(events.event_time_us, kind="stable")
    met, first = np.unique(events.item_id[order], return_index=True)
    first_us = events.event_time_us[order][first]
    listed = np.array([key for key, item in items.items() if not item.deleted], np.uint64)
    if len(listed):
        kept = np.isin(met, listed)
        met, first_us = met[kept], first_us[kept]
    unmet = np.sort(listed[~np.isin(listed, met)])
    by_time = np.argsort(first_us, kind="stable")
    never = np.full(len(unmet), np.iinfo(np.int64).min)
    return np.concatenate([unmet, met[by_time]]), np.concatenate([never, first_us[by_time]])


def _met_before(user: Ids, item: Ids, time_us: Ints, events: EventColumns) -> Mask:
    """Whether the user had an event with the item before the time, or at it."""
    met = pl.DataFrame({"user": events.user_id, "item": events.item_id, "met": events.event_time_us})
    first = met.group_by("user", "item").agg(pl.col("met").min())
    asked = pl.DataFrame({"user": user, "item": item, "time": time_us})
    joined = asked.join(first, on=["user", "item"], how="left", maintain_order="left")
    return joined.select((pl.col("met") <= pl.col("time")).fill_null(value=False)).to_series().to_numpy()
