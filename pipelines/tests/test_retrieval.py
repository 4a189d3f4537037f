"""Retrieval models learn from what they may know, choose on validation, and give the same for the same seed."""

import numpy as np
import pytest
from implicit.cpu.als import AlternatingLeastSquares
from pipelines.errors import LeakError, TrainingError
from pipelines.retrieval.ials import fit_ials
from pipelines.retrieval.interactions import check_held_out, interactions, split_users
from pipelines.retrieval.item_item import fit_ease, fit_item_knn
from pipelines.retrieval.ladder import RETRIEVERS, Recipe, evaluate_retrieval, fit_and_measure
from pipelines.retrieval.popularity import fit_popularity
from scipy.sparse import csr_array, csr_matrix
from threadpoolctl import threadpool_limits

Ids = np.ndarray


def world(users: int = 60, items: int = 40, seed: int = 0) -> tuple[Ids, Ids]:
    """Two groups of users, each with a half of the items, each user with 12 of 20; every event happens twice."""
    rng = np.random.default_rng(seed)
    pairs = [(u, rng.permutation(items // 2)[:12] + (items // 2) * (u % 2)) for u in range(users)]
    user = np.repeat([u for u, _ in pairs], 12).astype(np.uint64) + 1
    item = np.concatenate([chosen for _, chosen in pairs]).astype(np.uint64) + 1
    return np.tile(user, 2), np.tile(item, 2)


def test_a_split_holds_out_a_tenth_of_each_user_and_never_a_cell_twice() -> None:
    """12 distinct items: 1 for validation, 1 for test, 10 to fit."""
    matrix = interactions(*world()).matrix

    held = split_users(matrix, seed=1)

    assert [10, 1, 1] == [each.nnz // 60 for each in (held.fit, held.valid, held.test)]
    assert (held.fit + held.valid + held.test != matrix).nnz == 0
    assert (split_users(matrix, seed=2).test != held.test).nnz > 0
    assert (split_users(matrix, seed=1).test != held.test).nnz == 0


def test_a_user_of_two_items_is_fitted_only() -> None:
    """Nothing is held out of what could not be learned from; a matrix of such users cannot be split."""
    with pytest.raises(TrainingError, match="load more data"):
        split_users(csr_array(np.eye(4, dtype=np.float32)))


def test_a_planted_leak_is_refused() -> None:
    """The bug: events are split, not distinct pairs, so a pair that happened twice is fitted and held out."""
    user, item = world()
    held = split_users(interactions(user, item).matrix)
    check_held_out(held.fit, held.valid, held.test)

    part = np.random.default_rng(0).random(len(user)) < 0.1
    leaky = interactions(user[~part], item[~part], catalogue=np.unique(item)).matrix
    planted = interactions(user[part], item[part], catalogue=np.unique(item))
    test = csr_array((60, leaky.shape[1]), dtype=np.float32).tolil()
    test[planted.user_ids.astype(int) - 1] = planted.matrix.todense()
    with pytest.raises(LeakError, match="held-out interactions are in the fitted matrix"):
        check_held_out(leaky, test.tocsr())
    with pytest.raises(LeakError):
        fit_and_measure(RETRIEVERS["ease"], type(held)(held.fit + held.test, held.valid, held.test))


@pytest.mark.parametrize("name", ["popularity", "itemknn", "ease", "ials"])
def test_no_held_out_cell_reaches_a_model(name: str) -> None:
    """Other test items, same scores: the fitted model and its choice depend on fit and validation alone."""
    held = split_users(interactions(*world()).matrix)
    recipe = Recipe(RETRIEVERS[name].fit, RETRIEVERS[name].grid[:2])
    other = type(held)(
        held.fit, held.valid, csr_array(np.roll((held.test).toarray(), 1, axis=1) * (held.fit.toarray() == 0))
    )
    first, second = (fit_and_measure(recipe, each) for each in (held, other))

    assert first.parameters == second.parameters
    np.testing.assert_array_equal(first.model.scores(held.fit), second.model.scores(held.fit))


@pytest.mark.parametrize("fit", [fit_ease, fit_item_knn, fit_ials])
def test_personal_models_find_the_group_and_popularity_does_not(fit: object) -> None:
    """Every held-out item lies in the user's half of the catalogue."""
    held = split_users(interactions(*world()).matrix)
    own = np.arange(40)[None, :] // 20 == np.arange(60)[:, None] % 2

    def margin(model: object) -> float:
        scores = model.scores(held.fit)
        return float((np.where(own, scores, np.inf).min(1) >= np.where(own, -np.inf, scores).max(1)).mean())

    assert margin(fit(held.fit)) > 0.95
    assert margin(fit_popularity(held.fit)) == 0


def test_ease_is_the_ridge_regression_of_each_item_on_the_others() -> None:
    """Column j solves min |x_j - X b|^2 + lambda |b|^2 with b_j = 0."""
    matrix = interactions(*world()).matrix
    dense = matrix.toarray().astype(np.float64)
    weights = fit_ease(matrix, ridge=3.0).weights
    others = np.arange(dense.shape[1]) != 7

    expected = np.linalg.solve(dense[:, others].T @ dense[:, others] + 3 * np.eye(39), dense[:, others].T @ dense[:, 7])
    np.testing.assert_allclose(weights[others, 7], expected, atol=1e-6)
    assert weights[7, 7] == 0


def test_ials_solves_the_users_that_the_library_solves() -> None:
    """A fitted user's factors agree with implicit's own solver; an empty history scores 0."""
    matrix = interactions(*world()).matrix
    ours = fit_ials(matrix, factors=8, ridge=2.0, confidence=4.0)
    with threadpool_limits(1, "blas"):
        theirs = AlternatingLeastSquares(factors=8, regularization=2.0, alpha=4.0, use_cg=False, num_threads=1)
        theirs.item_factors, theirs.user_factors = ours.items, np.zeros((60, 8), np.float32)
        expected = theirs.recalculate_user(np.arange(60), csr_matrix(matrix))

    np.testing.assert_allclose(ours.users(matrix), expected, atol=1e-4)
    assert not ours.scores(csr_array((1, 40), dtype=np.float32)).any()


def test_the_ladder_reports_means_over_seeds_with_intervals() -> None:
    """EASE beats popularity by a paired interval; the same call gives the same figures."""
    user, item = world()
    found = evaluate_retrieval(user, item, models=("popularity", "ease"), seeds=(0, 1))

    ease = found["ease"]
    assert ease["ndcg_at_10_lo"] <= ease["ndcg_at_10"] <= ease["ndcg_at_10_hi"]
    assert ease["ndcg_at_10_over_popularity_lo"] > 0
    assert ease["ndcg_at_10_refitted"] >= ease["ndcg_at_10"] - 0.05
    assert found == evaluate_retrieval(user, item, models=("popularity", "ease"), seeds=(0, 1))
