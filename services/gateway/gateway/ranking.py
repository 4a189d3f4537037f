"""The core: query -> row -> candidates -> features -> ladder -> re-rank -> answer. Plain types, no I/O library."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from definitions.assembly import Assembled, assemble, compiled, past_items
from definitions.candidates import NO_SOURCES, NOTHING, Candidates, Catalogue, Eligible, Want
from definitions.interleaving import interleaved
from definitions.item_snapshot import Attributes, ItemColumns
from definitions.layout import Layout
from definitions.packed import UserRow
from definitions.rerank import Order, Ordered
from definitions.serving_rules import ServingRules
from definitions.shortlist import eligible_items, history_ids, how_many
from definitions.user_values import UserAt

from gateway import retrieval
from gateway.admission import OWN_WORK, Admission
from gateway.ladder import Climb, Job, Ladder, Meter, Scored
from gateway.model import ActiveModel, Choice, Partner
from gateway.popularity import Popularity
from gateway.query import (
    DEFAULT_LIMIT,
    Floats,
    Ids,
    Ints,
    Query,
    Ranking,
    RowVersion,
    Rung,
    Shown,
    Stage,
    validate,
)
from gateway.rows import Rows

_BY_MODEL: Final = frozenset({Rung.MODEL, Rung.LOCAL_MODEL})
_WAITS: Final = frozenset({"row", "model", "local_model", "precomputed"})  # stages that are not our own work


class Items(Protocol):
    """The catalogue and its aggregates, in memory."""

    def view(self, item_ids: Ids, time_us: int, past_ids: Ids | None) -> ItemColumns:
        """Columns of uint64 (n,) items at a time; unknown items are empty."""
        ...

    def not_deleted(self, item_ids: Ids) -> Ids:
        """Those that the catalogue has not taken away; items that it never had stay."""
        ...

    def known(self, item_ids: Ids) -> npt.NDArray[np.bool_]:
        """Whether each is in the catalogue, bool (n,)."""
        ...

    def attributes(self, item_ids: Ids) -> Attributes:
        """What filters read."""
        ...

    def newest_us(self, item_ids: Ids) -> Ints:
        """Time of each item's newest event, int64 (n,); 0 if it has none."""
        ...

    def largest(self, number: str) -> Ids:
        """The catalogue by a number attribute, largest first."""
        ...

    @property
    def popularity(self) -> Popularity:
        """The catalogue by popularity, at most two seconds old."""
        ...


class ImpressionSink(Protocol):
    """Where impressions go."""

    def offer(self, shown: Shown) -> None:
        """Take it, or drop and count it. Never waits."""
        ...


@dataclass(frozen=True)
class Clock:
    """`monotonic` in seconds, for budgets; `now_us` in microseconds since the epoch, for features."""

    monotonic: Callable[[], float]
    now_us: Callable[[], int]


class _Inputs(NamedTuple):
    """Candidates as they are known at one time, and the model's inputs made of that."""

    items: ItemColumns
    assembled: Assembled


@dataclass(frozen=True, slots=True)
class Looked:
    """Items as one request would see them now: `item_ids` uint64 (n,), and the model's inputs at `time_us`.

    `row`: which user row was read, with its newest event at `last_event_us`; None: there is none. `heads`: weights of
    the model's heads as the rules say them.
    """

    item_ids: Ids
    assembled: Assembled
    model: ActiveModel | None
    heads: Mapping[str, float]
    arm: str
    time_us: int
    row: RowVersion | None
    last_event_us: int


class _Watch:
    """Laps of one request."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.began = self._lap_began = clock()
        self.laps: list[tuple[str, float]] = []

    def lap(self, name: str) -> None:
        now = self._clock()
        self.laps.append((name, now - self._lap_began))
        self._lap_began = now


class Ranker:
    """Ranks for one use case. `choose` says for each request by which model, rules and arm: what is in force then."""

    def __init__(
        self,
        *,
        allow_time: bool,
        layout: Layout,
        rows: Rows,
        items: Items,
        ladder: Ladder,
        choose: Callable[[Query], Choice],
        impressions: ImpressionSink,
        admission: Admission,
        meter: Meter,
        clock: Clock,
        new_id: Callable[[], int],
    ) -> None:
        self._allow_time = allow_time
        compiled(layout)
        self._layout = layout
        self._rows = rows
        self._items = items
        self._ladder = ladder
        self._choose = choose
        self._impressions = impressions
        self._admission = admission
        self._meter = meter
        self._clock = clock
        self._new_id = new_id

    async def rank(self, query: Query, budget_s: float) -> Ranking:
        """An answer within `budget_s`, from the best rung that can give one.

        Raises:
            InvalidRequest: names the field.
            DeadlineTooShort, Overloaded: `budget_s` is too small for any rung.
        """
        watch = _Watch(self._clock.monotonic)
        deadline = watch.began + budget_s
        self._admission.check(budget_s, query.priority)
        validate(query, allow_time=self._allow_time)
        choice = self._choose(query)  # this request keeps it, whatever is swapped meanwhile
        time_us = self._clock.now_us() if query.time_us is None else query.time_us
        row = await self._rows.read(query.user_id, query.min_interactions_offset, budget_s)
        watch.lap("row")
        user = UserAt(self._layout, row, time_us)
        popularity = self._items.popularity
        eligible = self._eligible(query, choice.rules, row, time_us)
        found = None if query.item_ids is not None else self._found(query, choice, user, eligible)
        candidates = self._items.not_deleted(_distinct(query.item_ids)) if found is None else found.item_ids  # type: ignore[arg-type]
        watch.lap("retrieval")
        inputs = self._inputs(query, user, candidates)
        if inputs.assembled.tied:
            self._meter.tied()
        watch.lap("features")
        job = Job(
            query=query,
            candidates=candidates,
            asked=query.item_ids is not None,
            wanted=_wanted(query),
            assembled=inputs.assembled,
            active=choice.model,
            popularity=popularity,
            eligible=eligible,
            weights=_weights(choice.model, choice.rules),
        )
        climb = await self._ladder.climb(job, deadline, watch.lap) if len(candidates) else _nothing(candidates)
        if climb.scored.item_ids is not candidates:  # the rung brought other items
            climb = _with_pins(climb, choice.rules, eligible)
            inputs = self._inputs(query, user, climb.scored.item_ids)
            watch.lap("features")
        request_id = self._new_id()
        ordered = _ordered(job, choice.rules, climb, inputs, request_id, explore=choice.partner is None)
        teams: tuple[str, ...] = ()
        if choice.partner is not None and climb.rung is Rung.MODEL:
            ordered, teams = await self._drafted(
                choice.partner, job, climb, inputs, ordered, request_id, deadline, watch
            )
        watch.lap("rerank")
        return self._answer(
            request_id, job, choice, found, climb, ordered, teams, inputs, row, time_us, budget_s, watch
        )  # fmt: skip

    async def _drafted(
        self, partner: Partner, job: Job, climb: Climb, inputs: _Inputs, own: Ordered, request_id: int,
        deadline: float, watch: _Watch,
    ) -> tuple[Ordered, tuple[str, ...]]:  # fmt: skip
        """The list that both rankings drafted of the same candidates, and whose each shown item is.

        The `own` one, and nobody's, where the partner's model does not answer in time. Nothing is explored.
        """
        watch.lap("rerank")
        theirs = job._replace(active=partner.model, weights=_weights(partner.model, partner.rules))
        if partner.model is not job.active or theirs.weights is not job.weights:
            climb = await self._ladder.climb(theirs, deadline, watch.lap)
            if climb.rung is not Rung.MODEL:
                return own, ()
        others = _ordered(theirs, partner.rules, climb, inputs, request_id, explore=False)
        return interleaved(job.candidates, own, others, request_id, partner.names)

    async def look(self, query: Query, budget_s: float) -> Looked:
        """What the caller's items look like now. Nothing is ranked, and nothing logged. Raises InvalidRequest."""
        validate(query, allow_time=self._allow_time)
        choice = self._choose(query)
        time_us = self._clock.now_us() if query.time_us is None else query.time_us
        row = await self._rows.read(query.user_id, query.min_interactions_offset, budget_s)
        item_ids = NOTHING if query.item_ids is None else _distinct(query.item_ids)
        assembled = self._inputs(query, UserAt(self._layout, row, time_us), item_ids).assembled
        version = _version(row)
        last_us = 0 if row is None else row.header.last_event_time_us
        heads = choice.rules.rules.heads
        return Looked(item_ids, assembled, choice.model, heads, choice.arm, time_us, version, last_us)

    def newest_us(self, item_ids: Ids) -> Ints:
        """Time of each item's newest event, int64 (n,); 0 if it has none."""
        return self._items.newest_us(item_ids)

    def _eligible(self, query: Query, rules: ServingRules, row: UserRow | None, time_us: int) -> Eligible:
        seen = None if row is None else row.seen_mask
        return eligible_items(self._items, rules, query.context, time_us, seen=seen, exclude=query.exclude_ids)

    def _found(self, query: Query, choice: Choice, user: UserAt, eligible: Eligible) -> Candidates:
        """What the rules' sources bring for this user."""
        rules = choice.rules
        want = Want(
            history=history_ids(rules, user),
            context=query.context,
            limit=how_many(rules, _wanted(query)),
            eligible=eligible,
        )
        catalogue = Catalogue(self._items.popularity.item_ids, self._items.largest)
        sources = NO_SOURCES if choice.model is None else choice.model.sources
        return retrieval.candidates(want, rules, sources, catalogue, self._meter)

    def _inputs(self, query: Query, user: UserAt, item_ids: Ids) -> _Inputs:
        items = self._items.view(item_ids, user.time_us, past_items(user))
        return _Inputs(items, assemble(user, items, query.context))

    def _answer(
        self,
        request_id: int,
        job: Job,
        choice: Choice,
        found: Candidates | None,
        climb: Climb,
        ordered: Ordered,
        teams: tuple[str, ...],
        inputs: _Inputs,
        row: UserRow | None,
        time_us: int,
        budget_s: float,
        watch: _Watch,
    ) -> Ranking:
        scored, query, order, shown = climb.scored, job.query, ordered.order, ordered.shown
        item_ids, scores = scored.item_ids[order], scored.scores[order]
        reasons = _reasons(choice.rules, found, scored, order)
        if teams:
            reasons = tuple(map("@".join, zip(reasons, teams, strict=False))) + reasons[shown:]
        header = None if row is None else row.header
        watch.lap("answer")
        for name, seconds in watch.laps:
            self._meter.stage(name, seconds)
        self._admission.note(OWN_WORK, sum(seconds for name, seconds in watch.laps if name not in _WAITS))
        ranking = Ranking(
            request_id=request_id,
            item_ids=item_ids[:shown],
            scores=scores[:shown],
            reasons=reasons[:shown],
            rung=climb.rung,
            model_name=scored.model_name,
            model_version=scored.model_version,
            arm=choice.arm,
            feature_age_us=0 if header is None else max(0, time_us - header.last_event_time_us),
            row=_version(row),
            stages=tuple(Stage(name, round(seconds * 1e6)) for name, seconds in watch.laps),
            reason=_why(job, climb, self._items.popularity),
        )
        if shown:
            self._impressions.offer(
                Shown(
                    ranking=ranking,
                    query=query,
                    time_us=time_us,
                    deadline_ms=round(budget_s * 1e3),
                    item_ids=item_ids,
                    scores=scores,
                    reasons=reasons,
                    order=order,
                    propensities=ordered.propensities,
                    rule_codes=inputs.items.codes.take(choice.rules.reranker.columns, axis=1),
                    rules=choice.rules,
                    model=choice.model,
                    unknown=None if scored.last is None else scored.last[order],
                    features=inputs.assembled.features,
                    user_ints=inputs.assembled.user_ints,
                    item_ints=inputs.assembled.item_ints,
                    item_markers=inputs.items.markers,
                    layout_hash=self._layout.layout_hash,
                )
            )
        return ranking


def _ordered(
    job: Job, rules: ServingRules, climb: Climb, inputs: _Inputs, request_id: int, *, explore: bool = True
) -> Ordered:
    """All candidates, those that are shown first."""
    scored, vectors = climb.scored, None
    if rules.reranker.wants_vectors and job.active is not None and job.active.sources.towers is not None:
        vectors = job.active.sources.towers.directions(scored.item_ids)
    return rules.reranker.order(
        scored.item_ids,
        scored.scores,
        job.wanted,
        request_id=request_id,
        codes=inputs.items.codes.take(rules.reranker.columns, axis=1),
        last=scored.last,
        vectors=vectors,
        explore=explore and climb.rung in _BY_MODEL,
    )


def _version(row: UserRow | None) -> RowVersion | None:
    if row is None:
        return None
    return RowVersion(row.header.epoch, row.header.interactions_offset, row.header.users_offset)


def _weights(model: ActiveModel | None, rules: ServingRules) -> Floats | None:
    """Of the model's heads, as the rules say."""
    return None if model is None or not model.heads else rules.weights(model.digest, model.heads)


def _wanted(query: Query) -> int:
    """How many items to return; 0 = all that were asked for."""
    if query.item_ids is None:
        return query.limit or DEFAULT_LIMIT
    return query.limit


def _distinct(item_ids: Ids) -> Ids:
    """The caller's ids without duplicates, ascending."""
    ids = item_ids.copy()
    ids.sort()  # np.unique hashes first: 250 us of 100 ids, against 5
    again = ids[1:] == ids[:-1]
    if not np.count_nonzero(again):
        return ids
    unique: Ids = ids[np.concatenate([[True], ~again])]
    return unique


def _with_pins(climb: Climb, rules: ServingRules, eligible: Eligible) -> Climb:
    """A rung that brought items of its own gets the pinned ones too: business rules hold on every rung."""
    scored = climb.scored
    pinned = rules.pinned[~np.isin(rules.pinned, scored.item_ids)] if len(rules.pinned) else rules.pinned
    if not len(pinned) or not len(pinned := pinned[eligible(pinned)]):
        return climb
    last = np.zeros(len(scored.item_ids), np.bool_) if scored.last is None else scored.last
    more = scored._replace(
        item_ids=np.concatenate([scored.item_ids, pinned]),
        scores=np.concatenate([scored.scores, np.zeros(len(pinned), np.float32)]),
        last=np.concatenate([last, np.ones(len(pinned), np.bool_)]),
    )
    return climb._replace(scored=more)


def _nothing(candidates: Ids) -> Climb:
    return Climb(Rung.POPULAR, Scored(candidates, np.empty(0, np.float32)), ())


def _reasons(rules: ServingRules, found: Candidates | None, scored: Scored, order: Order) -> tuple[str, ...]:
    """Where each candidate comes from, in order."""
    if scored.source:
        filled = [False] * len(order) if scored.last is None else scored.last[order].tolist()
        return tuple("popular" if last else scored.source for last in filled)
    if found is None:
        return ("requested",) * len(order)
    return tuple(map(rules.reasons.__getitem__, found.source[order].tolist()))


def _why(job: Job, climb: Climb, popularity: Popularity) -> str:
    """Why the answer is empty or low on the ladder; empty for a good answer."""
    if len(popularity) == 0 and climb.rung is Rung.POPULAR:
        return "no_catalogue"
    if len(job.candidates) == 0:
        return "no_candidates"
    return ",".join(f"{rung.value}:{reason}" for rung, reason in climb.left)
