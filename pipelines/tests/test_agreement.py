"""Served against offline, over rows whose scores are known."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from bundle import Bundle
from definitions.events import EventColumns
from definitions.layout import Layout, layout_of
from definitions.learning import Target
from definitions.usecase import UseCase
from pipelines.agreement import compare
from pipelines.errors import TrainingError
from pipelines.replay import Served
from pipelines.training.examples import Examples

N = 40


@pytest.fixture
def layout(films: UseCase) -> Layout:
    """Of the small use case."""
    return layout_of(films)


@pytest.fixture
def bundle(layout: Layout, make_bundle: Callable[..., Bundle]) -> Bundle:
    """Its score grows with the item's ratings."""
    return make_bundle(layout, {"i_rated_all": 0.1})


@pytest.fixture
def examples(layout: Layout) -> Examples:
    """Offline rows in an order of their own; event n has n ratings before it, and odd ones are liked."""
    number = np.random.default_rng(1).permutation(N)
    features = np.zeros((N, len(layout.feature_names)), np.float32)
    features[:, layout.feature_names.index("i_rated_all")] = number
    ids = (number + 1).astype(np.uint64)
    return Examples(
        features=features,
        user_ints=np.empty((N, len(layout.user_int_names)), np.int64),
        item_ints=np.empty((N, len(layout.item_int_names)), np.int64),
        label=number % 2,
        weight=np.ones(N, np.float32),
        event_id=ids,
        user_id=np.repeat(np.uint64(7), N),
        item_id=ids,
        time_us=number * 1_000_000,
        layout_hash=layout.layout_hash,
        request_id=np.zeros(N, np.uint64),
        logged=np.zeros(N, bool),
        value=np.zeros(N, np.float32),
        heads={},
    )


@pytest.fixture
def events() -> EventColumns:
    """The replayed columns: event n is row n."""
    return EventColumns.of(N, event_id=range(1, N + 1), user_id=[7] * N, item_id=range(1, N + 1))


@pytest.fixture
def served() -> Served:
    """Exactly what offline says, answered backwards; the last row by the fallback."""
    row = np.arange(N)[::-1].copy()
    return Served(
        row=row,
        score=(1 / (1 + np.exp(-0.1 * row))).astype(np.float32),
        rung=np.array(["LOCAL_MODEL"] + ["MODEL"] * (N - 1), object),
        model_version=np.ones(N, np.int64),
        feature_age_us=np.full(N, 3_000_000),
        waited_us=np.array([0, 5_000] * (N // 2)),
        asked_again=2,
    )


def test_equal_scores_agree_in_whatever_order_they_come(
    served: Served, events: EventColumns, bundle: Bundle, layout: Layout, examples: Examples
) -> None:
    """Rows meet by event id, and the other figures are told as they are."""
    found = compare(served, events, bundle, layout, examples)

    assert (N, 0.0, 0.0) == (found.rows, found.gap, found.disagree)
    assert found.max_abs < 1e-6
    assert found.online.auc == pytest.approx(0.525)  # 210 of 400 pairs: each odd number is above those below it
    assert {"LOCAL_MODEL": 1 / N, "MODEL": 1 - 1 / N} == pytest.approx(found.rungs)
    assert ((1,), 2, 5.0, 3.0) == (found.versions, found.asked_again, found.waited_p50_ms, found.feature_age_p50_s)


def test_one_score_that_is_off_is_seen(
    served: Served, events: EventColumns, bundle: Bundle, layout: Layout, examples: Examples
) -> None:
    """It moves the AUC, is counted, and its distance is told."""
    score = served.score.copy()
    score[0] = 0.0  # row 39, a liked one, falls from the top to the bottom

    found = compare(replace(served, score=score), events, bundle, layout, examples)

    assert 1 / N == found.disagree
    assert found.gap == pytest.approx(20 / 400)
    assert found.max_abs == pytest.approx(1 / (1 + np.exp(-3.9)), abs=1e-6)


def test_a_served_event_whose_label_is_still_open_is_left_out(
    served: Served, bundle: Bundle, layout: Layout, examples: Examples
) -> None:
    """Where labels come later, the newest events have no offline row: that is no missing archive."""
    label = Target.model_validate({"examples": ["view"], "positive": ["rate"], "window": "10s"})
    waiting = replace(layout, usecase=layout.usecase.model_copy(update={"label": label}))
    times = np.arange(N) * 1_000_000
    events = EventColumns.of(N, event_id=range(1, N + 1), user_id=[7] * N, event_time_us=times)
    known = examples.take(examples.event_id <= N - 10)

    assert N - 10 == compare(served, events, bundle, waiting, known).rows
    with pytest.raises(TrainingError, match="replay more"):
        compare(served.take(served.row >= N - 10), events, bundle, waiting, known)


def test_an_event_without_an_offline_row_is_no_agreement(
    served: Served, events: EventColumns, bundle: Bundle, layout: Layout, examples: Examples
) -> None:
    """Left out in silence, it would flatter the figures."""
    unknown = EventColumns.of(N, event_id=[*range(1, N), 999], user_id=[7] * N, item_id=range(1, N + 1))

    with pytest.raises(TrainingError, match="1 of 40 served events are not in the lake"):
        compare(served, unknown, bundle, layout, examples)
