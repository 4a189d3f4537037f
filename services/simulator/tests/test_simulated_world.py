"""The world: who reacts to what, and what time and consumption change."""

from dataclasses import replace

import numpy as np
import pytest
from simulator.errors import BadWorld
from simulator.policies import Greedy, ItemScorer, Softmax, ViewScorer, no_scores
from simulator.profile import DAY_US, Drift, Profile, profile_of, profiles
from simulator.reacting import Slates, chances, react
from simulator.running import run
from simulator.truth import Omniscient, ceiling
from simulator.world import World, WorldSpec

SPEC = WorldSpec(profile_of("movies"), seed=5, users=60, items=200)


def drifting(kind: str, size: float) -> WorldSpec:
    drift = Drift.model_validate({"kind": kind, "at": "1d", "ramp": "1d", "size": size})
    return replace(SPEC, profile=SPEC.profile.model_copy(update={"drift": (drift,)}))


@pytest.mark.parametrize("name", profiles())
def test_every_profile_makes_a_world_in_which_all_reactions_happen(name: str) -> None:
    """A reaction that nobody ever shows would train nothing."""
    spec = replace(SPEC, profile=profile_of(name), users=200)
    kept = run(spec, Softmax(ViewScorer(World(spec).views), slots=10), 5)

    assert set(range(len(spec.profile.reactions))) == set(kept.happened.reaction.tolist())
    assert len(set(kept.happened.event_id.tolist())) == len(kept.happened)


def test_a_profile_names_what_is_wrong_in_it() -> None:
    """And where."""
    with pytest.raises(ValueError, match="share is after 'like', which is not before it"):
        Profile.model_validate(
            {
                "surfaces": [{"name": "home", "share": 1, "examination": 1}],
                "reactions": [{"action": "view", "bias": 0}, {"action": "share", "after": "like", "bias": 0}],
            }
        )
    with pytest.raises(BadWorld, match="has no profile; write one"):
        profile_of("cooking")


def test_clicks_are_as_frequent_as_the_truth_says() -> None:
    """The chance of each shown item is the one that its click was drawn with."""
    kept = run(replace(SPEC, users=2_000), Softmax(no_scores, slots=10), 2)

    expected, found = kept.click.sum(axis=0), kept.clicked.sum(axis=0)
    deviation = np.sqrt((kept.click * (1 - kept.click)).sum(axis=0))
    assert (np.abs(found - expected) < 4 * deviation).all()
    assert expected[0] > 1.5 * expected[-1]  # people look at the top


def test_two_policies_share_their_luck() -> None:
    """The same item at the same place on a user's first list meets the same noise, whatever else is shown."""
    spec = replace(SPEC, users=1_000)
    one = run(spec, Softmax(no_scores, slots=10, seed=1), 1)
    other = run(spec, Softmax(no_scores, slots=10, seed=2), 1)

    same = one.slates.items == other.slates.items
    assert same.sum() > 150
    assert one.clicked[same].tolist() == other.clicked[same].tolist()


def test_an_item_clicked_below_is_clicked_above() -> None:
    """Noise belongs to user, request and item: a better position can only help."""
    world = World(SPEC)
    users = np.arange(SPEC.users)
    requests = world.requests(world.begin(), users)
    items = requests.candidates[:, :10]
    nothing = np.full(items.shape, np.nan), np.zeros(len(users), np.uint64)
    down = react(world, world.begin(), requests, Slates(items, *nothing)).clicked
    up = react(world, world.begin(), requests, Slates(items[:, ::-1].copy(), *nothing)).clicked[:, ::-1]

    lower = np.arange(10) >= 5  # these stand higher in the second list
    assert down[:, lower].any()
    assert (up[:, lower] | ~down[:, lower]).all()


def test_consumption_moves_interests_and_tires() -> None:
    """Who consumed something is nearer to it afterwards, and less keen on its category for a while."""
    world, state = World(SPEC), World(SPEC).begin()
    users = np.arange(SPEC.users)
    requests = world.requests(state, users)
    items = requests.candidates[:, :1]
    before = np.linalg.norm(state.interests - world.factors[items[:, 0]], axis=1)
    keen = chances(world, state, requests, items, np.ones(1, np.int64)).attraction
    world.advance(state, requests, np.ones(items.shape, bool), items)

    assert (np.linalg.norm(state.interests - world.factors[items[:, 0]], axis=1) < before).all()
    at_once = world.appeal(state, requests, items, np.zeros(items.shape))
    rested = world.appeal(World(SPEC).begin(), requests, items, np.zeros(items.shape))
    assert (at_once < rested).all()
    assert keen.shape == items.shape


def test_only_living_items_are_candidates() -> None:
    """Items come and go; nobody can choose what is not there, and nobody twice from one list."""
    kept = run(replace(SPEC, horizon_us=2 * DAY_US), Softmax(no_scores, slots=5), 12)
    world = World(replace(SPEC, horizon_us=2 * DAY_US))

    assert world.alive(kept.requests.candidates, kept.requests.time_us[:, None]).all()
    assert all(len(set(row)) == SPEC.candidates for row in kept.requests.candidates.tolist())
    assert len(set(kept.requests.candidates[kept.requests.ordinal > 8].ravel().tolist())) > SPEC.candidates


@pytest.mark.parametrize(("kind", "size"), [("clicks", -1.5), ("examination", 1.0), ("taste", 1.0), ("traffic", 0.5)])
def test_a_drift_begins_when_it_was_planned(kind: str, size: float) -> None:
    """Before its time nothing differs from the world without it; after it something does."""
    policy = Greedy(ItemScorer(np.arange(SPEC.items, dtype=float)), slots=5)
    steady, drifted = run(SPEC, policy, 12), run(drifting(kind, size), policy, 12)
    early = steady.requests.time_us < SPEC.start_us + DAY_US

    assert early.any()
    assert steady.click[early].tolist() == drifted.click[early].tolist()
    assert steady.click[~early].tolist() != drifted.click[~early].tolist()
    if kind == "clicks":
        assert drifted.click[~early].mean() < 0.7 * steady.click[~early].mean()
    if kind == "traffic":
        assert (drifted.requests.surface == 2).mean() > (steady.requests.surface == 2).mean() + 0.1


def test_nobody_expects_more_of_the_next_list_than_the_omniscient_ranker() -> None:
    """On the same requests every other list is worth as much or less, and the ceiling is above what views can get."""
    world = World(SPEC)
    state = world.begin()
    requests = world.requests(state, np.arange(SPEC.users))
    position = 1 + np.arange(10)
    best = chances(world, state, requests, Omniscient(world, state, 10).serve(requests).items, position).utility
    for policy in (Softmax(no_scores, 10), Greedy(ViewScorer(world.views), 10)):
        other = chances(world, state, requests, policy.serve(requests).items, position).utility
        assert (best.sum(axis=1) >= other.sum(axis=1) - 1e-12).all()

    views = run(SPEC, Greedy(ViewScorer(world.views), 10), 3).utility.sum(axis=1).mean()
    chance = run(SPEC, Softmax(no_scores, 10), 3).utility.sum(axis=1).mean()
    assert ceiling(SPEC, 3, 10).utility.sum(axis=1).mean() > views > chance


def test_attributes_are_noisy_views_of_the_factors() -> None:
    """Close enough to learn from, and never the factors themselves."""
    world = World(SPEC)

    assert not (world.views.item == world.factors).any()
    assert not (world.views.user == world.interests).any()
    assert np.corrcoef(world.views.item.ravel(), world.factors.ravel())[0, 1] > 0.8


def test_propensities_are_those_of_the_draw() -> None:
    """The first slot's is the softmax's with its floor, and drawn as often as it says."""
    spec = replace(SPEC, users=3_000)
    policy = Softmax(ViewScorer(World(spec).views), slots=3, explore=0.2)
    kept = run(spec, policy, 1)
    chance = policy.probabilities(kept.requests)
    chosen = kept.requests.candidates == kept.slates.items[:, :1]

    assert chance[chosen] == pytest.approx(kept.slates.propensity[:, 0])
    assert kept.slates.propensity.min() >= 0.2 / SPEC.candidates
    assert chosen.sum(axis=1).tolist() == [1] * len(kept)
    likely = chance.argmax(axis=1)
    hits = chosen[np.arange(len(kept)), likely]
    expected = chance.max(axis=1)
    assert abs(hits.sum() - expected.sum()) < 4 * np.sqrt((expected * (1 - expected)).sum())
