"""What `millrace train --all` does, on a small world: checks first, figures with intervals, a broken run goes on."""

from dataclasses import replace
from pathlib import Path

import pytest
from definitions.usecase import UseCase, find_usecase
from pipelines.datasets import Dataset, build_dataset
from pipelines.datasets.synthetic import synthetic_world
from pipelines.errors import LeakError
from pipelines.evaluation import study
from pipelines.training import compare as compare_module
from pipelines.training import leaks
from pipelines.training.compare import Comparison, compare_all
from servicekit.settings import checkout_root

RETRIEVED, LADDER = ("popularity", "ease"), ("item_mean", "lr", "lightgbm")


@pytest.fixture(scope="module")
def movies() -> UseCase:
    return find_usecase("movies", checkout_root() / "usecases")


@pytest.fixture(scope="module")
def dataset(movies: UseCase) -> Dataset:
    return build_dataset(movies, synthetic_world(users=120, items=100, events=5000, seed=1))


def compare(movies: UseCase, dataset: Dataset, kept: Path) -> Comparison:
    return compare_all(movies, dataset, kept=kept, seeds=(0, 1), ladder=LADDER, retrieved=RETRIEVED, workers=1)


def test_every_model_has_its_figures_and_a_second_run_trains_nothing(
    movies: UseCase, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a process of its own each task ends on disk; the same rows and code find it there."""
    for module in (study, compare_module):  # the checkout may be edited while this runs
        monkeypatch.setattr(module, "code_digest", lambda packages: ",".join(packages))
    first = compare(movies, dataset, tmp_path)
    done = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    second = compare(movies, dataset, tmp_path)

    assert {*RETRIEVED, *LADDER, "best"} == set(first.models)
    for name in (*LADDER, "best"):
        figures = first.models[name]
        for metric in ("auc", "gauc", "logloss", "ndcg_at_10", "recall_at_10"):
            value, low, high = (figures[f"{metric}{end}"] for end in ("", "_lo", "_hi"))
            assert (low or 0) <= (value or 0) <= (high or 0), (name, metric)
    assert first.models["ease"]["auc"] is None
    assert first.models["ease"]["ndcg_at_10"] is not None
    assert {"future", "history", "telling", "shuffled", "replay", "ceiling"} == {each.check for each in first.findings}
    assert all(each.holds for each in first.findings)
    assert done == {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert replace(first, seconds=0) == replace(second, seconds=0)


def test_nothing_is_trained_on_rows_that_know_their_future(
    movies: UseCase, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A red check ends the run, naming the column."""
    red = leaks.Finding("future", holds=False, columns=("u_liked_all",), detail="u_liked_all changed")
    monkeypatch.setattr(leaks, "changed_by_the_future", lambda *_: red)

    with pytest.raises(LeakError, match="u_liked_all"):
        compare(movies, dataset, tmp_path)
