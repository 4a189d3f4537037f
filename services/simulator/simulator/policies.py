"""Policies that serve in process: from what may be known of a request to a list, with its propensities.

A policy sees `Requests` and `Views` only. Its own randomness is counter-based like the world's.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from simulator.randomness import Stream, uniform, words
from simulator.reacting import Slates
from simulator.world import Floats, Ints, Requests, Views

Scorer = Callable[[Requests], Floats]
"""float64 (n, K): a score of each candidate of each request."""


class Serving(Protocol):
    """Whoever answers requests: a policy in process, or the real gateway."""

    def serve(self, requests: Requests) -> Slates:
        """One list a request; may depend on nothing but the request itself, or results depend on the batch."""


@dataclass(frozen=True)
class ViewScorer:
    """Scores by what attributes tell: the product of noisy views over the root of their width, times `scale`."""

    views: Views
    scale: float = 1.0

    def __call__(self, requests: Requests) -> Floats:
        """float64 (n, K)."""
        users, total = self.views.user[requests.user], np.zeros(requests.candidates.shape)
        for each in range(users.shape[1]):  # term by term, see World.affinity
            total += users[:, each, None] * self.views.item[:, each][requests.candidates]
        out: Floats = self.scale * total / np.sqrt(users.shape[1])
        return out


@dataclass(frozen=True)
class ItemScorer:
    """The same score of an item for everybody, float64 (items,): popularity, right or wrong."""

    score: Floats

    def __call__(self, requests: Requests) -> Floats:
        """float64 (n, K)."""
        return self.score[requests.candidates]


def no_scores(requests: Requests) -> Floats:
    """All candidates alike."""
    return np.zeros(requests.candidates.shape)


@dataclass(frozen=True)
class Softmax:
    """Draws a list slot by slot: uniformly with probability `explore`, else by softmax of score / temperature.

    Without exploration this is Plackett and Luce's model; the propensity of a slot is given the slots above it, and no
    propensity of K candidates is below explore / K.
    """

    score: Scorer
    slots: int
    temperature: float = 1.0
    explore: float = 0.1
    seed: int = 0

    def serve(self, requests: Requests) -> Slates:
        """Lists of `slots` different candidates."""
        rows, count = np.arange(len(requests)), requests.candidates.shape[1]
        weight = np.exp(self._scaled(requests))
        left = np.ones(weight.shape)
        items = np.empty((len(requests), self.slots), np.int64)
        propensity = np.empty(items.shape)
        noise = words(
            self.seed, Stream.CHOICE, requests.user[:, None], requests.ordinal[:, None], np.arange(self.slots)[None, :]
        )[0]
        for slot in range(self.slots):
            chance = self._mixed(weight * left, left)
            reached = np.cumsum(chance, axis=1)
            drawn = (reached < uniform(noise[:, slot, None]) * reached[:, -1:]).sum(axis=1)
            drawn = np.minimum(drawn, count - 1)
            items[:, slot] = requests.candidates[rows, drawn]
            propensity[:, slot] = chance[rows, drawn]
            left[rows, drawn] = 0.0
        return Slates(items, propensity, np.zeros(len(requests), np.uint64))

    def probabilities(self, requests: Requests) -> Floats:
        """Of each candidate at the first slot: float64 (n, K), rows adding up to 1."""
        weight = np.exp(self._scaled(requests))
        return self._mixed(weight, np.ones(weight.shape))

    def _scaled(self, requests: Requests) -> Floats:
        scores = self.score(requests) / self.temperature
        out: Floats = scores - scores.max(axis=1, keepdims=True)
        return out

    def _mixed(self, weight: Floats, left: Floats) -> Floats:
        total = np.maximum(weight.sum(axis=1, keepdims=True), np.finfo(np.float64).tiny)
        out: Floats = self.explore * left / left.sum(axis=1, keepdims=True) + (1.0 - self.explore) * weight / total
        return out


@dataclass(frozen=True)
class Greedy:
    """The best candidates by score, in order; ties by item. Propensities are 1: nothing is left to chance."""

    score: Scorer
    slots: int

    def serve(self, requests: Requests) -> Slates:
        """Lists of `slots` different candidates."""
        items = best_first(self.score(requests), requests.candidates)[:, : self.slots]
        return Slates(items, np.ones(items.shape), np.zeros(len(requests), np.uint64))


def best_first(scores: Floats, items: Ints) -> Ints:
    """`items` int64 (n, K) by falling `scores`, equal ones by item."""
    order = np.lexsort((items, -scores), axis=1)
    return np.take_along_axis(items, order, axis=1)
