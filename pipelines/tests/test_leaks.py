"""Each structural leak check is green on our own training set and red on a planted leak."""

from dataclasses import replace

import numpy as np
import pytest
from definitions.backfill import Queries, backfill
from definitions.layout import Layout, layout_of
from definitions.usecase import find_usecase
from pipelines.datasets import build_dataset
from pipelines.datasets.synthetic import synthetic_world
from pipelines.errors import LeakError
from pipelines.training import leaks
from pipelines.training.examples import Examples, Log, build_examples
from servicekit.settings import checkout_root


@pytest.fixture(scope="module")
def layout() -> Layout:
    return layout_of(find_usecase("movies", checkout_root() / "usecases"))


@pytest.fixture(scope="module")
def log(layout: Layout) -> Log:
    return Log.of_dataset(build_dataset(layout.usecase, synthetic_world(users=60, items=80, events=1500, seed=1)))


@pytest.fixture(scope="module")
def examples(layout: Layout, log: Log) -> Examples:
    return build_examples(layout, log)


def test_our_own_rows_know_no_future(layout: Layout, log: Log, examples: Examples) -> None:
    """No cell moves, no column tells, and streaming gives the same rows."""
    findings = [
        leaks.changed_by_the_future(layout, log),
        leaks.telling_columns(layout.feature_names, examples.features, examples.label),
        leaks.replayed(layout, log, examples, rows=100),
    ]

    assert all(found.holds for found in findings), findings
    leaks.refuse(findings)


def test_an_event_in_its_own_aggregate_is_red(layout: Layout, log: Log) -> None:
    """Features as of a microsecond later hold the row's own event."""

    def peeking(layout: Layout, log: Log) -> Examples:
        asked = log.events
        late = Queries.of(asked.user_id, asked.item_id, asked.event_time_us + 1)
        rows = backfill(layout, log.events, log.users, log.items, late).features
        honest = build_examples(layout, log)
        order = np.argsort(asked.event_time_us, kind="stable")
        return replace(honest, features=rows[order])

    found = leaks.changed_by_the_future(layout, log, build=peeking)

    assert not found.holds
    assert {"u_liked_all", "i_stars_all"} <= set(found.columns)
    with pytest.raises(LeakError, match="u_liked_all"):
        leaks.refuse([found])


def test_a_count_that_includes_the_present_is_red(layout: Layout, log: Log) -> None:
    """Its values are no label, so only events that were not there before can tell."""

    def counting(layout: Layout, log: Log) -> Examples:
        rows = build_examples(layout, log)
        order = np.lexsort((log.events.event_time_us, log.events.item_id))
        pairs = np.rec.fromarrays([log.events.item_id[order], log.events.event_time_us[order]])
        asked = np.rec.fromarrays([rows.item_id, rows.time_us], dtype=pairs.dtype)
        until = np.searchsorted(pairs, asked, side="right") - np.searchsorted(log.events.item_id[order], rows.item_id)
        features = rows.features.copy()
        features[:, layout.feature_names.index("i_rated_all")] = until
        return replace(rows, features=features)

    found = leaks.changed_by_the_future(layout, log, build=counting)

    assert (False, ("i_rated_all",)) == (found.holds, found.columns)


def test_means_of_the_whole_data_are_red(layout: Layout, log: Log) -> None:
    """An item's mean label over all time, in every row of it."""

    def whole(layout: Layout, log: Log) -> Examples:
        rows = build_examples(layout, log)
        _, place = np.unique(rows.item_id, return_inverse=True)
        means = np.bincount(place, rows.label) / np.bincount(place)
        features = rows.features.copy()
        features[:, layout.feature_names.index("i_liked_all")] = means[place]
        return replace(rows, features=features)

    found = leaks.changed_by_the_future(layout, log, build=whole)

    assert (False, ("i_liked_all",)) == (found.holds, found.columns)


def test_a_planted_column_of_the_future_is_named(layout: Layout, examples: Examples) -> None:
    """Alone it knows the label; also where it is its opposite."""
    names = (*layout.feature_names, "planted", "opposite")
    planted = np.c_[examples.features, examples.label * 3.0, 1.0 - examples.label].astype(np.float32)

    found = leaks.telling_columns(names, planted, examples.label)

    assert (False, ("planted", "opposite")) == (found.holds, found.columns)


def test_shuffled_labels(examples: Examples) -> None:
    """Chance passes; a model that knows the labels does not."""
    test = np.arange(len(examples)) >= 1000

    def blind(rows: Examples) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        return np.random.default_rng(1).random(len(rows))

    assert leaks.shuffled_labels(examples, test, blind).holds
    assert not leaks.shuffled_labels(examples, test, lambda rows: rows.label.astype(float)).holds


def test_a_row_that_streaming_would_not_give_is_red(layout: Layout, log: Log, examples: Examples) -> None:
    """One cell that was changed by hand is found, by its name."""
    features = examples.features.copy()
    features[-1, layout.feature_names.index("i_rated_all")] += 1

    found = leaks.replayed(layout, log, replace(examples, features=features), rows=20)

    assert (False, ("i_rated_all",)) == (found.holds, found.columns)
