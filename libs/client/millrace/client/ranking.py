"""Ask for ranked lists."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, Self

from millrace.client import _channel
from millrace.client.access import Access, Tls, Token
from millrace.client.budgets import Hedging
from millrace.events.v1 import events_pb2
from millrace.ranking.v1 import ranking_pb2 as pb

RANK_S: Final = 0.15
EXPLAIN_S: Final = 2.0  # twenty items are scored hundreds of times
SERVICE: Final = f"/{pb.DESCRIPTOR.services_by_name['RankingService'].full_name}"
DEFAULT_HEDGING: Final = Hedging()


class Priority(IntEnum):
    """Who is shed first under load: BATCH, then PREFETCH, then INTERACTIVE."""

    INTERACTIVE = 1
    PREFETCH = 2
    BATCH = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """Who asks, from where; your own codes, 0 = unknown. `time_us`: when features are evaluated, None = now.

    A server takes `time_us` only where MILLRACE_ALLOW_REQUEST_TIME is on (replay, tests).
    """

    device: int = 0
    surface: int = 0
    country: int = 0
    session_id: int = 0
    time_us: int | None = None


@dataclass(frozen=True, slots=True)
class RankedItem:
    """One place of a list; `position` counts from 1, `reason` is the source that brought the item."""

    item_id: int
    score: float
    position: int
    reason: str


@dataclass(frozen=True, slots=True)
class Row:
    """Which user row was read: its writer's epoch, and 1 + the newest record of each topic in it; all 0: none."""

    epoch: int
    interactions_offset: int
    users_offset: int


@dataclass(frozen=True, slots=True)
class Ranking:
    """A ranked list, and how it came about.

    `served_by` is the rung: MODEL, LOCAL_MODEL, PRECOMPUTED or POPULAR. Send `request_id` with the events that answer
    the list. `feature_age_us`: evaluation time minus the user's newest known event. `stages`: microseconds by stage.
    """

    request_id: int
    items: tuple[RankedItem, ...]
    served_by: str
    model_name: str
    model_version: int
    arm: str
    reason: str
    feature_age_us: int
    row: Row
    stages: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Feature:
    """What one feature of an item's row adds to its raw score.

    `value` None: no single number, a history say. `age_us`: how long before the evaluation the newest event in it
    happened; None where there is none.
    """

    name: str
    value: float | None
    contribution: float
    age_us: int | None


@dataclass(frozen=True, slots=True)
class ExplainedItem:
    """`raw` is the logit of a probability, else the score; it is the base, plus all contributions, plus `rest`."""

    item_id: int
    score: float
    raw: float
    features: tuple[Feature, ...]
    rest: float
    position: int


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why items were scored as they were, by which bundle and by which method."""

    items: tuple[ExplainedItem, ...]
    base: float
    method: str
    model_name: str
    model_version: int


class RankingClient:
    """Asks the gateway. Thread-safe; close it, or use it as a context manager.

    Example:
        >>> with RankingClient("127.0.0.1:50051") as client:  # doctest: +SKIP
        ...     ranking = client.rank("movies", 196, [1, 50, 100], limit=10)
        ...     print(ranking.served_by, [item.item_id for item in ranking.items])
    """

    def __init__(
        self,
        target: str | Sequence[str],
        *,
        timeout_s: float = RANK_S,
        tls: Tls | None = None,
        token: Token | None = None,
        hedging: Hedging | None = DEFAULT_HEDGING,
    ) -> None:
        """`target` is `host:port`, several of them, or all in one text (`Access.of`).

        `timeout_s` is the deadline of each call unless the call says otherwise. `token`: a text, a file that is read
        again when it changes, or what returns one. With several targets calls go to each in turn, and a slow one is
        hedged; `hedging=None` leaves that out. ValueError if these do not go together.
        """
        self._timeout_s = timeout_s
        self._connection = _channel.Connection(Access.of(target, tls, token), hedging)
        self._rank = self._connection.method(f"{SERVICE}/Rank", pb.RankRequest, pb.RankResponse)
        self._recommend = self._connection.method(f"{SERVICE}/Recommend", pb.RecommendRequest, pb.RankResponse)
        self._explain = self._connection.method(f"{SERVICE}/Explain", pb.ExplainRequest, pb.ExplainResponse)

    @property
    def hedges(self) -> tuple[int, int]:
        """Calls so far, and how many of them asked a second target."""
        counted = self._connection.hedges
        return (counted.calls, counted.hedges) if counted else (0, 0)

    def rank(
        self,
        usecase: str,
        user_id: int,
        item_ids: Sequence[int],
        *,
        limit: int = 0,
        context: Context | None = None,
        priority: Priority = Priority.INTERACTIVE,
        min_interactions_offset: int = 0,
        timeout_s: float | None = None,
    ) -> Ranking:
        """Order your items (at most 2,000; duplicates are merged) for a user; `limit` 0 returns all.

        `min_interactions_offset`: wait, within the deadline, until the user's row knows the log up to there, to read
        your own writes (1 + an offset that `publish` returned).

        Raises:
            InvalidRequest: the message names the field.
            DeadlineExceeded, Unavailable, Overloaded, ServerFailed: no list; show your own default.
        """
        request = pb.RankRequest(
            usecase=usecase,
            user_id=user_id,
            item_ids=item_ids,
            limit=limit,
            context=_context(context),
            priority=pb.Priority.Name(priority.value),
            min_interactions_offset=min_interactions_offset,
        )
        return _ranking(self._connection.call(self._rank, request, self._deadline_s(timeout_s)))

    def recommend(
        self,
        usecase: str,
        user_id: int,
        *,
        limit: int = 10,
        context: Context | None = None,
        exclude_ids: Sequence[int] = (),
        priority: Priority = Priority.INTERACTIVE,
        min_interactions_offset: int = 0,
        timeout_s: float | None = None,
    ) -> Ranking:
        """Find items for a user, without `exclude_ids` and what the user has consumed. Otherwise as `rank`."""
        request = pb.RecommendRequest(
            usecase=usecase,
            user_id=user_id,
            limit=limit,
            context=_context(context),
            exclude_ids=exclude_ids,
            priority=pb.Priority.Name(priority.value),
            min_interactions_offset=min_interactions_offset,
        )
        return _ranking(self._connection.call(self._recommend, request, self._deadline_s(timeout_s)))

    def explain(
        self,
        usecase: str,
        *,
        request_id: int = 0,
        user_id: int = 0,
        item_ids: Sequence[int] = (),
        context: Context | None = None,
        top: int = 0,
        timeout_s: float = EXPLAIN_S,
    ) -> Explanation:
        """Why items (at most 20) are scored as they are: of a user now, or of an answer by its `request_id`.

        `top`: how many features of each item, those that move its score most; 0 = all. An answer is remembered by the
        very process that gave it, so ask that one alone.

        Raises:
            NotFound: that answer is not remembered there any more.
            MillraceError: as `rank`.
        """
        request = pb.ExplainRequest(
            usecase=usecase,
            request_id=request_id,
            user_id=user_id,
            item_ids=item_ids,
            context=_context(context),
            top=top,
        )
        return _explanation(self._connection.call(self._explain, request, timeout_s))

    def close(self) -> None:
        """Close the connections."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _deadline_s(self, timeout_s: float | None) -> float:
        return self._timeout_s if timeout_s is None else timeout_s


def _context(context: Context | None) -> events_pb2.Context:
    given = context or Context()
    return events_pb2.Context(
        device=given.device,
        surface=given.surface,
        country=given.country,
        session_id=given.session_id,
        time_us=given.time_us,
    )


def _ranking(answer: pb.RankResponse) -> Ranking:
    return Ranking(
        request_id=answer.request_id,
        items=tuple(RankedItem(item.item_id, item.score, item.position, item.reason) for item in answer.items),
        served_by=events_pb2.Rung.Name(answer.served_by).removeprefix("RUNG_"),
        model_name=answer.model_name,
        model_version=answer.model_version,
        arm=answer.arm,
        reason=answer.reason,
        feature_age_us=answer.feature_age_us,
        row=Row(answer.row.epoch, answer.row.interactions_offset, answer.row.users_offset),
        stages={stage.stage: stage.micros for stage in answer.stages},
    )


def _explanation(answer: pb.ExplainResponse) -> Explanation:
    return Explanation(
        items=tuple(
            ExplainedItem(
                item.item_id, item.score, item.raw,
                tuple(_feature(each) for each in item.features),
                item.rest, item.position,
            )
            for item in answer.items
        ),
        base=answer.base,
        method=answer.method,
        model_name=answer.model_name,
        model_version=answer.model_version,
    )  # fmt: skip


def _feature(given: pb.FeatureContribution) -> Feature:
    value = given.value if given.HasField("value") else None
    return Feature(given.name, value, given.contribution, given.age_us if given.HasField("age_us") else None)
