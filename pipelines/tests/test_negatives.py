"""Negatives that were left out or drawn change what a model sees, never what its scores mean."""

import numpy as np
import numpy.typing as npt
import pytest
from definitions.events import EventColumns
from millrace.events.v1 import events_pb2 as pb
from pipelines.datasets import split_times
from pipelines.training.candidates import Candidates
from pipelines.training.negatives import draw_negatives, mixed, sampling_shift, thin_negatives, undo_sampling
from sklearn.linear_model import LogisticRegression

N = 20_000
KEEP = 0.1
Floats = npt.NDArray[np.float64]


def clicks() -> tuple[Floats, npt.NDArray[np.int64], npt.NDArray[np.uint64]]:
    """A known world: the logit is 2 x - 3, so that 13 % click."""
    draw = np.random.default_rng(0)
    x = draw.normal(size=(N, 1))
    label = (draw.random(N) < 1 / (1 + np.exp(3 - 2 * x[:, 0]))).astype(np.int64)
    return x, label, mixed(np.arange(N, dtype=np.uint64))


def test_sampling_is_undone() -> None:
    """A model of a tenth of the negatives overrates; undone, its mean is the rate of clicks, as the gate asks."""
    x, label, keys = clicks()
    split = thin_negatives(split_times(np.arange(N)), keys, label, KEEP)
    score = LogisticRegression().fit(x[split.fit], label[split.fit]).predict_proba(x[split.test])[:, 1]
    base = label[split.test].mean()

    undone = undo_sampling(score, KEEP)

    assert score.mean() / base > 2
    assert undone.mean() / base == pytest.approx(1, abs=0.05)
    logit = np.log(score / (1 - score)) + sampling_shift(KEEP)
    np.testing.assert_allclose(undone, 1 / (1 + np.exp(-logit)), rtol=1e-12)


def test_only_negatives_of_the_fit_part_are_thinned() -> None:
    """Positives stay, and validation and test rows are the world as it is."""
    _, label, keys = clicks()
    whole = split_times(np.arange(N))

    thinned = thin_negatives(whole, keys, label, KEEP)

    np.testing.assert_array_equal(whole.valid, thinned.valid)
    np.testing.assert_array_equal(whole.test, thinned.test)
    positive = label == 1
    np.testing.assert_array_equal(whole.fit & positive, thinned.fit & positive)
    assert (thinned.fit & ~positive).sum() / (whole.fit & ~positive).sum() == pytest.approx(KEEP, abs=0.01)
    assert whole is thin_negatives(whole, keys, label, 1.0)


def test_a_row_is_kept_or_not_whatever_the_others_are() -> None:
    """A label that is corrected, or rows that are added, change no other draw; another seed changes them."""
    _, label, keys = clicks()
    whole = split_times(np.arange(N))
    corrected = label.copy()
    corrected[5] = 1 - corrected[5]

    first, second, other = (
        thin_negatives(whole, keys, labels, KEEP, seed=seed).fit
        for labels, seed in ((label, 0), (corrected, 0), (label, 1))
    )

    assert set(np.flatnonzero(first != second).tolist()) <= {5}
    assert (first != other).any()


@pytest.fixture
def events() -> EventColumns:
    """Item 1 has 900 events, item 2 has 100, and item 3 begins after all others; user 50 has met item 2."""
    user = np.r_[np.arange(100, 1100), 50, np.arange(2000, 2100)]
    item = np.r_[np.repeat([1, 2], [900, 100])[np.random.default_rng(1).permutation(1000)], 2, np.repeat(3, 100)]
    return EventColumns.of(1101, user_id=user, item_id=item, event_time_us=np.arange(1101) * 10)


def asked(n: int, time_us: int, first_user: int = 10_000) -> Candidates:
    users = np.arange(first_user, first_user + n)
    return Candidates.of_events(
        EventColumns.of(n, user_id=users, item_id=np.full(n, 9), event_time_us=np.full(n, time_us), device=users),
        np.arange(n),
    )


def test_popular_items_are_drawn_as_often_as_they_had_events_so_far(events: EventColumns) -> None:
    """What becomes popular later is not drawn earlier: that would be the future."""
    drawn = draw_negatives(asked(3000, 10_005), "popularity", 1, events, {})

    assert {1, 2} == set(drawn.item_id.tolist())
    assert (drawn.item_id == 1).mean() == pytest.approx(0.9, abs=0.03)
    assert drawn.sampled.all()
    np.testing.assert_array_equal(drawn.user_id, drawn.device)


def test_uniform_draws_are_from_what_the_catalogue_had(events: EventColumns) -> None:
    """Items without any event are there, those whose first event is yet to come, or that were deleted, are not."""
    items = {key: pb.Item(id=key, deleted=key == 5) for key in (1, 2, 3, 4, 5)}

    drawn = draw_negatives(asked(3000, 10_005), "uniform", 1, events, items).item_id

    shares = {item: float((drawn == item).mean()) for item in np.unique(drawn).tolist()}
    assert {
        1: pytest.approx(1 / 3, abs=0.03),
        2: pytest.approx(1 / 3, abs=0.03),
        4: pytest.approx(1 / 3, abs=0.03),
    } == (shares)


def test_what_the_user_has_met_is_no_negative_and_none_is_there_twice(events: EventColumns) -> None:
    """Ten draws of two items give each user at most two rows."""
    drawn = draw_negatives(asked(1, 10_005, first_user=50), "uniform", 10, events, {})
    of_two = draw_negatives(asked(5, 10_005), "uniform", 10, events, {})

    assert {1} == set(drawn.item_id.tolist())
    assert 1 == len(drawn)
    assert 10 == len(of_two)


def test_before_the_first_event_nothing_is_drawn(events: EventColumns) -> None:
    """There is no popularity yet."""
    assert 0 == len(draw_negatives(asked(5, 0), "popularity", 3, events, {}))
