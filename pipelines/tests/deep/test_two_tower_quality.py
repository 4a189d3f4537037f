"""MovieLens-100K: the two-tower model with logQ beats popularity by its bar."""

import os
from pathlib import Path

import pytest
from pipelines.datasets.movielens import movielens_100k
from pipelines.errors import DownloadError
from pipelines.retrieval.ladder import evaluate_retrieval
from servicekit.settings import checkout_root

pytestmark = pytest.mark.deep


def test_two_tower_beats_popularity_by_eight_points() -> None:
    """NDCG@10 on one seed, with the whole interval of the difference above the bar."""
    cache: Path = checkout_root() / ".millrace" / "dist" / "datasets"
    try:
        ratings = movielens_100k(cache).interactions.table
    except DownloadError as exc:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(str(exc))
        raise
    user, item = (ratings[name].cast(int).to_numpy().astype("uint64") for name in ("user_id", "item_id"))

    found = evaluate_retrieval(user, item, models=("popularity", "two_tower"), seeds=(0,))

    assert found["two_tower"]["ndcg_at_10_over_popularity_lo"] >= 0.08
