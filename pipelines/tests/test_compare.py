"""The comparison of all models measures by hand-checked figures, names what is missing, and a search goes on."""

import sys
from pathlib import Path

import numpy as np
import pytest
from definitions.usecase import UseCase, find_usecase
from pipelines.datasets import Dataset, build_dataset
from pipelines.datasets.synthetic import synthetic_world
from pipelines.errors import LeakError, TrainingError
from pipelines.training import compare, history, leaks, trees
from pipelines.training.search import search
from servicekit.settings import checkout_root


@pytest.fixture(scope="module")
def movies() -> UseCase:
    return find_usecase("movies", checkout_root() / "usecases")


@pytest.fixture(scope="module")
def dataset(movies: UseCase) -> Dataset:
    return build_dataset(movies, synthetic_world(users=60, items=60, events=2000, seed=1))


def test_recall_is_the_share_of_a_users_positives_among_its_ten_best() -> None:
    """User 3 has 12 rows, all positive: ten of them fit. User 5 has one of two. User 9 has none, and no figure."""
    users = np.array([3] * 12 + [5] * 12 + [9] * 2, np.uint64)
    labels = np.r_[np.ones(12, int), 1, np.zeros(10, int), 1, 0, 0]
    scores = np.r_[np.arange(12.0), 20.0, np.arange(10.0, 0.0, -1), -5.0, 1.0, 2.0]

    np.testing.assert_allclose([10 / 12, 1 / 2, np.nan], compare.recall_by_user(labels, scores, users))


def test_equal_scores_are_ordered_at_random_and_not_as_they_came() -> None:
    """Positives first in the file would otherwise count as found."""
    users, labels = np.ones(1000, np.uint64), np.r_[np.ones(10, int), np.zeros(990, int)]

    assert compare.recall_by_user(labels, np.zeros(1000), users)[0] < 0.5


def test_base_columns_above_their_ceiling_are_a_leak() -> None:
    """Known for ML-100K; other data have none."""
    models = {"lr": {"auc": 0.76}, "lightgbm": {"auc": 0.79}}

    found = compare._ceiling(models, "ml-100k", ("lr", "lightgbm"))

    assert (False, ("lightgbm",)) == (found.holds, found.columns)
    with pytest.raises(LeakError, match="ceiling"):
        leaks.refuse([found])
    assert compare._ceiling(models, "ml-100k", ("lr",)).holds
    assert compare._ceiling(models, "files", ("lightgbm",)).holds


def test_without_torch_its_models_are_absent_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others are not."""
    monkeypatch.setitem(sys.modules, "torch", None)
    for name in [name for name in sys.modules if name.startswith("pipelines.deep")]:
        monkeypatch.delitem(sys.modules, name)

    absent = dict(compare._unavailable(("ease", "two_tower", "item_mean", "lr", "xgboost", "dcn_v2")))

    assert {"two_tower", "dcn_v2"} == set(absent)
    assert all("make deep" in why for why in absent.values())


def test_a_search_goes_on_where_it_ended_and_looks_at_validation_only(
    movies: UseCase, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two trials, then three in all; the winner is measured beside the parameters that were there."""
    monkeypatch.setattr(trees, "MAX_TREES", 5)
    monkeypatch.setattr(history, "BLOCKS", 2)

    first = search(movies, dataset, "lightgbm", trials=2, kept=tmp_path)
    second = search(movies, dataset, "lightgbm", trials=3, kept=tmp_path)
    again = search(movies, dataset, "lightgbm", trials=3, kept=tmp_path)

    assert (2, 3, 3) == (first.trials, second.trials, again.trials)
    assert second == again
    assert second.valid_logloss <= first.valid_logloss
    assert {"auc", "gauc", "logloss", "ndcg_at_10"} == set(second.after)
    assert first.before == second.before
    with pytest.raises(TrainingError, match="use one of lightgbm, xgboost"):
        search(movies, dataset, "constant", trials=1, kept=tmp_path)
