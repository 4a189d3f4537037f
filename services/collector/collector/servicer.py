"""Protobuf to the core and back; the core's errors to statuses. Every decision lives in `Collector`."""

from collections.abc import AsyncIterator, Mapping
from typing import Any

import grpc
from grpc.aio import ServicerContext
from millrace.collector.v1 import collector_pb2 as pb
from millrace.collector.v1 import collector_pb2_grpc

from collector import errors
from collector.collecting import Collector, Outcome
from collector.metrics import Metrics

SERVICE = pb.DESCRIPTOR.services_by_name["CollectorService"].full_name
ANSWER_S = 0.02  # kept of the caller's deadline, so that "unavailable" still reaches it

STATUS: Mapping[type[errors.CollectorError], grpc.StatusCode] = {
    errors.InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
    errors.DeadlineTooShort: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.LogDown: grpc.StatusCode.UNAVAILABLE,
}


class CollectorServicer(collector_pb2_grpc.CollectorServiceServicer):
    """Translates and maps errors."""

    def __init__(self, collector: Collector, metrics: Metrics, ceiling_s: float) -> None:
        self._collector = collector
        self._metrics = metrics
        self._ceiling_s = ceiling_s

    async def Publish(self, request: pb.PublishRequest, context: ServicerContext) -> pb.PublishResponse:  # noqa: N802
        """Append events; see the proto."""
        outcome = await self._publish(request, context, wait=False)
        return pb.PublishResponse(**_answer(outcome))

    async def PublishStream(  # noqa: N802
        self, requests: AsyncIterator[pb.PublishRequest], context: ServicerContext
    ) -> AsyncIterator[pb.PublishResponse]:
        """One answer a batch, in order. Where the log is slow, the stream is read more slowly."""
        async for request in requests:
            outcome = await self._publish(request, context, wait=True)
            yield pb.PublishResponse(**_answer(outcome))

    async def PutItems(self, request: pb.PutItemsRequest, context: ServicerContext) -> pb.PutItemsResponse:  # noqa: N802
        """Append items; see the proto."""
        try:
            outcome = await self._collector.put_items(request.usecase, request.items, self._budget_s(context))
        except errors.CollectorError as exc:
            await context.abort(STATUS[type(exc)], str(exc))
        self._metrics.count(request.usecase, "items", outcome)
        return pb.PutItemsResponse(**_answer(outcome))

    async def PutUsers(self, request: pb.PutUsersRequest, context: ServicerContext) -> pb.PutUsersResponse:  # noqa: N802
        """Append users; see the proto. Erasing one needs the role `erase`, anything else `batch.write`."""
        erased = sum(user.deleted for user in request.users)
        if erased:
            context.caller.require("erase")
        if erased < len(request.users):
            context.caller.require("batch.write")
        try:
            outcome = await self._collector.put_users(request.usecase, request.users, self._budget_s(context))
        except errors.CollectorError as exc:
            await context.abort(STATUS[type(exc)], str(exc))
        self._metrics.count(request.usecase, "users", outcome)
        return pb.PutUsersResponse(**_answer(outcome))

    async def _publish(self, request: pb.PublishRequest, context: ServicerContext, *, wait: bool) -> Outcome:
        try:
            budget_s = self._budget_s(context)
            outcome = await self._collector.publish(request.usecase, request.events, budget_s, wait=wait)
        except errors.CollectorError as exc:
            await context.abort(STATUS[type(exc)], str(exc))
        self._metrics.count(request.usecase, "events", outcome)
        return outcome

    def _budget_s(self, context: ServicerContext) -> float:
        left_s = context.time_remaining()  # None: the caller set no deadline
        if left_s is None:
            return self._ceiling_s
        if left_s <= ANSWER_S:
            raise errors.DeadlineTooShort(f"deadline: {left_s * 1e3:.0f} ms are left; the log needs more")
        return min(float(left_s) - ANSWER_S, self._ceiling_s)


def _answer(outcome: Outcome) -> dict[str, Any]:
    return {
        "accepted": [
            pb.Accepted(index=index, partition=place.partition, offset=place.offset)
            for index, place in outcome.accepted
        ],
        "rejected": [pb.Rejected(index=index, reason=reason) for index, reason in outcome.rejected],
    }
