"""A training sees the past only, measures honestly and ends in a bundle that verifies."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from bundle import load_bundle
from definitions.layout import Layout, layout_of
from definitions.learning import Head, Models, Objective, Task
from definitions.usecase import UseCase, find_usecase
from millrace.events.v1 import events_pb2 as pb
from pipelines.datasets import Dataset, build_dataset, split_times
from pipelines.datasets.synthetic import synthetic_world
from pipelines.errors import TrainingError
from pipelines.progress import Silent
from pipelines.training import baselines
from pipelines.training.examples import Examples, Log, build_examples, examples_table
from pipelines.training.ladder import fit_ladder, ladder_of
from pipelines.training.negatives import thin_negatives
from pipelines.training.ranker import ranker, train_data
from pipelines.training.run import train
from servicekit.settings import checkout_root
from stores.offline import Lake, app_id
from stores.offline.rows import interactions_table, items_table, users_table


class Told(Silent):
    """Keeps the notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture(scope="module")
def movies() -> UseCase:
    return find_usecase("movies", checkout_root() / "usecases")


@pytest.fixture(scope="module")
def layout(movies: UseCase) -> Layout:
    return layout_of(movies)


@pytest.fixture(scope="module")
def dataset(movies: UseCase) -> Dataset:
    return build_dataset(movies, synthetic_world(users=120, items=150, events=5000, seed=1))


@pytest.fixture(scope="module")
def examples(layout: Layout, dataset: Dataset) -> Examples:
    return build_examples(layout, Log.of_dataset(dataset))


def test_labels_changed_from_a_time_on_change_nothing_at_or_before_it(
    layout: Layout, dataset: Dataset, examples: Examples
) -> None:
    """The leak check: no cell of a row at or before t may move."""
    events = dataset.interactions
    cut = int(np.quantile(events.event_time_us, 0.5))
    later = events.event_time_us >= cut
    corrupt = replace(events, value=np.where(later, np.float32(6) - events.value, events.value))

    changed = build_examples(layout, Log.of_dataset(replace(dataset, interactions=corrupt)))

    before = examples.time_us <= cut
    np.testing.assert_array_equal(examples.features[before], changed.features[before])
    np.testing.assert_array_equal(examples.user_ints[before], changed.user_ints[before])
    assert (examples.features[~before] != changed.features[~before]).any()


def test_shuffled_labels_teach_nothing(layout: Layout, dataset: Dataset) -> None:
    """The leak check (c): with values dealt at random no model can tell positives."""
    events = dataset.interactions
    dealt = replace(events, value=np.random.default_rng(0).permutation(events.value))
    rows = build_examples(layout, Log.of_dataset(replace(dataset, interactions=dealt)))

    metrics = fit_ladder(layout, rows, split_times(rows.time_us)).metrics

    for name in ("lr", "lightgbm"):
        assert metrics[name].auc == pytest.approx(0.5, abs=0.08)


def test_a_use_case_says_which_models_are_trained_and_which_one_serves(movies: UseCase, examples: Examples) -> None:
    """The last of its ladder is the model, `fallback` the other rung; all are measured, and what finds candidates is
    told where it belongs.
    """
    models = Models(ladder=("item_mean", "ease", "lr_one_hot", "lr", "xgboost"), fallback="lr_one_hot")
    told = Told()

    found = fit_ladder(
        layout_of(movies.model_copy(update={"models": models})), examples, split_times(examples.time_us), progress=told
    )

    assert ("xgboost", "lr_one_hot") == (found.model.name, found.fallback.name)
    assert ["constant", "item_mean", "lr_one_hot", "lr", "xgboost"] == list(found.metrics)
    assert ["models: ease find candidates and rank none; name them under candidates.sources"] == told.notes


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"task": Task(type="regression", primary="mae", guards=())}, "task.type: .* python -m pipelines.deep"),
        ({"models": Models(ladder=("popularity", "lr"), fallback="popularity")}, "fallback popularity"),
        ({"models": Models(ladder=("item_mean",), fallback="item_mean")}, "models: item_mean with fallback"),
        ({"objective": Objective(name="lambdarank")}, "objective: lightgbm .* make lambdarank the last of models"),
        ({"objective": Objective(name="pairwise")}, "objective: .* make xgboost the last of models"),
        (
            {"models": Models(ladder=("lr", "dcn_v2")), "heads": {"click": Head(), "view": Head()}},
            "dcn_v2 trains all heads as one network",
        ),
    ],
    ids=["regression", "fallback", "no ranker", "listwise", "pairwise", "heads of a network"],
)
def test_what_no_bundle_can_hold_is_refused_before_anything_is_trained(
    movies: UseCase, said: dict[str, Any], message: str
) -> None:
    """With the field and the remedy: trained otherwise than the file says would be worse."""
    with pytest.raises(TrainingError, match=message):
        ladder_of(movies.model_copy(update=said))


def test_thinned_negatives_leave_the_scores_probabilities(layout: Layout, examples: Examples) -> None:
    """Fitted on a fifth of the negatives, a model still says how often something is liked: sampling is undone."""
    split = thin_negatives(split_times(examples.time_us), examples.keys, examples.label, 0.2)
    data, test = train_data(layout, examples, split)

    model = ranker("lr")(data, seed=0, threads=1, progress=Silent())

    assert data.fit.label.mean() > 1.3 * test.label.mean()
    assert model.score(test.features, test.ints).mean() / test.label.mean() == pytest.approx(1, abs=0.1)


def test_learned_models_beat_the_item_mean_and_that_beats_a_constant(layout: Layout, examples: Examples) -> None:
    """On the synthetic world, where nothing can be downloaded, the ladder still has its order."""
    metrics = fit_ladder(layout, examples, split_times(examples.time_us)).metrics
    found = {name: each.auc or 0 for name, each in metrics.items()}

    assert found["constant"] == 0.5
    assert found["constant"] < found["item_mean"] < min(found["lr"], found["lightgbm"])


def test_the_item_mean_excludes_its_own_time() -> None:
    """Two ratings in one second do not see each other; an unseen item has the base rate."""
    item = np.array([1, 1, 1, 2], np.uint64)
    time = np.array([10, 20, 20, 5])
    label = np.array([1, 0, 1, 0])

    means = baselines.streaming_item_mean(item, time, label, 0.5)

    np.testing.assert_allclose([0.5, 6 / 11, 6 / 11, 0.5], means)


def test_an_action_that_is_no_example_gives_features_but_no_row(
    movies: UseCase, layout: Layout, dataset: Dataset, examples: Examples
) -> None:
    """Views count in columns of views only, and are never labels."""
    view = movies.action_code("view")
    events = replace(dataset.interactions, action=np.full(len(dataset.interactions), view, np.uint32))

    with pytest.raises(TrainingError, match="0 examples"):
        build_examples(layout, Log.of_dataset(replace(dataset, interactions=events)))


def fill(lake: Lake, dataset: Dataset, log_id: str) -> None:
    events = dataset.interactions
    twice = np.r_[np.arange(len(events)), np.arange(50)]  # the first 50 are resent
    sent = replace(events.take(twice), offset=np.arange(len(twice)))
    rows = interactions_table(log_id, sent)
    lake.append("interactions", rows, app_id=app_id(log_id, "movies.interactions", 0), version=len(twice))
    places = [(offset, 0) for offset in range(len(dataset.items))]
    items = items_table(log_id, 0, places, dataset.items)
    lake.append("items", items, app_id=app_id(log_id, "movies.items", 0), version=len(places))
    places = [(offset, 0) for offset in range(len(dataset.users))]
    users = users_table(log_id, 0, places, dataset.users)
    lake.append("users", users, app_id=app_id(log_id, "movies.users", 0), version=len(places))


def test_the_lake_gives_the_same_rows_as_the_data_that_was_archived(
    movies: UseCase, layout: Layout, dataset: Dataset, examples: Examples, tmp_path: Path
) -> None:
    """Resent events count once, also where a second log holds all of them again (an embedded broker's)."""
    lake = Lake(tmp_path, "movies")
    fill(lake, dataset, "log-a")
    fill(lake, dataset, "log-b")

    rows = build_examples(layout, Log.of_lake(lake, movies.dedupe_offsets))

    order, expected = np.argsort(rows.event_id), np.argsort(examples.event_id)
    np.testing.assert_array_equal(examples.event_id[expected], rows.event_id[order])
    np.testing.assert_array_equal(examples.label[expected], rows.label[order])
    np.testing.assert_allclose(examples.features[expected], rows.features[order], rtol=1e-6)


def test_an_erased_user_is_no_example(
    movies: UseCase, layout: Layout, dataset: Dataset, examples: Examples, tmp_path: Path
) -> None:
    """The lake still has the events until it is vacuumed; nothing is learnt from them."""
    lake, erased = Lake(tmp_path, "movies"), int(examples.user_id[0])
    fill(lake, dataset, "log-a")
    erasure = users_table("log-a", 0, [(len(dataset.users), 1)], [pb.User(id=erased, deleted=True)])
    lake.append("users", erasure, app_id=app_id("log-a", "movies.users", 0), version=len(dataset.users) + 1)

    rows = build_examples(layout, Log.of_lake(lake, movies.dedupe_offsets))

    assert set(examples.user_id.tolist()) - {erased} == set(rows.user_id.tolist())


def test_events_that_are_still_to_come_may_be_the_test_rows(
    movies: UseCase, layout: Layout, dataset: Dataset, examples: Examples, tmp_path: Path
) -> None:
    """Replay's tail is measured before it was published: lake and hold-out make one time line."""
    split = split_times(dataset.interactions.event_time_us)
    lake = Lake(tmp_path, "movies")
    fill(lake, dataset.part(~split.test), "log-a")

    log = Log.of_lake(lake, movies.dedupe_offsets).plus(dataset.part(split.test))

    rows = build_examples(layout, log)
    assert sorted(examples.event_id.tolist()) == sorted(rows.event_id.tolist())


def test_an_empty_lake_says_so(tmp_path: Path) -> None:
    """With the command that fills it."""
    with pytest.raises(TrainingError, match="millrace load"):
        Log.of_lake(Lake(tmp_path, "movies"), 10)


class Heard(Silent):
    """Keeps the stages."""

    def __init__(self) -> None:
        self.stages: list[str] = []

    def stage(self, name: str, total: int | None = None) -> None:
        self.stages.append(name)


def test_a_training_ends_in_a_verified_bundle(movies: UseCase, dataset: Dataset, tmp_path: Path) -> None:
    """Bundle, examples in the lake, figures and stages; the next training is the next version."""
    heard, lake = Heard(), Lake(tmp_path / "lake", "movies")

    result = train(movies, dataset, bundles=tmp_path / "bundles", lake=lake, progress=heard)
    second = train(movies, dataset, bundles=tmp_path / "bundles")

    bundle = load_bundle(tmp_path / "bundles" / "movies" / "1", digest=result.bundle.digest)
    assert (1, 2) == (result.version, second.version)
    assert result.parity.max_abs <= 1e-5
    assert result.parity.flips == 0
    assert bundle.manifest.data_hash == second.bundle.manifest.data_hash
    assert {"constant", "item_mean", "lr", "lightgbm"} == set(bundle.manifest.metrics)
    assert "AUC" in (bundle.folder / "model_card.md").read_text()
    reference = pl.read_parquet(bundle.folder / "reference.parquet")
    shares = reference.group_by("feature").agg(pl.col("share").sum())["share"]
    assert set(bundle.manifest.feature_names) == set(reference["feature"])
    np.testing.assert_allclose(shares.to_numpy(), 1.0)
    stored = lake.scan("examples").collect()
    assert sum(result.rows.values()) == stored.height
    assert result.rows["test"] == stored.filter(pl.col("split") == "test").height
    assert heard.stages[0] == "build examples"


def test_the_same_seed_gives_the_same_model(movies: UseCase, dataset: Dataset, tmp_path: Path) -> None:
    """Two trainings on the same data are byte-equal graphs."""
    first, second = (train(movies, dataset, bundles=tmp_path / name) for name in ("a", "b"))

    for name in ("model.onnx", "fallback.onnx", "golden.npz"):
        assert first.bundle.manifest.files[name] == second.bundle.manifest.files[name]


def test_example_rows_carry_where_they_come_from(layout: Layout, examples: Examples) -> None:
    """Label, weight, features, source and the event behind them."""
    table = examples_table(examples, split_times(examples.time_us), "movies-1")

    first = table.slice(0, 1).to_pylist()[0]
    assert int(examples.event_id[0]) == first["event_id"]
    assert ("backfill", "movies-1", "train") == (first["source"], first["training_set"], first["split"])
    np.testing.assert_array_equal(examples.features[0], np.array(first["features"], np.float32))
    assert len(layout.user_int_names) + len(layout.item_int_names) == len(first["int_features"])
