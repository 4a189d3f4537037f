"""The world: items and users with latent factors, what time does to them, and how likely each reaction is."""

import math
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from simulator.profile import DAY_US, Profile
from simulator.randomness import Stream, generator, uniform, words

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

START_US: Final = 1_700_006_400_000_000  # 15 November 2023, 00:00 UTC


@dataclass(frozen=True)
class WorldSpec:
    """What a world is made of. The same spec gives the same world, bit for bit.

    `horizon_us`: how long items come and go and trends last; the world goes on after it. `candidates`: how many items
    one request chooses from; at most `items`.
    """

    profile: Profile
    seed: int = 0
    users: int = 1_000
    items: int = 600
    candidates: int = 40
    factors: int = 8
    categories: int = 12
    start_us: int = START_US
    horizon_us: int = 14 * DAY_US


@dataclass(frozen=True)
class Requests:
    """Who asks, when, from where, and for an order of which items. Parallel arrays over n requests.

    All int64: `user`, `ordinal` (of the user's requests, from 0), `time_us`, `surface` and `device` (codes from 1),
    `candidates` (n, K) item indexes, no item twice in a row.
    """

    user: Ints
    ordinal: Ints
    time_us: Ints
    surface: Ints
    device: Ints
    candidates: Ints

    def __len__(self) -> int:
        return len(self.user)


@dataclass(frozen=True)
class Views:
    """What everybody may know: noisy views of the factors, float64 `item` (items, D), `user` (users, D)."""

    item: Floats
    user: Floats


@dataclass
class State:
    """What consumption has made of the users; arrays over all users.

    `interests` float64 (users, D); `fatigue` float64 (users, C) as of `last_us`; `ordinal` and `next_us`, int64
    (users,), are number and time of the request that comes next.
    """

    interests: Floats
    fatigue: Floats
    last_us: Ints
    ordinal: Ints
    next_us: Ints


@dataclass
class World:
    """The truth. Whoever serves must not see this object, only `Requests` and `Views`."""

    spec: WorldSpec
    centres: Floats = field(init=False, repr=False)
    factors: Floats = field(init=False, repr=False)
    category: Ints = field(init=False, repr=False)
    quality: Floats = field(init=False, repr=False)
    born_us: Ints = field(init=False, repr=False)
    dies_us: Ints = field(init=False, repr=False)
    interests: Floats = field(init=False, repr=False)
    device: Ints = field(init=False, repr=False)
    gap_us: Floats = field(init=False, repr=False)
    hour: Floats = field(init=False, repr=False)
    slope: Floats = field(init=False, repr=False)
    device_shift: Floats = field(init=False, repr=False)
    views: Views = field(init=False, repr=False)

    def __post_init__(self) -> None:
        spec, dynamics = self.spec, self.spec.profile.dynamics
        rng = generator(spec.seed, Stream.FACTORS)
        width, categories, items, users = spec.factors, spec.categories, spec.items, spec.users
        self.centres = rng.normal(size=(categories, width))
        self.category = rng.integers(0, categories, items)
        self.factors = 0.8 * self.centres[self.category] + 0.6 * rng.normal(size=(items, width))
        self.quality = rng.normal(size=items)
        alive = rng.random(items), rng.random(items), rng.random(items), rng.random(items)
        life_us = np.maximum(1.0, spec.horizon_us * np.stack(alive))
        self.born_us = spec.start_us + np.where(alive[0] < dynamics.coming, life_us[1], -life_us[1]).astype(np.int64)
        ends = spec.start_us + (life_us[3]).astype(np.int64)
        goes = (alive[2] < dynamics.going) & (ends > self.born_us)
        self.dies_us = np.where(goes, ends, np.iinfo(np.int64).max)
        blend = rng.dirichlet(np.full(categories, 0.3), users)
        self.interests = 1.3 * blend @ self.centres + 0.5 * rng.normal(size=(users, width))
        shares = np.array(spec.profile.devices)
        self.device = 1 + rng.choice(len(shares), users, p=shares / shares.sum())
        activity = spec.profile.activity
        self.gap_us = DAY_US / activity.requests_per_day * np.exp(activity.spread * rng.normal(size=users))
        self.hour = rng.random(categories)
        self.slope = dynamics.trend * rng.normal(size=categories)
        self.device_shift = 0.25 * rng.normal(size=(len(shares), categories))
        noise = dynamics.view_noise
        self.views = Views(
            self.factors + noise * rng.normal(size=self.factors.shape),
            self.interests + noise * rng.normal(size=self.interests.shape),
        )
        self._strata = np.linspace(0, items, spec.candidates + 1).astype(np.int64)
        self._shelf = rng.permutation(items)  # a request takes one item of each stratum of it
        first = self._shelf[self._strata[:-1]]
        self.born_us[first] = np.minimum(self.born_us[first], spec.start_us - 1)  # always there, so that a choice is
        self.dies_us[first] = np.iinfo(np.int64).max
        self._by_factor = np.ascontiguousarray(self.factors.T)

    def begin(self) -> State:
        """Everybody before the first request."""
        users = np.arange(self.spec.users)
        state = State(
            interests=self.interests.copy(),
            fatigue=np.zeros((self.spec.users, self.spec.categories)),
            last_us=np.full(self.spec.users, self.spec.start_us),
            ordinal=np.zeros(self.spec.users, np.int64),
            next_us=np.full(self.spec.users, self.spec.start_us),
        )
        state.next_us += self._gaps(users, state.ordinal)
        return state

    def requests(self, state: State, users: Ints) -> Requests:
        """The next request of each of `users` (no user twice). Changes nothing."""
        ordinal, time_us = state.ordinal[users], state.next_us[users]
        place, _, moved, _ = words(self.spec.seed, Stream.CONTEXT, users, ordinal, 0)
        shares = np.cumsum([each.share for each in self.spec.profile.surfaces])
        surface = 1 + np.searchsorted(shares, uniform(place) * shares[-1], side="right").astype(np.int64)
        traffic = self._drift("traffic", time_us)
        surface = np.where(uniform(moved) < traffic, len(shares), np.minimum(surface, len(shares)))
        return Requests(users, ordinal, time_us, surface, self.device[users], self._candidates(users, ordinal, time_us))

    def advance(self, state: State, requests: Requests, consumed: npt.NDArray[np.bool_], items: Ints) -> None:
        """Consumption moves interests and tires; then each of these users waits for the next request.

        `consumed` bool and `items` int64, both (n, L); an item of -1 was never consumed.
        """
        dynamics, users = self.spec.profile.dynamics, requests.user
        count = consumed.sum(axis=1)
        moved = np.zeros((len(users), self.spec.factors))
        fatigue = self._fatigue(state, users, requests.time_us)
        rows = np.arange(len(users))
        for slot in range(items.shape[1]):  # a user's items in shown order: the sum is the same in any batch
            weight = consumed[:, slot].astype(np.float64)
            moved += weight[:, None] * self.factors[items[:, slot]]
            fatigue[rows, self.category[items[:, slot]]] += weight
        step = dynamics.plasticity
        state.interests[users] = (state.interests[users] + step * moved) / (1.0 + step * count)[:, None]
        state.fatigue[users] = fatigue
        state.last_us[users] = requests.time_us
        state.ordinal[users] += 1
        state.next_us[users] += self._gaps(users, state.ordinal[users])

    def affinity(self, state: State, users: Ints, items: Ints, time_us: Ints) -> Floats:
        """How near users and items are: float64 (n, L), mean 0.2, deviation 0.8 (profile `movies`).

        `users` and `time_us` int64 (n,), `items` int64 (n, L).
        """
        interests = state.interests[users]
        turned = self._drift("taste", time_us)[:, None]
        interests = (1.0 - turned) * interests + turned * np.roll(interests, 1, axis=1)
        total = np.zeros(items.shape)
        for each in range(self.spec.factors):  # term by term: a matrix product's order depends on the batch
            total += interests[:, each, None] * self._by_factor[each][items]
        return total / math.sqrt(self.spec.factors)

    def appeal(self, state: State, requests: Requests, items: Ints, affinity: Floats) -> Floats:
        """Log-odds that somebody who looks at an item takes up the first reaction; float64 (n, L), as the arguments."""
        root, dynamics = self.spec.profile.reactions[0], self.spec.profile.dynamics
        category, time_us = self.category[items], requests.time_us
        elapsed = (time_us - self.spec.start_us) / self.spec.horizon_us
        phase = 2.0 * np.pi * (time_us[:, None] / DAY_US - self.hour[category])
        age = np.maximum(time_us[:, None] - self.born_us[items], 0) / dynamics.novelty_half_life_us
        fatigue = self._fatigue(state, requests.user, time_us)
        rows = np.arange(len(requests))[:, None]
        odds: Floats = (
            root.bias
            + root.taste * affinity
            + root.quality * self.quality[items]
            + dynamics.season * np.sin(phase)
            + self.slope[category] * elapsed[:, None]
            + dynamics.novelty * np.exp2(-age)
            + self.device_shift[requests.device[:, None] - 1, category]
            - dynamics.fatigue * np.log1p(fatigue[rows, category])
            + self._drift("clicks", time_us)[:, None]
        )
        return odds

    def examination(self, surface: Ints, position: Ints, time_us: Ints) -> Floats:
        """Probability that a person looks at a position (from 1): float64, of the arguments' broadcast shape."""
        exponents = np.array([each.examination for each in self.spec.profile.surfaces])[surface - 1]
        return np.power(position.astype(np.float64), -(exponents + self._drift("examination", time_us)))

    def alive(self, items: Ints, time_us: npt.NDArray[np.int64] | int) -> npt.NDArray[np.bool_]:
        """Which items the catalogue has at a time."""
        found: npt.NDArray[np.bool_] = (self.born_us[items] <= time_us) & (time_us < self.dies_us[items])
        return found

    def _candidates(self, users: Ints, ordinal: Ints, time_us: Ints) -> Ints:
        """One living item of each stratum of the shelf: four tries, then the one that is always there."""
        strata = np.arange(self.spec.candidates)
        tries = words(self.spec.seed, Stream.CANDIDATE, users[:, None], ordinal[:, None], strata[None, :])
        begin, size = self._strata[:-1], np.diff(self._strata)
        chosen = np.broadcast_to(self._shelf[begin], (len(users), len(strata))).copy()
        missing = np.ones(chosen.shape, bool)
        for word in tries:
            item = self._shelf[begin + (uniform(word) * size).astype(np.int64)]
            take = missing & self.alive(item, time_us[:, None])
            chosen[take] = item[take]
            missing &= ~take
        return chosen

    def _gaps(self, users: Ints, ordinal: Ints) -> Ints:
        """Time until each user's next request, exponential, at least a second."""
        first, _, _, _ = words(self.spec.seed, Stream.GAP, users, ordinal, 0)
        return 1_000_000 + (-np.log(uniform(first)) * self.gap_us[users]).astype(np.int64)

    def _fatigue(self, state: State, users: Ints, time_us: Ints) -> Floats:
        faded = (time_us - state.last_us[users]) / self.spec.profile.dynamics.fatigue_half_life_us
        out: Floats = state.fatigue[users] * np.exp2(-faded)[:, None]
        return out

    def _drift(self, kind: str, time_us: Ints) -> Floats:
        """How far the planned changes of a kind have come, summed: float64, as `time_us`."""
        total = np.zeros(time_us.shape)
        for change in self.spec.profile.drift:
            if change.kind == kind:
                since = time_us - (self.spec.start_us + change.at_us)
                total += change.size * np.clip(since / max(change.ramp_us, 1), 0.0, 1.0)
        return total
