"""The two-tower model: what logQ corrects, what is masked, and that its arrays score as torch does."""

import numpy as np
import pytest
import torch
from pipelines.deep.two_tower import (
    Batches,
    Pairs,
    Recipe,
    Towers,
    fit_two_tower,
    in_batch_logits,
)
from pipelines.retrieval.interactions import interactions, split_users
from pipelines.retrieval.ladder import Recipe as Trained
from pipelines.retrieval.ladder import fit_and_measure
from pipelines.retrieval.popularity import fit_popularity
from scipy.sparse import csr_array

pytestmark = pytest.mark.deep


def skewed(users: int = 240, items: int = 100, taken: int = 20) -> csr_array:
    """Zipf popularity, and users who take what is popular: nothing else is to be learnt."""
    rng = np.random.default_rng(0)
    weight = 1 / np.arange(1, items + 1)
    item = np.argsort(rng.exponential(size=(users, items)) / weight, axis=1)[:, :taken]
    user = np.repeat(np.arange(users), taken).astype(np.uint64) + 1
    return interactions(user, item.ravel().astype(np.uint64) + 1).matrix


def test_without_logq_the_towers_lose_to_popularity_and_with_it_they_do_not() -> None:
    """In-batch negatives are drawn by popularity, so without the correction popular items are pushed down."""
    held = split_users(skewed())
    recipe = Recipe(width=8, epochs=12, batch=128, rate=0.02)

    def ndcg(fit: Trained) -> float:
        return float(np.nanmean(fit_and_measure(fit, held).values["ndcg"]))

    floor = ndcg(Trained(fit_popularity))
    with_logq = ndcg(Trained(fit_two_tower, [{"recipe": recipe}]))
    without = ndcg(Trained(fit_two_tower, [{"recipe": Recipe(**{**vars(recipe), "logq": False})}]))

    assert without < floor - 0.1
    assert with_logq > floor - 0.02
    assert with_logq > without + 0.1


def test_log_q_is_subtracted_by_column_and_copies_of_the_positive_are_masked() -> None:
    """Items 7, 8, 7: row 0 sees no second 7, row 1 sees both as negatives; the diagonal stays."""
    scores, log_q = torch.zeros(3, 3), torch.tensor([-1.0, -2.0, -1.0])

    found = in_batch_logits(scores, torch.tensor([7, 8, 7]), log_q)

    inf = float("inf")
    assert [[1, 2, -inf], [1, 2, 1], [-inf, 2, 1]] == found.tolist()
    assert [0, 0, -inf] == in_batch_logits(scores, torch.tensor([7, 8, 7]), None)[0].tolist()


def test_no_pair_sees_its_answer_in_its_history() -> None:
    """Without dropout a pair's user vector is that of the user's other items; an own context stays whole."""
    matrix = interactions(*(np.array(each, np.uint64) for each in ([1, 1, 1, 2, 2], [1, 2, 3, 3, 4]))).matrix
    torch.manual_seed(0)
    towers = Towers(4, 8)
    tables = [each.detach().numpy() for each in (towers.history, towers.bias)]
    pairs = Pairs.of(matrix)

    bags = Batches(pairs, 0.0).draw(np.arange(5), np.random.default_rng(0))
    found = towers.user(bags).detach().numpy()
    for pair, (user, item) in enumerate(zip(pairs.context, pairs.item, strict=True)):
        others = [j for j in np.flatnonzero(matrix.toarray()[user]) if j != item]
        np.testing.assert_allclose(found[pair], tables[0][others].sum(0) / len(others) ** 0.5 + tables[1], atol=1e-6)

    before = Pairs(matrix, np.array([0]), np.array([3]))
    found = towers.user(Batches(before, 0.0).draw(np.array([0]), np.random.default_rng(0))).detach().numpy()
    np.testing.assert_allclose(found[0], tables[0][:3].sum(0) / 3**0.5 + tables[1], atol=1e-6)


def test_the_same_seed_gives_the_same_bits() -> None:
    """Whatever torch's own generator and thread count were before, and they stay as they were."""
    matrix, recipe = skewed(60, 40, 8), Recipe(width=8, epochs=2, batch=64)
    first = fit_two_tower(matrix, seed=3, recipe=recipe)
    torch.manual_seed(99)
    state = torch.get_rng_state()

    second = fit_two_tower(matrix, seed=3, recipe=recipe)

    np.testing.assert_array_equal(first.items, second.items)
    np.testing.assert_array_equal(first.history, second.history)
    assert torch.equal(state, torch.get_rng_state())
    assert (fit_two_tower(matrix, seed=4, recipe=recipe).items != first.items).any()
