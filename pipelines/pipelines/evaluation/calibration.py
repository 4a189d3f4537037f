"""Whether a score of .7 comes true seven times in ten: the curve behind ECE, with intervals by user."""

from dataclasses import dataclass

import numpy as np

from pipelines.evaluation.intervals import LEVEL, Bootstrap
from pipelines.evaluation.metrics import Groups, Labels, Vector


@dataclass(frozen=True, eq=False)
class Curve:
    """Bins of about equally many rows, by ascending score, all (b,): `score` and `rate` are means of score and label,
    [`low`, `high`] holds the rate with probability `level`, `rows` int64 are the rows of each.
    """

    score: Vector
    rate: Vector
    low: Vector
    high: Vector
    rows: Groups
    level: float = LEVEL


def curve(labels: Labels, scores: Vector, users: Groups, *, bins: int = 10, seed: int = 0) -> Curve:
    """Of (n,) scores in [0, 1] for (n,) labels 0/1. Equal scores share a bin, so there may be fewer than `bins`."""
    inner = np.unique(np.quantile(scores, np.linspace(0, 1, bins + 1)[1:-1], method="higher"))
    place = np.unique(np.searchsorted(inner, scores, side="right"), return_inverse=True)[1]
    count = int(place.max()) + 1
    rows = np.bincount(place, minlength=count)
    drawn = Bootstrap(users, seed=seed)
    positive = drawn.cells(place, count, np.asarray(labels, np.float64))
    total = drawn.cells(place, count, np.ones(len(labels)))
    with np.errstate(invalid="ignore", divide="ignore"):
        rates = np.where(total > 0, positive / total, np.nan)
    rate = np.bincount(place, np.asarray(labels, np.float64), count) / rows
    intervals = [drawn.of(rates[:, each], float(rate[each])) for each in range(count)]
    return Curve(
        score=np.bincount(place, scores, count) / rows,
        rate=rate,
        low=np.clip([each.low for each in intervals], 0, 1),
        high=np.clip([each.high for each in intervals], 0, 1),
        rows=rows,
    )
