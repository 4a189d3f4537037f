"""From scores to a list: the order of MMR, shares, pins, and propensities that are the true frequencies."""

from collections import Counter
from itertools import product
from typing import Any

import definitions.rerank
import numpy as np
import pytest
from definitions.greedy import cosines
from definitions.layout import Layout
from definitions.rerank import Reranker
from definitions.rules import Diversity, Exploration, Rules


def reranker(**parts: Any) -> Reranker:
    none: dict[str, Any] = {
        "columns": (),
        "caps": (),
        "alike": None,
        "pins": (),
        "diversity": None,
        "exploration": None,
    }
    return Reranker(**(none | parts))


def listed(rules: Reranker, scores: Any, limit: int, codes: Any = None, request_id: int = 1, **more: Any) -> list[int]:
    """Item ids of the list; item k is the k-th candidate, from 1."""
    n = len(scores)
    codes = np.zeros((n, 0), np.uint32) if codes is None else np.array(codes, np.uint32).reshape(n, -1)
    found = rules.order(
        np.arange(1, n + 1, dtype=np.uint64),
        np.array(scores, np.float32),
        limit,
        request_id=request_id,
        codes=codes,
        **more,
    )
    assert sorted(found.order.tolist()) == list(range(n))
    return (found.order[: found.shown] + 1).tolist()


def mmr_by_definition(scores: Any, vectors: Any, weight: float, limit: int) -> list[int]:
    """Carbonell and Goldstein's formula, pair by pair."""
    relevance = (scores - scores.min()) / (scores.max() - scores.min())
    chosen: list[int] = []
    while len(chosen) < limit:
        best = max(
            (index for index in range(len(scores)) if index not in chosen),
            key=lambda i: (
                weight * relevance[i]
                - (1 - weight) * max((float(vectors[i] @ vectors[j]) for j in chosen), default=0.0)
            ),
        )
        chosen.append(best)
    return [index + 1 for index in chosen]


@pytest.mark.parametrize("weight", [0.2, 0.5, 0.8])
def test_mmr_takes_what_its_formula_says(weight: float) -> None:
    """Vectorised, it is the same list as pair by pair."""
    rng = np.random.default_rng(4)
    scores, vectors = rng.random(40).astype(np.float32), rng.random((40, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    rules = reranker(diversity=Diversity(weight=weight))
    assert mmr_by_definition(scores, vectors, weight, 12) == listed(rules, scores, 12, vectors=vectors)


def test_below_its_depth_and_at_lambda_1_mmr_is_the_order_by_score() -> None:
    """Nothing is taken twice, nothing is lost."""
    alike = np.ones((5, 1), np.float32)
    assert [5, 4, 3, 2, 1] == listed(reranker(diversity=Diversity(weight=1)), [1, 2, 3, 4, 5], 5, vectors=alike)
    shallow = reranker(diversity=Diversity(weight=0.5, depth=2))
    vectors = np.array([[1, 0], [1, 0], [0, 1], [1, 0]], np.float32)
    assert [1, 3, 2, 4] == listed(shallow, [4, 3, 2, 1], 4, vectors=vectors)


def test_what_comes_last_stays_last_however_different_it_is() -> None:
    """A filled-up list ends with what filled it."""
    rules = reranker(diversity=Diversity(weight=0.1))
    last, vectors = np.array([False, False, True]), np.array([[1, 0], [1, 0], [0, 1]], np.float32)
    assert [1, 2, 3] == listed(rules, [0.2, 0.1, 0.9], 3, last=last, vectors=vectors)


def test_similarity_of_categories_is_the_cosine_of_their_sets() -> None:
    """Two of two alike 1, one of two 1/2, one of one and two 1/sqrt(2), an item without any 0."""
    codes = np.array([[3, 9], [9, 3], [3, 5], [3, 0], [0, 0]], np.uint32)
    assert [1.0, 1.0, 0.5, 2**-0.5, 0.0] == pytest.approx(cosines(codes, 0).tolist())
    assert [0.0] * 5 == cosines(np.zeros((5, 0), np.uint32), 0).tolist()


def test_a_share_is_a_mask_that_gives_way_rather_than_shorten_the_list() -> None:
    """At most 2 of 4 of one code, 0 is none; where nothing else is left, what was passed over fills the end."""
    half = reranker(columns=(0,), caps=((0, 0.5),))
    assert [1, 2, 5, 6] == listed(half, [9, 8, 7, 6, 5, 4], 4, [7, 7, 7, 7, 8, 8])
    assert [1, 2, 3, 4] == listed(half, [9, 8, 7, 6, 5, 4], 4, [0, 0, 0, 0, 8, 8])
    assert [1, 2, 6, 3] == listed(half, [9, 8, 7, 6, 5, 4], 4, [7, 7, 7, 7, 7, 8])


def test_shares_hold_inside_mmr_and_among_explored_items() -> None:
    """However slots are drawn, no list has more of a code than its share."""
    rng = np.random.default_rng(1)
    codes, vectors = rng.integers(1, 4, 30), rng.random((30, 4)).astype(np.float32)
    rules = reranker(
        columns=(0,),
        caps=((0, 0.4),),
        diversity=Diversity(weight=0.6),
        exploration=Exploration(epsilon=1, slots=(2, 5, 6), among=10),
    )
    for request_id in range(1, 60):
        chosen = np.array(listed(rules, rng.random(30), 10, codes, request_id, vectors=vectors)) - 1
        assert np.bincount(codes[chosen]).max() <= 4


def test_pins_stand_at_their_places_on_any_order() -> None:
    """A pinned item is there whatever its score and share, once; one that is no candidate is no hole."""
    rules = reranker(columns=(0,), caps=((0, 0.34),), pins=((1, 6), (0, 77), (5, 5)))
    assert [1, 6, 2] == listed(rules, [9, 8, 7, 6, 5, 4], 3, [1, 2, 2, 2, 2, 1])
    assert [1, 6, 3] == listed(rules, [9, 8, 7, 6, 5, 4], 3, [1, 1, 2, 2, 2, 1])


def outcomes(explored: Exploration) -> Any:
    """Every way the draws can fall, with its probability: sixths fall alike into pools of 1, 2 and 3."""
    one = [((1.0, 0.0), 1 - explored.epsilon)] + [((0.0, (k + 0.5) / 6), explored.epsilon / 6) for k in range(6)]
    for combination in product(one, repeat=len(explored.slots)):
        yield [draw for draw, _ in combination], float(np.prod([probability for _, probability in combination]))


@pytest.mark.parametrize("diverse", [False, True])
@pytest.mark.parametrize("capped", [False, True])
def test_propensities_are_the_true_probabilities(monkeypatch: Any, diverse: bool, capped: bool) -> None:
    """Over every way the draws can fall: the product of a list's propensities is the probability of that list."""
    explored = Exploration(epsilon=0.3, slots=(2, 3, 4), among=3)
    rules = reranker(
        columns=(0,) if capped else (),
        caps=((0, 0.5),) if capped else (),
        diversity=Diversity(weight=0.5) if diverse else None,
        exploration=explored,
    )
    scores = np.array([0.9, 0.8, 0.7, 0.6, 0.5], np.float32)
    codes = np.array([[1], [1], [2], [2], [1]], np.uint32)[:, : len(rules.columns)]
    vectors = np.array([[1, 0], [0.8, 0.6], [0, 1], [0.6, 0.8], [1, 0]], np.float32)
    true, logged = Counter[tuple[int, ...]](), dict[tuple[int, ...], float]()
    for draws, probability in outcomes(explored):
        fallen = dict(zip((1, 2, 3), draws, strict=True))
        monkeypatch.setattr(definitions.rerank, "_draws", lambda *_, fallen=fallen: fallen)
        found = rules.order(
            np.arange(1, 6, dtype=np.uint64), scores, 4, request_id=1, codes=codes, vectors=vectors if diverse else None
        )
        key = tuple(found.order[:4].tolist())
        true[key] += probability
        logged[key] = float(np.prod(found.propensities[:4], dtype=np.float64))
        assert 0 == found.propensities[4]
    assert 1 == pytest.approx(sum(logged.values()))
    assert true == pytest.approx(logged)
    assert len(true) > 3


@pytest.mark.parametrize("capped", [False, True])
def test_draws_by_request_id_come_as_often_as_logged(capped: bool) -> None:
    """Monte Carlo over request ids: each item stands at the explored place as often as its propensity says."""
    rules = reranker(
        columns=(0,) if capped else (),
        caps=((0, 0.34),) if capped else (),
        exploration=Exploration(epsilon=0.4, slots=(2,), among=4),
    )
    scores, codes = (
        np.array([9, 8, 7, 6, 5, 4, 3], np.float32),
        np.array([[1], [1], [2], [2], [3], [1], [4]], np.uint32),
    )
    rounds, seen, said = 4_000, Counter[int](), dict[int, float]()
    for request_id in range(1, rounds + 1):
        found = rules.order(
            np.arange(7, dtype=np.uint64),
            scores,
            3,
            request_id=request_id * 0x9E3779B97F4A7C15 % 2**64,
            codes=codes[:, : len(rules.columns)],
        )
        item = int(found.order[1])
        seen[item] += 1
        said[item] = float(found.propensities[1])
    greedy = 2 if capped else 1
    assert dict.fromkeys(said, 0.1) | {greedy: 0.7} == pytest.approx(said)
    assert (4, 1.0) == (len(said), pytest.approx(sum(said.values())))
    for item, propensity in said.items():
        spread = 4 * (propensity * (1 - propensity) / rounds) ** 0.5
        assert propensity == pytest.approx(seen[item] / rounds, abs=spread)


def test_a_request_draws_the_same_again_and_another_rung_draws_nothing() -> None:
    """What the audit recomputes is what was served; without exploration every propensity is 1."""
    rules = reranker(exploration=Exploration(epsilon=1, slots=(1, 2, 3), among=8))
    scores = np.arange(8, dtype=np.float32)
    lists = {request_id: listed(rules, scores, 3, None, request_id) for request_id in range(1, 20)}
    assert lists == {request_id: listed(rules, scores, 3, None, request_id) for request_id in lists}
    assert len({tuple(each) for each in lists.values()}) > 5
    assert [8, 7, 6] == listed(rules, scores, 3, explore=False)


def test_large_scores_of_lower_rungs_are_scaled() -> None:
    """Popularity counts in the thousands are as diverse as probabilities."""
    rules = reranker(diversity=Diversity(weight=0.5))
    vectors = np.array([[1, 0], [1, 0], [0, 1]], np.float32)
    for scores in ([0.3, 0.29, 0.1], [3000, 2900, 1000], [3e38, 2.9e38, -3e38]):
        assert [1, 3, 2] == listed(rules, scores, 3, vectors=vectors)


def test_rules_compile_to_the_codes_that_they_read(layout: Layout) -> None:
    """A share reads an attribute's first code, diversity all of them."""
    attribute, slots = next(iter(layout.item.codes.items()))
    rules = Rules.model_validate(
        {
            "rerank": [{"max_share": {"by": attribute, "share": 0.5}}, {"pin": {"item_id": 4, "position": 2}}],
            "diversity": {"lambda": 0.7, "by": attribute},
        }
    )
    found = Reranker.of(rules, layout.item)
    every = tuple(range(slots.start, slots.start + slots.width))
    assert (slots.start, *every) == found.columns
    assert (((0, 0.5),), slice(1, 1 + slots.width), ((1, 4),)) == (found.caps, found.alike, found.pins)
    assert not found.wants_vectors
