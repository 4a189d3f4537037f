"""The ladder: MODEL, LOCAL_MODEL, PRECOMPUTED, POPULAR. Each rung answers or says why not; the last always answers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from definitions.assembly import Assembled
from definitions.candidates import Eligible, first
from definitions.heads import combined

from gateway.admission import Admission
from gateway.breaker import Breaker
from gateway.errors import Reason, Unavailable
from gateway.model import ActiveModel, finite
from gateway.popularity import Popularity, lookup
from gateway.query import Floats, Ids, Query, Rung

RESERVE_S: Final = 0.012  # pays for lower rungs, re-rank and answer
MODEL_CAP_S: Final = 0.080
LOCAL_CAP_S: Final = 0.003  # of a 50 ms deadline; longer deadlines wait in proportion
LOCAL_SHARE: Final = 0.06
PRECOMPUTED_CAP_S: Final = 0.050
PRECOMPUTED_RESERVE_S: Final = 0.002
# Not the dependency's health: a limit of ours, or nobody asked.
_NO_STRIKE: Final[frozenset[Reason]] = frozenset({"in_flight", "off"})
# The dependency is well: what it runs is wrong, or is not there.
_ANSWERED: Final[frozenset[Reason]] = frozenset({"bad_scores", "unknown_version"})


@dataclass(frozen=True, slots=True)
class StoredList:
    """A precomputed list: `item_ids` uint64 (k,), `scores` float32 (k,), and the model that made them."""

    item_ids: Ids
    scores: Floats
    model_name: str
    model_version: int


class StoredLists(Protocol):
    """Where precomputed lists are read."""

    async def read(self, user_id: int, budget_s: float) -> StoredList:
        """The user's list in the generation that the pointer names. Raises Unavailable."""
        ...


class Meter(Protocol):
    """Counts what the core sees."""

    def rung_left(self, rung: Rung, reason: Reason) -> None:
        """A rung was passed over."""

    def stage(self, name: str, seconds: float) -> None:
        """A step of a request took that long."""

    def row(self, outcome: str) -> None:
        """How reading a user row ended."""

    def candidates(self, source: str, found: int) -> None:
        """A source brought so many."""

    def source_failed(self, source: str) -> None:
        """A source of candidates failed."""

    def tied(self) -> None:
        """All events that a row could have taken out of its values are at or after the request's time."""


class Job(NamedTuple):
    """What the rungs score: candidates uint64 (n,) without duplicates, with their features.

    `asked` tells whether the caller named them; if not, a rung may answer with eligible others. `weights` float32 (H,)
    of the model's heads.
    """

    query: Query
    candidates: Ids
    asked: bool
    wanted: int
    assembled: Assembled
    active: ActiveModel | None
    popularity: Popularity
    eligible: Eligible
    weights: Floats | None = None


class Scored(NamedTuple):
    """A rung's answer: `item_ids` uint64 (n,), `scores` float32 (n,); items marked `last` come after all others."""

    item_ids: Ids
    scores: Floats
    model_name: str = ""
    model_version: int = 0
    last: npt.NDArray[np.bool_] | None = None
    source: str = ""  # where the items come from, if not the job's


class Step(Protocol):
    """One rung."""

    rung: Rung

    def budget_s(self, left_s: float) -> float:
        """How long it may take when the request has `left_s`; 0 or less: no time to try."""
        ...

    async def score(self, job: Job, budget_s: float) -> Scored:
        """Raises Unavailable."""
        ...


class ModelStep:
    """Rung MODEL. The breaker belongs to what runs the model (Triton), not to the version."""

    rung = Rung.MODEL

    def __init__(self, breaker: Breaker) -> None:
        self._breaker = breaker

    def budget_s(self, left_s: float) -> float:
        """What is left but a reserve for the rungs below, at most 80 ms."""
        return min(left_s - RESERVE_S, MODEL_CAP_S)

    async def score(self, job: Job, budget_s: float) -> Scored:
        """The pinned version's scores."""
        if job.active is None:
            raise Unavailable("off")
        if not self._breaker.allow():
            raise Unavailable("breaker")
        health = job.active.health
        began = health.now()
        try:
            scores = await _run(job.active, local=False, job=job, budget_s=budget_s)
        except Unavailable as left:
            health.failed(left.reason)
            if left.reason in _ANSWERED:
                self._breaker.succeeded()
            elif left.reason not in _NO_STRIKE:
                self._breaker.failed(timeout=left.reason == "time")
            raise
        health.scored(began, scores)
        self._breaker.succeeded()
        return Scored(job.candidates, scores, job.active.name, job.active.version)


class LocalStep:
    """Rung LOCAL_MODEL: the pinned bundle's fallback, in this process."""

    rung = Rung.LOCAL_MODEL

    def budget_s(self, left_s: float) -> float:
        """3 ms of a 50 ms deadline, more of a longer one."""
        return min(left_s - PRECOMPUTED_RESERVE_S, max(LOCAL_CAP_S, LOCAL_SHARE * left_s))

    async def score(self, job: Job, budget_s: float) -> Scored:
        """The fallback's scores."""
        if job.active is None or job.active.local is None:
            raise Unavailable("off")
        try:
            scores = await _run(job.active, local=True, job=job, budget_s=budget_s)
        except Unavailable as left:
            if left.reason == "bad_scores":
                job.active.health.failed(left.reason)
            raise
        return Scored(job.candidates, scores, job.active.name, job.active.version)


async def _run(active: ActiveModel, *, local: bool, job: Job, budget_s: float) -> Floats:
    scorer = active.local if local and active.local is not None else active.model
    ints = active.ints(job.assembled.user_ints, job.assembled.item_ints)
    scores = combined(await scorer.score(job.assembled.features, ints, budget_s), job.weights)
    if scores.shape != (len(job.candidates),) or scores.dtype != np.float32 or not finite(scores):
        raise Unavailable("bad_scores", f"version {active.version}")
    return scores


class PrecomputedStep:
    """Rung PRECOMPUTED: the nightly list. The caller's items are ordered by it, those outside it last."""

    rung = Rung.PRECOMPUTED

    def __init__(self, lists: StoredLists, breaker: Breaker) -> None:
        self._lists = lists
        self._breaker = breaker

    def budget_s(self, left_s: float) -> float:
        """50 ms, if the request has them."""
        return min(PRECOMPUTED_CAP_S, left_s - PRECOMPUTED_RESERVE_S)

    async def score(self, job: Job, budget_s: float) -> Scored:
        """The stored scores."""
        if job.query.user_id == 0:
            raise Unavailable("no_row")
        if not self._breaker.allow():
            raise Unavailable("breaker")
        try:
            stored = await self._lists.read(job.query.user_id, budget_s)
        except Unavailable as left:
            if left.reason == "no_row":
                self._breaker.succeeded()
            elif left.reason not in _NO_STRIKE:
                self._breaker.failed(timeout=left.reason == "time")
            raise
        self._breaker.succeeded()
        if not finite(stored.scores):
            raise Unavailable("bad_scores", f"{stored.model_name}/{stored.model_version}")
        return self._ordered(job, stored) if job.asked else self._listed(job, stored)

    def _ordered(self, job: Job, stored: StoredList) -> Scored:
        by_id = np.argsort(stored.item_ids)
        scores, found = lookup(stored.item_ids[by_id], stored.scores[by_id], job.candidates)
        if not found.any():
            raise Unavailable("no_overlap")
        return Scored(job.candidates, scores, stored.model_name, stored.model_version, last=~found)

    def _listed(self, job: Job, stored: StoredList) -> Scored:
        keep = job.eligible(stored.item_ids)
        ids, scores = stored.item_ids[keep], stored.scores[keep]
        if len(ids) == 0:
            raise Unavailable("no_overlap")
        last = np.zeros(len(ids), np.bool_)
        if (missing := job.wanted - len(ids)) > 0:  # a short list is filled with what is popular
            fill = first(job.popularity.item_ids, missing, lambda c: job.eligible(c) & ~np.isin(c, ids))
            ids = np.concatenate([ids, fill])
            scores = np.concatenate([scores, np.zeros(len(fill), np.float32)])
            last = np.concatenate([last, np.ones(len(fill), np.bool_)])
        return Scored(ids, scores, stored.model_name, stored.model_version, last=last, source="precomputed")


class PopularStep:
    """Rung POPULAR: memory only, never left."""

    rung = Rung.POPULAR

    def budget_s(self, left_s: float) -> float:
        """It is tried however little is left: there is nothing below."""
        return max(left_s, 0.001)

    async def score(self, job: Job, budget_s: float) -> Scored:  # noqa: ARG002  it does not wait
        """Popularity; unknown items last."""
        scores, known = job.popularity.scores_of(job.candidates)
        return Scored(job.candidates, scores, last=~known)


class Climb(NamedTuple):
    """How a walk down the ladder ended: who answered, and which rungs were left and why."""

    rung: Rung
    scored: Scored
    left: tuple[tuple[Rung, Reason], ...]


class Ladder:
    """Walks the rungs downwards until one answers."""

    def __init__(self, steps: Sequence[Step], admission: Admission, meter: Meter, clock: Callable[[], float]) -> None:
        self._steps = steps
        self._admission = admission
        self._meter = meter
        self._clock = clock

    async def climb(self, job: Job, deadline: float, lap: Callable[[str], None]) -> Climb:
        """Scores from the best rung that answers before `deadline` (of the clock). `lap` is told of each rung tried."""
        left: list[tuple[Rung, Reason]] = []
        for step in self._steps:
            began = self._clock()
            try:
                scored = await self._try(step, job, deadline - began)
            except Unavailable as unavailable:
                left.append((step.rung, unavailable.reason))
                self._meter.rung_left(step.rung, unavailable.reason)
                lap(step.rung.value.lower())
                continue
            self._admission.note(step.rung, self._clock() - began)
            lap(step.rung.value.lower())
            return Climb(step.rung, scored, tuple(left))
        raise AssertionError("the last rung must answer")

    async def _try(self, step: Step, job: Job, left_s: float) -> Scored:
        budget_s = step.budget_s(left_s)
        last = step is self._steps[-1]
        if not last and (budget_s <= 0 or not self._admission.fits(step.rung, left_s)):
            raise Unavailable("time")
        return await step.score(job, budget_s)
