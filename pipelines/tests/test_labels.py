"""Labels are what happened within the attribution window, and none are given before it has closed."""

import numpy as np
import pytest
import yaml
from definitions.events import EventColumns
from definitions.usecase import UseCase
from pipelines.training.candidates import Candidates
from pipelines.training.labels import Labels, label_candidates

SECOND = 1_000_000
WINDOW = 60 * SECOND
VIEW, WATCH, LIKE, HIDE = range(4)
FEED = """
usecase: feed
actions: [{name: view}, {name: watch}, {name: like, label: 1}, {name: hide}]
label: {examples: [view], positive: {like: null, watch: {if_value_at_least: 20}}, window: 1m}
heads: {like: 1, hide: -5, seconds: {weight: 0.1, value: watch}, long: {positive: {watch: {if_value_at_least: 20}}}}
"""


@pytest.fixture(scope="module")
def feed() -> UseCase:
    return UseCase.model_validate(yaml.safe_load(FEED))


def log(*rows: tuple[int, int, int, float, float, int]) -> EventColumns:
    """(user, item, action, value, seconds, request) each; the log's order is the rows'."""
    user, item, action, value, seconds, request = zip(*rows, strict=True)
    return EventColumns.of(
        len(rows), event_id=np.arange(101, 101 + len(rows)), user_id=user, item_id=item, action=action, value=value,
        event_time_us=(np.array(seconds) * SECOND).astype(np.int64), request_id=request, offset=np.arange(len(rows)),
    )  # fmt: skip


def views(usecase: UseCase, events: EventColumns, known_until_s: float = 1e6) -> Labels:
    """Of all views, in log order."""
    rows = Candidates.of_events(events, np.flatnonzero(usecase.is_example(events.action)))
    return label_candidates(usecase, rows, events, int(known_until_s * SECOND))


def test_a_view_is_positive_if_a_positive_event_follows_in_time(feed: UseCase) -> None:
    """Of the same user and item, not before it, before the window ends. The row keeps the id of its own event."""
    events = log(
        (1, 7, VIEW, 0, 100, 0),
        (1, 7, LIKE, 0, 100, 0),  # in the same second: after it as far as one can tell
        (2, 7, VIEW, 0, 100, 0),
        (2, 7, LIKE, 0, 160, 0),  # as the window closes
        (3, 7, LIKE, 0, 99, 0),
        (3, 7, VIEW, 0, 100, 0),
        (4, 7, VIEW, 0, 100, 0),
        (4, 8, LIKE, 0, 101, 0),
        (5, 7, VIEW, 0, 100, 0),
        (5, 7, WATCH, 19, 101, 0),  # too short
        (5, 7, WATCH, 20, 102, 0),
    )

    labels = views(feed, events)

    assert [1, 0, 0, 0, 1] == labels.label.tolist()
    assert [101, 103, 106, 107, 109] == labels.event_id.tolist()


def test_a_regression_predicts_the_value_that_followed(feed: UseCase) -> None:
    """The first one in the window, 0 where none came."""
    label = feed.label.model_copy(update={"value": "watch"})
    events = log(
        (1, 7, VIEW, 0, 100, 0),
        (1, 7, LIKE, 0, 101, 0),
        (1, 7, WATCH, 12.5, 110, 0),
        (1, 7, WATCH, 40, 120, 0),
        (2, 7, VIEW, 0, 100, 0),
    )

    labels = views(feed.model_copy(update={"label": label}), events)

    assert [12.5, 0] == labels.value.tolist()
    assert [101, 105] == labels.event_id.tolist()


def test_a_request_joins_its_own_answers_only(feed: UseCase) -> None:
    """The same item shown twice: each showing has its own outcome, whatever the product's clock says."""
    events = log(
        (1, 7, VIEW, 0, 100, 11),
        (1, 7, VIEW, 0, 110, 12),
        (1, 7, LIKE, 0, 109, 12),  # a clock that is behind
        (2, 7, VIEW, 0, 100, 13),
        (2, 7, LIKE, 0, 161, 13),  # too late
        (3, 7, VIEW, 0, 100, 14),
        (3, 7, LIKE, 0, 101, 0),  # organic: it answers no request
    )

    assert [0, 1, 0, 0] == views(feed, events).label.tolist()


def test_an_event_that_can_be_positive_judges_itself() -> None:
    """A rating needs no window: it is final at once, below the bound it is negative, and it is its own event."""
    ratings = UseCase.model_validate(
        yaml.safe_load("{usecase: r, actions: [{name: rate, label: {if_value_at_least: 4, weight: 1}}]}")
    )
    events = log((1, 7, 0, 3, 100, 0), (1, 7, 0, 5, 101, 0))

    labels = views(ratings, events, known_until_s=101)

    assert [0, 1] == labels.label.tolist()
    assert [101, 102] == labels.event_id.tolist()
    assert labels.closed.all()


def test_an_open_window_is_not_a_negative(feed: UseCase) -> None:
    """The newest views have not been answered yet: counted as negatives they would teach that new is bad."""
    events = log((1, 7, VIEW, 0, 100, 0), (2, 7, VIEW, 0, 130, 0), (3, 7, VIEW, 0, 100, 0))

    assert [True, False, True] == views(feed, events, known_until_s=160).closed.tolist()
    assert [True, True, True] == views(feed, events, known_until_s=190).closed.tolist()
    assert [False, False, False] == views(feed, events, known_until_s=159.9).closed.tolist()


def test_an_outcome_that_arrives_late_corrects_the_label(feed: UseCase) -> None:
    """Place in the log means nothing, the event's time does."""
    early = log((1, 7, VIEW, 0, 100, 0), (2, 7, VIEW, 0, 500, 0))
    late = log((1, 7, VIEW, 0, 100, 0), (2, 7, VIEW, 0, 500, 0), (1, 7, LIKE, 0, 130, 0))

    assert [0, 0] == views(feed, early).label.tolist()
    assert [1, 0] == views(feed, late).label.tolist()


def test_each_head_has_a_label_of_its_own(feed: UseCase) -> None:
    """Probabilities are 0 or 1, a regression head is the value of the first such event, 0 without."""
    events = log(
        (1, 7, VIEW, 0, 100, 0),
        (1, 7, WATCH, 12.5, 110, 0),
        (1, 7, WATCH, 40, 120, 0),
        (1, 7, HIDE, 0, 130, 0),
        (2, 7, VIEW, 0, 100, 0),
    )

    heads = views(feed, events).heads

    assert {"like": [0, 0], "hide": [1, 0], "seconds": [12.5, 0], "long": [1, 0]} == {
        name: column.tolist() for name, column in heads.items()
    }
    assert all(column.dtype == np.float32 for column in heads.values())
