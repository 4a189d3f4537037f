"""The report's question about categories, where PyTorch is installed."""

import pytest
from definitions.usecase import find_usecase
from pipelines.datasets import build_dataset
from pipelines.datasets.synthetic import synthetic_world
from pipelines.evaluation.ablation import questions
from pipelines.evaluation.study import Study
from pipelines.training.examples import Log
from servicekit.settings import checkout_root

pytestmark = pytest.mark.deep


def test_embeddings_are_among_the_ways_to_tell_categories() -> None:
    """A deep model with and without them; without them it scores otherwise, so they are really left out."""
    usecase = find_usecase("movies", checkout_root() / "usecases")
    world = build_dataset(usecase, synthetic_world(users=50, items=50, events=900, seed=2))
    study = Study(usecase, Log.of_dataset(world))
    [asked] = [each for each in questions(study) if each.name == "categories"]
    trials = dict(asked.trials)

    with_them = study.scores(trials["DCN-v2, embeddings"])
    without = study.scores(trials["DCN-v2, left out"])

    assert "not installed" not in asked.note
    assert len(study.labels) == len(with_them) == len(without)
    assert (with_them != without).any()
