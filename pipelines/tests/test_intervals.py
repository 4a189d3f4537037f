"""Bootstrap by user: each figure is that of really drawn rows, intervals cover the truth, differences are paired."""

import math

import numpy as np
import numpy.typing as npt
import pytest
from pipelines.evaluation import metrics
from pipelines.evaluation.intervals import METRICS, Bootstrap

RESAMPLES = 8


def _rows(users: int = 30, n: int = 400, seed: int = 0) -> tuple[npt.NDArray, npt.NDArray, npt.NDArray]:
    rng = np.random.default_rng(seed)
    owner = rng.integers(1000, 1000 + users, n)
    labels = rng.integers(0, 2, n)
    return owner, labels, np.clip(0.3 * labels + 0.7 * rng.random(n), 0.01, 0.99)


def _drawn(bootstrap: Bootstrap, owner: npt.NDArray) -> npt.NDArray[np.int64]:
    """How often each user was drawn, (resamples, users)."""
    keys, rows = np.unique(owner, return_inverse=True)
    first = np.unique(rows, return_index=True)[1]
    marks = [np.isin(np.arange(len(owner)), first[i]).astype(float) for i in range(len(keys))]
    return bootstrap.sums(*marks).astype(np.int64)


@pytest.mark.parametrize("metric", list(METRICS))
@pytest.mark.parametrize("decimals", [1, 12])
def test_a_replicate_is_the_metric_of_the_rows_that_were_drawn(metric: str, decimals: int) -> None:
    """A user drawn twice is two users with the same rows; also with many tied scores."""
    owner, labels, scores = _rows()
    scores = np.clip(np.round(scores, decimals), 0.01, 0.99)
    if metric == "ndcg_at_10":
        scores = scores + 1e-9 * np.arange(len(scores))  # its ties are broken at random: copies would differ by intent
    bootstrap = Bootstrap(owner, resamples=RESAMPLES, seed=3)

    for times, found in zip(_drawn(bootstrap, owner), bootstrap.replicates(metric, labels, scores), strict=True):
        copies = [
            (rows, np.full(len(rows), copy * 1000 + user))
            for user, count in enumerate(times)
            for copy in range(count)
            for rows in [np.flatnonzero(owner == np.unique(owner)[user])]
        ]
        taken = np.concatenate([rows for rows, _ in copies])
        who = np.concatenate([names for _, names in copies])
        assert METRICS[metric].point(labels[taken], scores[taken], who) == pytest.approx(found, abs=1e-12)


def test_each_user_is_drawn_as_often_as_there_are_users() -> None:
    """In every resample the draws sum to the number of users, and the same seed draws the same."""
    owner, _, _ = _rows()
    times = _drawn(Bootstrap(owner, resamples=50, seed=5), owner)

    assert (times.sum(axis=1) == times.shape[1]).all()
    assert (times == _drawn(Bootstrap(owner, resamples=50, seed=5), owner)).all()
    assert (times != _drawn(Bootstrap(owner, resamples=50, seed=6), owner)).any()


def test_intervals_by_user_cover_the_truth_and_intervals_by_row_do_not() -> None:
    """300 worlds of 40 users whose means differ: 95 % intervals hold the true mean in about 95 % of them."""
    rng = np.random.default_rng(1)
    covered = {"user": 0, "row": 0}
    for world in range(300):
        owner = np.repeat(np.arange(40), 10)
        values = np.repeat(rng.normal(0, 1, 40), 10) + rng.normal(0, 1, 400)
        for unit, keys in (("user", owner), ("row", np.arange(400))):
            drawn = Bootstrap(keys, resamples=200, seed=world)
            found = drawn.of(drawn.mean(values), float(values.mean()))
            covered[unit] += found.low <= 0 <= found.high

    assert 0.90 <= covered["user"] / 300 <= 0.98
    assert covered["row"] / 300 < 0.7


def test_differences_are_paired() -> None:
    """Two models of the same rows rise and fall together: the difference is surer than either; of equals it is 0."""
    owner, labels, scores = _rows(users=50, n=3000)
    better = np.clip(scores + 0.02 * labels, 0, 1)
    bootstrap = Bootstrap(owner)
    one, two = bootstrap.interval("auc", labels, scores), bootstrap.interval("auc", labels, better)
    gain = bootstrap.difference("auc", labels, better, scores)
    same = bootstrap.difference("auc", labels, scores, scores)

    assert two.value - one.value == pytest.approx(gain.value)
    assert 0 < gain.low <= gain.value <= gain.high
    assert gain.high - gain.low < 0.5 * (two.high - two.low)
    assert (0.0, 0.0, 0.0) == (same.value, same.low, same.high)


def test_a_wider_level_gives_a_wider_interval() -> None:
    """99 % holds 95 % inside it."""
    owner, labels, scores = _rows()
    narrow = Bootstrap(owner, level=0.95).interval("logloss", labels, scores)
    wide = Bootstrap(owner, level=0.99).interval("logloss", labels, scores)

    assert wide.low < narrow.low < narrow.value < narrow.high < wide.high
    assert metrics.log_loss(labels, scores) == pytest.approx(narrow.value)


def test_one_user_or_one_class_tells_nothing() -> None:
    """No interval that pretends: infinite, and None in JSON."""
    _, labels, scores = _rows()
    alone = Bootstrap(np.ones(len(labels), np.uint64)).interval("auc", labels, scores)
    one_class = Bootstrap(np.arange(len(labels))).interval("auc", np.ones_like(labels), scores)

    assert (-math.inf, math.inf) == (alone.low, alone.high)
    assert (-math.inf, math.inf) == (one_class.low, one_class.high)
    assert {"value": None, "low": None, "high": None, "level": 0.95} == one_class.as_dict()


def test_rows_of_another_set_are_refused() -> None:
    """Labels or scores that are not one a row."""
    owner, labels, scores = _rows()

    with pytest.raises(ValueError, match="399 scores for 400 rows"):
        Bootstrap(owner).replicates("auc", labels, scores[:-1])
