"""Training rows from what was shown: the features that were scored, the outcome by request, each once."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from definitions.backfill import Queries, backfill
from definitions.events import EventColumns
from definitions.impressions import packed
from definitions.layout import Layout, layout_of
from definitions.learning import Negatives, Target
from definitions.usecase import UseCase
from millrace.events.v1 import events_pb2 as pb
from pipelines.datasets import split_times
from pipelines.errors import BadInputError, TrainingError
from pipelines.training.examples import Examples, Log, Mode, build_examples, examples_table
from stores.offline import Lake, app_id
from stores.offline.rows import impressions_table, interactions_table, users_table

LOG = "a-log"
BEGIN_US = 1_700_000_000_000_000
SECOND = 1_000_000
VIEW, RATE = 0, 1
YEAR, MARK = "i_year", np.float32(4096)  # added to logged years, to tell them from backfilled ones


@dataclass
class Stack:
    """What a running stack leaves in the lake: a history, requests and their answers."""

    usecase: UseCase
    lake: Lake
    events: list[tuple[int, int, int, int, float, float, int]] = field(default_factory=list)
    impressions: list[pb.Impression] = field(default_factory=list)

    @property
    def layout(self) -> Layout:
        return layout_of(self.usecase)

    def event(self, user: int, item: int, action: int, seconds: float, *, value: float = 0, request: int = 0) -> int:
        """One more record; its event_id."""
        self.events.append((1001 + len(self.events), user, item, action, value, seconds, request))
        return self.events[-1][0]

    def show(
        self, request: int, user: int, items: Sequence[int], seconds: float, *, unshown: Sequence[int] = ()
    ) -> None:
        """Items in shown order, then candidates that were scored only; features as the log says, but marked."""
        ids, n = [*items, *unshown], len(items) + len(unshown)
        at_us = BEGIN_US + round(seconds * SECOND)
        filled = backfill(self.layout, self._columns(), {}, {}, Queries.of([user] * n, ids, [at_us] * n))
        self.impressions.append(
            pb.Impression(
                request_id=request, user_id=user, time_us=at_us, usecase="films", item_ids=ids, scores=[0.5] * n,
                propensities=[1.0] * n, positions=[*range(1, len(items) + 1), *[0] * len(unshown)], reasons=["r"] * n,
                features=(filled.features + MARK * (np.array(self.layout.feature_names) == YEAR)).tobytes(),
                int_features=filled.user_ints[0].tobytes() + filled.item_ints.tobytes(),
                layout_hash=self.layout.layout_hash,
            )
        )  # fmt: skip

    def archive(self, erased: Sequence[int] = ()) -> "Stack":
        """Everything so far, as the archiver writes it."""
        events = self._columns()
        shown = [(offset, each.time_us) for offset, each in enumerate(self.impressions)]
        gone = [pb.User(id=user, deleted=True) for user in erased]
        for table, rows, n in (
            ("interactions", interactions_table(LOG, events), len(events)),
            ("impressions", impressions_table(LOG, 0, shown, list(map(packed, self.impressions))), len(shown)),
            ("users", users_table(LOG, 0, [(i, 0) for i in range(len(gone))], gone), len(gone)),
        ):
            self.lake.append(table, rows, app_id=app_id(LOG, f"films.{table}", 0), version=n)
        return self

    def examples(self, mode: Mode = "auto") -> Examples:
        return build_examples(self.layout, Log.of_lake(self.lake, 2**20), mode=mode, lake=self.lake)

    def _columns(self) -> EventColumns:
        event_id, user, item, action, value, seconds, request = zip(*self.events, strict=True)
        times = BEGIN_US + (np.array(seconds) * SECOND).astype(np.int64)
        return EventColumns.of(
            len(self.events), event_id=event_id, user_id=user, item_id=item, action=action, value=value,
            event_time_us=times, request_id=request, offset=np.arange(len(times)), timestamp_us=times,
        )  # fmt: skip


def of_impressions(films: UseCase) -> UseCase:
    """Shown items are the examples; a good rating within a minute makes one positive."""
    label = Target.model_validate({"positive": {"rate": {"if_value_at_least": 4}}, "window": "1m"})
    return films.model_copy(update={"label": label, "negatives": Negatives(source="impressions")})


@pytest.fixture
def stack(films: UseCase, tmp_path: Path) -> Stack:
    """Two requests with their answers, and a last event long after."""
    stack = Stack(of_impressions(films), Lake(tmp_path / "lake", "films"))
    stack.event(1, 7, RATE, 0, value=5)
    stack.show(11, 1, [7, 8], 100, unshown=[9])
    stack.show(12, 2, [8], 110)
    stack.event(1, 8, RATE, 130, value=4, request=11)
    stack.event(1, 7, RATE, 131, value=2, request=11)
    stack.event(2, 8, RATE, 180, value=5, request=12)  # 10 s after its window
    stack.event(3, 8, VIEW, 300)
    return stack


def of(rows: Examples) -> dict[tuple[int, int], int]:
    """(request, item) -> label."""
    return dict(
        zip(zip(rows.request_id.tolist(), rows.item_id.tolist(), strict=True), rows.label.tolist(), strict=True)
    )


def is_marked(stack: Stack, rows: Examples) -> list[bool]:
    year = rows.features[:, stack.layout.feature_names.index(YEAR)]
    return (year >= MARK).tolist()


def test_shown_items_are_labelled_by_the_answers_to_their_request(stack: Stack) -> None:
    """With the features that were scored then. A candidate that nobody saw is no negative."""
    rows = stack.archive().examples("logged")

    assert {(11, 7): 0, (11, 8): 1, (12, 8): 0} == of(rows)
    assert rows.logged.all()
    assert all(is_marked(stack, rows))
    rated = stack.layout.feature_names.index("u_rated_all")
    assert {(11, 1), (12, 0)} == set(zip(rows.request_id.tolist(), rows.features[:, rated].tolist(), strict=True))
    assert 1002 == rows.event_id[rows.label == 1][0]
    assert {0} == set(rows.event_id[rows.label == 0].tolist())


def test_resent_events_and_impressions_count_once(stack: Stack, tmp_path: Path) -> None:
    """Delivery is at least once: a repeated event_id is one outcome, a repeated request one showing."""
    expected = of(stack.archive().examples("logged"))
    stack.lake = Lake(tmp_path / "again", "films")
    stack.impressions.append(stack.impressions[0])
    stack.events.append(stack.events[1])

    rows = stack.archive().examples("logged")

    assert len(expected) == len(rows)
    assert expected == of(rows)


def test_what_a_shadow_scored_is_no_impression(stack: Stack, tmp_path: Path) -> None:
    """It was shown to nobody; here it even stands on the log before the answer whose request it names."""
    expected = of(stack.archive().examples("logged"))
    stack.lake = Lake(tmp_path / "again", "films")
    copy = pb.Impression()
    copy.CopyFrom(stack.impressions[0])
    copy.arm = "shadow:9"
    copy.positions[:] = [0] * len(copy.positions)
    stack.impressions.insert(0, copy)

    assert expected == of(stack.archive().examples("logged"))


def test_an_open_window_is_left_out_and_its_late_outcome_counts_later(stack: Stack, tmp_path: Path) -> None:
    """Planted: were open windows negative, request 13 would be one, and wrong."""
    stack.show(13, 2, [7], 290)  # the log is known up to second 300
    assert (13, 7) not in of(stack.archive().examples("logged"))

    stack.lake = Lake(tmp_path / "again", "films")
    stack.event(3, 8, VIEW, 400)
    assert 0 == of(stack.archive().examples("logged"))[13, 7]

    stack.lake = Lake(tmp_path / "later", "films")
    stack.event(2, 7, RATE, 349, value=5, request=13)  # on the log after what happened later
    assert 1 == of(stack.archive().examples("logged"))[13, 7]


def test_erased_users_have_no_rows(stack: Stack) -> None:
    """Neither logged nor backfilled."""
    stack.archive(erased=[1])

    with pytest.raises(TrainingError, match="1 examples with 0 positive"):
        stack.examples("logged")
    with pytest.raises(TrainingError, match="1 examples with 0 positive"):
        stack.examples("backfill")


def test_backfill_gives_the_same_rows_from_facts(stack: Stack) -> None:
    """One interface: rows, labels and times are equal, only where the features come from differs."""
    stack.archive()
    logged, computed = stack.examples("logged"), stack.examples("backfill")
    year = stack.layout.feature_names.index(YEAR)

    for name in ("request_id", "item_id", "user_id", "event_id", "time_us", "label"):
        np.testing.assert_array_equal(getattr(logged, name), getattr(computed, name), name)
    np.testing.assert_array_equal(np.delete(logged.features, year, 1), np.delete(computed.features, year, 1))
    np.testing.assert_array_equal(logged.features[:, year] - MARK, computed.features[:, year])
    np.testing.assert_array_equal(logged.user_ints, computed.user_ints)
    assert not computed.logged.any()
    assert logged.digest() != computed.digest()


def test_auto_backfills_only_what_was_not_logged(stack: Stack) -> None:
    """Another layout's features, or none (a rung without a model), are no features of this one. Each row says so."""
    stack.impressions[0].layout_hash += 1
    stack.show(13, 2, [9], 140)
    stack.impressions[2].features = b""
    rows = stack.archive().examples("auto")

    by_request = dict(zip(rows.request_id.tolist(), rows.logged.tolist(), strict=True))
    assert {11: False, 12: True, 13: False} == by_request
    assert rows.logged.tolist() == is_marked(stack, rows)
    stored = pl.from_arrow(examples_table(rows, split_times(np.arange(4), (0.5, 0.25, 0.25)), "films-1"))
    assert isinstance(stored, pl.DataFrame)
    assert [by_request[request] for request in stored["request_id"]] == [each == "logged" for each in stored["source"]]


def test_events_take_the_features_of_what_they_answer(stack: Stack, films: UseCase) -> None:
    """Where events are the examples, a rating that answers a request has that request's features and time; an organic
    one, or one of an item that the request did not show, is backfilled as of itself.
    """
    stack.event(1, 10, RATE, 200, value=5, request=11)
    stack.usecase = films
    rows = stack.archive().examples("auto")

    found = {
        (item, label): (logged, (time_us - BEGIN_US) // SECOND)
        for item, label, logged, time_us in zip(
            rows.item_id.tolist(), rows.label.tolist(), rows.logged.tolist(), rows.time_us.tolist(), strict=True
        )
        if item != 8
    }
    assert {(7, 1): (False, 0), (7, 0): (True, 100), (10, 1): (False, 200)} == found


def test_drawn_negatives_that_come_true_are_none(stack: Stack, films: UseCase) -> None:
    """Item 8 is drawn for users 1 and 2, who rate it well within the window: it is dropped, not counted against it."""
    label = Target.model_validate({"examples": ["rate"], "positive": ["rate"], "window": "1d"})
    negatives = Negatives(source="uniform", per_positive=50)
    stack.usecase = films.model_copy(update={"label": label, "negatives": negatives})
    stack.event(9, 6, VIEW, 0)
    stack.event(9, 6, VIEW, 100_000)
    rows = stack.archive().examples("backfill")

    drawn = {(user, item) for user, item, y in zip(rows.user_id, rows.item_id, rows.label, strict=True) if not y}
    assert {(1, 6), (2, 6), (2, 7)} == drawn


@pytest.mark.parametrize("mode", ["logged", "auto"])
def test_a_data_set_has_no_impressions(stack: Stack, mode: Mode) -> None:
    """Said with what to do instead."""
    log = Log.of_lake(stack.archive().lake, 2**20)

    with pytest.raises(BadInputError, match="lake of a running stack"):
        build_examples(stack.layout, log, mode=mode)


def test_nothing_logged_says_what_to_check(stack: Stack) -> None:
    """Rather than train on nothing."""
    stack.impressions.clear()

    with pytest.raises(TrainingError, match="0 examples"):
        stack.archive().examples("logged")
