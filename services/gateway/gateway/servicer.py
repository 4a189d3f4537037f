"""protobuf <-> plain types, error -> status. Owns no decision, no global, no client."""

from collections.abc import Mapping
from typing import Any, Final

import grpc
import grpc.aio
import numpy as np
from definitions.assembly import RequestContext
from millrace.events.v1 import events_pb2
from millrace.ranking.v1 import ranking_pb2 as pb
from millrace.ranking.v1 import ranking_pb2_grpc

from gateway import errors
from gateway.explaining import Asked, Explained, Explaining
from gateway.impressions import RUNGS
from gateway.metrics import Metrics
from gateway.query import Priority, Query, Ranking, RowVersion
from gateway.ranking import Ranker

STATUS: Final[Mapping[type[errors.GatewayError], grpc.StatusCode]] = {
    errors.InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,  # the message names the field
    errors.DeadlineTooShort: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,  # servicekit adds the push-back
    errors.NotRemembered: grpc.StatusCode.NOT_FOUND,
}
_PRIORITY: Final = {each.value: each for each in Priority}
EXPLAIN_CEILING_S: Final = 2.0  # twenty items are scored hundreds of times
SERVICE: Final = pb.DESCRIPTOR.services_by_name["RankingService"].full_name


class RankingServicer(ranking_pb2_grpc.RankingServiceServicer):
    """Translates and maps errors; every decision lives in `Ranker`, one for each use case."""

    def __init__(
        self,
        rankers: Mapping[str, Ranker],
        *,
        ceiling_s: float,
        metrics: Metrics,
        explaining: Mapping[str, Explaining] | None = None,
    ) -> None:
        self._rankers = rankers
        self._explaining = explaining or {}
        self._ceiling_s = ceiling_s
        self._metrics = metrics

    async def Rank(self, request: pb.RankRequest, context: Any) -> pb.RankResponse:  # noqa: N802
        """Order the caller's items."""
        return await self._answer(request, context, query_of_rank)

    async def Recommend(self, request: pb.RecommendRequest, context: Any) -> pb.RankResponse:  # noqa: N802
        """Find items, then order them."""
        return await self._answer(request, context, query_of_recommend)

    async def Explain(self, request: pb.ExplainRequest, context: Any) -> pb.ExplainResponse:  # noqa: N802
        """What each feature adds. Not among the finished requests: those are answers."""
        left_s: float | None = context.time_remaining()
        budget_s = EXPLAIN_CEILING_S if left_s is None else min(left_s, EXPLAIN_CEILING_S)
        explaining = self._explaining.get(request.usecase)
        try:
            if explaining is None:
                raise _unserved(request.usecase, self._explaining)
            asked = asked_of(request)
            found = await explaining.explain(asked, budget_s)
        except errors.GatewayError as exc:
            await context.abort(STATUS[type(exc)], str(exc))
            raise AssertionError("abort raises") from exc
        return explained_response(asked, found)

    async def _answer(self, request: Any, context: Any, to_query: Any) -> pb.RankResponse:
        budget_s = self._budget_s(context)
        ranker = self._rankers.get(request.usecase)
        try:
            if ranker is None:
                raise _unserved(request.usecase, self._rankers)
            ranking = await ranker.rank(to_query(request), budget_s)
        except errors.GatewayError as exc:
            code = STATUS[type(exc)]
            self._metrics.finished(request.usecase if ranker else "", "", code.name)
            await context.abort(code, str(exc))
            raise AssertionError("abort raises") from exc
        except Exception:
            self._metrics.finished(request.usecase, "", grpc.StatusCode.INTERNAL.name)
            raise
        self._metrics.finished(request.usecase, ranking.rung.value, grpc.StatusCode.OK.name)
        return to_response(ranking)

    def _budget_s(self, context: Any) -> float:
        left_s: float | None = context.time_remaining()  # None: the caller set no deadline
        if left_s is None:
            self._metrics.no_deadline.inc()
            return self._ceiling_s
        return min(left_s, self._ceiling_s)


def query_of_rank(request: pb.RankRequest) -> Query:
    """The plain query of a Rank request."""
    context = request.context
    return Query(
        user_id=request.user_id,
        item_ids=_ids(request.item_ids),
        limit=request.limit,
        context=_context(context),
        session_id=context.session_id,
        time_us=context.time_us if context.HasField("time_us") else None,
        min_interactions_offset=request.min_interactions_offset,
        priority=_PRIORITY.get(request.priority, Priority.INTERACTIVE),
    )


def query_of_recommend(request: pb.RecommendRequest) -> Query:
    """The plain query of a Recommend request."""
    context = request.context
    return Query(
        user_id=request.user_id,
        item_ids=None,
        limit=request.limit,
        context=_context(context),
        exclude_ids=_ids(request.exclude_ids),
        session_id=context.session_id,
        time_us=context.time_us if context.HasField("time_us") else None,
        min_interactions_offset=request.min_interactions_offset,
        priority=_PRIORITY.get(request.priority, Priority.INTERACTIVE),
    )


def asked_of(request: pb.ExplainRequest) -> Asked:
    """What is to be explained."""
    query = Query(
        user_id=request.user_id,
        item_ids=_ids(request.item_ids),
        limit=0,
        context=_context(request.context),
        session_id=request.context.session_id,
        time_us=request.context.time_us if request.context.HasField("time_us") else None,
    )
    return Asked(request.request_id, query, request.top)


def explained_response(asked: Asked, explained: Explained) -> pb.ExplainResponse:
    """The explanation's message; features by what they move, most first."""
    found, model = explained.found, explained.model
    response = pb.ExplainResponse(
        base=float(found.base[0]) if len(found.base) else 0.0,
        method=explained.method,
        model_name=model.name,
        model_version=model.version,
        model_digest=model.digest,
        time_us=explained.time_us,
        arm=explained.arm,
    )
    if explained.row is not None:
        _put_row(explained.row, response.row)
    for place, item_id in enumerate(explained.item_ids.tolist()):
        adds = found.contributions[place]
        order = np.argsort(-np.abs(adds), kind="stable")
        top = order[: asked.top or len(order)]
        item = response.items.add(
            item_id=item_id,
            score=float(explained.scores[place]),
            raw=float(found.raw[place]),
            rest=float(adds[order[len(top) :]].sum()),
            position=int(explained.positions[place]),
        )
        for column in top.tolist():
            value, age_us = float(found.values[place, column]), int(explained.ages_us[place, column])
            item.features.add(
                name=found.names[column],
                value=None if np.isnan(value) else value,
                contribution=float(adds[column]),
                age_us=None if age_us < 0 else age_us,
            )
    return response


def _unserved(usecase: str, known: Mapping[str, object]) -> errors.InvalidRequest:
    return errors.InvalidRequest(f"usecase: {usecase!r} is not served here; use one of {', '.join(sorted(known))}")


def _put_row(row: RowVersion, message: events_pb2.RowVersion) -> None:
    message.epoch, message.interactions_offset, message.users_offset = row


def to_response(ranking: Ranking) -> pb.RankResponse:
    """The answer's message."""
    response = pb.RankResponse(
        request_id=ranking.request_id,
        model_name=ranking.model_name,
        model_version=ranking.model_version,
        served_by=RUNGS[ranking.rung],
        arm=ranking.arm,
        feature_age_us=ranking.feature_age_us,
        reason=ranking.reason,
    )
    add = response.items.add
    rows = zip(ranking.item_ids.tolist(), ranking.scores.tolist(), ranking.reasons, strict=True)
    for position, (item_id, score, reason) in enumerate(rows, 1):
        add(item_id=item_id, score=score, position=position, reason=reason)
    if ranking.row is not None:
        _put_row(ranking.row, response.row)
    add_stage = response.stages.add
    for stage, micros in ranking.stages:
        add_stage(stage=stage, micros=micros)
    return response


def _ids(ids: Any) -> "np.ndarray[Any, np.dtype[np.uint64]]":
    return np.fromiter(ids, np.uint64, len(ids))


def _context(context: events_pb2.Context) -> RequestContext:
    return RequestContext(device=context.device, surface=context.surface, country=context.country)
