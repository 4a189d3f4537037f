"""People react to what was served: they look by position, take up what appeals, and do more with it later."""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from simulator.randomness import Stream, normal, uniform, words
from simulator.world import Floats, Ints, Requests, State, World

_REACTIONS: Final = 64  # of a profile at most: an item's event ids leave them room
_DWELL_US: Final = 2_000_000  # a person goes down a list at two seconds a position


@dataclass(frozen=True)
class Slates:
    """What was served: `items` int64 (n, L), item indexes in shown order, -1 where nothing (known) is.

    `propensity` float64 (n, L): of each choice given those above it; NaN where the server does not say.
    `request_id` uint64 (n,): the server's; 0 = none.
    """

    items: Ints
    propensity: Floats
    request_id: npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Happened:
    """What people did: parallel arrays, in the order of request, slot, reaction.

    int64: `row` and `slot` (of the request and its slate), `user`, `item`, `reaction` (place in the profile),
    `time_us`; `value` float32; `event_id` uint64, never 0 and the same whenever the same thing happens again.
    """

    row: Ints
    slot: Ints
    user: Ints
    item: Ints
    reaction: Ints
    time_us: Ints
    value: npt.NDArray[np.float32]
    event_id: npt.NDArray[np.uint64]

    def __len__(self) -> int:
        return len(self.row)


@dataclass(frozen=True)
class Chances:
    """The truth of items at positions, each float64 (n, L).

    `examined`: probability that it is looked at; `attraction`: that who looks takes up the first reaction; `worth`: of
    that reaction and what is expected to follow.
    """

    examined: Floats
    attraction: Floats
    worth: Floats

    @property
    def click(self) -> Floats:
        """Probability of the first reaction."""
        return self.examined * self.attraction

    @property
    def utility(self) -> Floats:
        """Expected worth of showing the item there."""
        return self.click * self.worth


@dataclass(frozen=True)
class Outcomes:
    """What came of each shown item, `clicked` bool (n, L), all that people did, and how likely it was."""

    chances: Chances
    clicked: npt.NDArray[np.bool_]
    happened: Happened


def chances(
    world: World, state: State, requests: Requests, items: Ints, position: Ints, affinity: Floats | None = None
) -> Chances:
    """The truth of any policy's choice, for any items at any positions.

    `items` int64 (n, L); `position` int64 from 1, broadcast to it; `affinity` as `World.affinity` gives it, where it is
    known already. An item of -1 is never looked at.
    """
    known = np.maximum(items, 0)
    if affinity is None:
        affinity = world.affinity(state, requests.user, known, requests.time_us)
    looked = world.examination(requests.surface[:, None], position, requests.time_us[:, None])
    return Chances(
        examined=np.where(items >= 0, np.broadcast_to(looked, items.shape), 0.0),
        attraction=_sigmoid(world.appeal(state, requests, known, affinity)),
        worth=_worth(world, affinity, known),
    )


def react(world: World, state: State, requests: Requests, slates: Slates) -> Outcomes:
    """What the users of `requests` do with `slates`; `state` goes on to their next requests.

    The noise of a (user, request ordinal, item) does not depend on the position or on what else was shown, so that two
    policies which show the same item meet the same luck.
    """
    items, known = slates.items, np.maximum(slates.items, 0)
    position = 1 + np.arange(items.shape[1])[None, :]
    affinity = world.affinity(state, requests.user, known, requests.time_us)
    truth = chances(world, state, requests, items, position, affinity)
    look, like, _, _ = words(world.spec.seed, Stream.REACTION, requests.user[:, None], requests.ordinal[:, None], known)
    clicked = (uniform(look) < truth.examined) & (uniform(like) < truth.attraction)
    happened = _reactions(world, requests, items, affinity, clicked)
    world.advance(state, requests, clicked, known)
    return Outcomes(truth, clicked, happened)


def _worth(world: World, affinity: Floats, items: Ints) -> Floats:
    """Expected worth of the first reaction and all that may follow it; float64 (n, L)."""
    reactions = world.spec.profile.reactions
    reached = [np.ones(items.shape)]
    total = reactions[0].worth * reached[0]
    for place, reaction in enumerate(reactions[1:], start=1):
        odds = reaction.bias + reaction.taste * affinity + reaction.quality * world.quality[items]
        reached.append(reached[world.spec.profile.parent(place)] * _sigmoid(odds))
        total = total + reaction.worth * reached[place]
    return total


def _reactions(
    world: World, requests: Requests, items: Ints, affinities: Floats, clicked: npt.NDArray[np.bool_]
) -> Happened:
    """The first reactions, and who goes on to the others, each with its delay and value."""
    row, slot = (each.astype(np.int64) for each in np.nonzero(clicked))
    item, user, ordinal = items[row, slot], requests.user[row], requests.ordinal[row]
    affinity = affinities[row, slot]
    did: list[npt.NDArray[np.bool_]] = []
    times: list[Ints] = []
    parts = []
    for place, reaction in enumerate(world.spec.profile.reactions):
        happen, later, first, second = words(world.spec.seed, Stream.REACTION + 1 + place, user, ordinal, item)
        if (parent := world.spec.profile.parent(place)) < 0:
            did.append(np.ones(len(row), bool))
            begun = requests.time_us[row] + slot * _DWELL_US + 500_000
        else:
            odds = reaction.bias + reaction.taste * affinity + reaction.quality * world.quality[item]
            did.append(did[parent] & (uniform(happen) < _sigmoid(odds)))
            begun = times[parent] + 1_000_000
        times.append(begun + (-np.log(uniform(later)) * reaction.delay_us).astype(np.int64))
        value = np.zeros(len(row))
        if (spec := reaction.value) is not None:
            value = np.clip(spec.mean + spec.taste * affinity + spec.noise * normal(first, second), spec.low, spec.high)
            value = np.rint(value) if spec.whole else value
        (identity, _, _, _) = words(world.spec.seed, Stream.EVENT, user, ordinal, item * _REACTIONS + place)
        parts.append((row, slot, user, item, np.full(len(row), place), times[place], value, np.maximum(identity, 1)))
    keep = np.stack(did, axis=1).reshape(-1)
    taken = [np.stack(each, axis=1).reshape(-1)[keep] for each in zip(*parts, strict=True)]
    return Happened(
        row=taken[0],
        slot=taken[1],
        user=taken[2],
        item=taken[3],
        reaction=taken[4],
        time_us=taken[5],
        value=taken[6].astype(np.float32),
        event_id=taken[7],
    )


def _sigmoid(odds: Floats) -> Floats:
    out: Floats = 1.0 / (1.0 + np.exp(-odds))
    return out
