"""Clicks without the place they were made at: what people look at, apart from what appeals to them.

The position-based model: P(click) = examination(place) x appeal(item) (Richardson et al., Predicting Clicks, WWW 2007),
fitted by expectation maximisation (Wang et al., Position Bias Estimation for Unbiased Learning to Rank in Personal
Search, WSDM 2018). It asks that an item's place depends on the item and on chance, not on how much this very person
likes it; and that items meet several places, or the two factors cannot be told apart.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from pipelines.errors import BadInputError
from pipelines.evaluation.metrics import Vector

PRIOR: Final = 10.0  # impressions: an item shown less is nearer to the mean
_LIMIT: Final = 3_000
_STILL: Final = 1e-6  # no examination moves more: further steps change no order
_EDGE: Final = 1e-6


@dataclass(frozen=True, eq=False)
class PositionBias:
    """`examination` float64 (places,), 1 where people look most; `appeal` float64 (items,), P(click | looked at)."""

    examination: Vector
    appeal: Vector


def click_rates(item: npt.NDArray[np.integer], clicked: npt.NDArray[np.bool_]) -> Vector:
    """Clicks over impressions of each item, drawn to the mean by `PRIOR`: float64 (items,); blind to the place."""
    shown = np.bincount(item).astype(np.float64)
    out: Vector = (np.bincount(item, clicked) + PRIOR * clicked.mean()) / (shown + PRIOR)
    return out


def fit(item: npt.NDArray[np.integer], place: npt.NDArray[np.integer], clicked: npt.NDArray[np.bool_]) -> PositionBias:
    """Examination by place and appeal by item, of n impressions.

    Args:
        item, place: codes from 0, (n,); a place is a position, or a position on one surface.
        clicked: bool (n,).

    Raises:
        BadInputError: no clicks, or no item was shown at two places.
    """
    shape = (int(item.max(initial=-1)) + 1, int(place.max(initial=-1)) + 1)
    cell = item.astype(np.int64) * shape[1] + place
    shown = np.bincount(cell, minlength=shape[0] * shape[1]).reshape(shape).astype(np.float64)
    clicks = np.bincount(cell, clicked, minlength=shape[0] * shape[1]).reshape(shape)
    if not clicks.any():
        raise BadInputError("clicked: none; position bias cannot be seen without clicks, wait for more impressions")
    if ((shown > 0).sum(axis=1) < 2).all():
        raise BadInputError(
            "place: no item was shown at two; serve with exploration slots, so that items change places"
        )
    at_place, of_item = np.maximum(shown.sum(axis=0), 1.0), shown.sum(axis=1) + PRIOR
    by_place = clicks.sum(axis=0) / at_place
    examination = np.clip(by_place / by_place.max(), _EDGE, 1 - _EDGE)  # at 1, all were looked at and no step moves it
    appeal, mean, missed = click_rates(item, clicked), clicked.mean(), shown - clicks
    for _ in range(_LIMIT):
        unclicked = 1.0 - np.outer(appeal, examination)
        looked = clicks + missed * (examination * (1.0 - appeal)[:, None]) / unclicked
        liked = clicks + missed * (appeal[:, None] * (1.0 - examination)) / unclicked
        found = looked.sum(axis=0) / at_place
        top = found.max()  # examination over a constant and appeal times it mean the same clicks: so the most is 1
        typical = min(mean / examination.mean(), 1.0)
        appeal = np.clip(top * (liked.sum(axis=1) + PRIOR * typical) / of_item, _EDGE, 1 - _EDGE)
        found = np.clip(found / top, _EDGE, 1 - _EDGE)
        moved, examination = np.abs(found - examination).max(), found
        if moved < _STILL:
            break
    return PositionBias(examination / examination.max(), appeal)
