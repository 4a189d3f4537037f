"""MovieLens-100K through the retrieval models: quality bars by the protocol of RecBole, and a leak that shows."""

import os

import numpy as np
import pytest
from definitions.usecase import find_usecase
from pipelines.datasets import load_dataset
from pipelines.errors import DownloadError, LeakError
from pipelines.evaluation.ranking import full_ranking
from pipelines.retrieval.interactions import Interactions, interactions, split_users
from pipelines.retrieval.item_item import fit_ease
from pipelines.retrieval.ladder import RETRIEVERS, evaluate_retrieval, fit_and_measure
from servicekit.settings import checkout_root

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def films() -> Interactions:
    """100,000 distinct pairs, every rating a positive."""
    usecase = find_usecase("movies", checkout_root() / "usecases")
    try:
        dataset = load_dataset("ml-100k", usecase, cache=checkout_root() / ".millrace" / "dist" / "datasets")
    except DownloadError as exc:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(str(exc))
        raise
    events = dataset.interactions
    return interactions(events.user_id, events.item_id)


def test_models_reach_their_bars(films: Interactions) -> None:
    """NDCG@10, one seed; EASE's interval is above popularity's, and no figure is too good to be true."""
    user, item = films.matrix.nonzero()
    found = evaluate_retrieval(
        films.user_ids[user], films.item_ids[item], models=("popularity", "itemknn", "ease"), seeds=(0,)
    )

    assert (943, 1682, 100_000) == (*films.matrix.shape, films.matrix.nnz)
    assert found["ease"]["ndcg_at_10"] >= 0.315
    assert found["itemknn"]["ndcg_at_10"] >= 0.28
    assert 0.12 <= found["popularity"]["ndcg_at_10"] <= 0.16
    assert found["ease"]["ndcg_at_10_over_popularity_lo"] > 0.1
    assert max(figures["ndcg_at_10"] for figures in found.values()) < 0.4


def test_held_out_items_in_the_fitted_matrix_are_refused_and_would_have_paid(films: Interactions) -> None:
    """The planted bug: EASE fitted on the test items too. What it would have reported is far above the truth."""
    held = split_users(films.matrix)
    leaky = type(held)(held.fit + held.test, held.valid, held.test)

    with pytest.raises(LeakError, match="held-out interactions are in the fitted matrix"):
        fit_and_measure(RETRIEVERS["ease"], leaky)

    figures = [
        full_ranking(fit_ease(fitted).scores, fitted, held.fit + held.valid, held.test)["ndcg"]
        for fitted in (held.fit, leaky.fit)
    ]
    assert np.mean(figures[1]) > np.mean(figures[0]) + 0.03
