"""Time splits never cut inside equal times."""

import numpy as np
import pytest
from pipelines.datasets import split_times
from pipelines.errors import TrainingError


def test_parts_follow_each_other_and_hold_their_shares() -> None:
    """Every fit time is before every validation time, and so on; nothing is lost."""
    times = np.random.default_rng(0).permutation(1000)

    split = split_times(times)

    assert times[split.fit].max() < times[split.valid].min() == split.valid_from_us
    assert times[split.valid].max() < times[split.test].min() == split.test_from_us
    assert [800, 100, 100] == [int(part.sum()) for part in (split.fit, split.valid, split.test)]


def test_a_cut_inside_equal_times_moves_to_their_start() -> None:
    """75.8 % of MovieLens rows share user and second: a cut between them would show the future."""
    times = np.repeat(np.arange(10), 7)

    split = split_times(times, (0.75, 0.15, 0.1))

    for part in (split.fit, split.valid, split.test):
        for other in (split.fit, split.valid, split.test):
            assert part is other or not set(times[part].tolist()) & set(times[other].tolist())
    assert np.all(split.fit | split.valid | split.test)


def test_a_gap_keeps_labels_that_were_not_known_yet_out_of_the_earlier_part() -> None:
    """A label looks one attribution window ahead: a fit row nearer to the cut would have one from validation."""
    times = np.arange(1000) * 10

    split = split_times(times, gap_us=95)

    assert times[split.fit].max() + 95 < split.valid_from_us == 8000
    assert times[split.valid].max() + 95 < split.test_from_us == 9000
    assert [791, 91, 100] == [int(part.sum()) for part in (split.fit, split.valid, split.test)]
    with pytest.raises(TrainingError, match=r"valid part .* gap of 0 s"):
        split_times(times, gap_us=1000)


def test_one_time_only_cannot_be_split() -> None:
    """An empty part is an error, not a model without validation."""
    with pytest.raises(TrainingError, match="empty"):
        split_times(np.zeros(100, np.int64))


@pytest.mark.parametrize("shares", [(0.8, 0.2), (0.8, 0.1, 0.2), (1.0, 0.0, 0.0)])
def test_shares_must_make_sense(shares: tuple[float, ...]) -> None:
    """Three positive numbers that add up to 1."""
    with pytest.raises(ValueError, match="shares"):
        split_times(np.arange(100), shares)
