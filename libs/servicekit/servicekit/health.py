"""gRPC's health protocol for one server: every service of it is as ready as the process.

Not grpcio-health-checking's servicer: there the watchers of a service share a condition that the first of them to
leave takes along (grpcio-health-checking 1.8x, `_async.py`), so the others never hear of a drain; and a watch that
nobody cancels holds `stop` for the whole of its grace.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any, Final

import grpc
from grpc_health.v1 import health_pb2 as pb
from grpc_health.v1 import health_pb2_grpc

SERVICE: Final[str] = pb.DESCRIPTOR.services_by_name["Health"].full_name
_SERVING: Final = pb.HealthCheckResponse(status=pb.HealthCheckResponse.SERVING)
_NOT_SERVING: Final = pb.HealthCheckResponse(status=pb.HealthCheckResponse.NOT_SERVING)
_UNKNOWN: Final = pb.HealthCheckResponse(status=pb.HealthCheckResponse.SERVICE_UNKNOWN)


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # generated code is untyped
    """Answers for `services` and for the server as a whole (""). Belongs to the event loop."""

    def __init__(self, services: Iterable[str]) -> None:
        self._services = frozenset(("", *services))
        self._serving = False
        self._ended = False
        self._changed = asyncio.Event()  # one for each state, set when it is over

    def set(self, serving: bool) -> None:
        """Tell it to all who watch."""
        self._serving = serving
        self._next()

    def end(self) -> None:
        """End every watch, so that none keeps the server from stopping."""
        self._ended = True
        self._next()

    async def Check(self, request: pb.HealthCheckRequest, context: Any) -> pb.HealthCheckResponse:  # noqa: N802
        """What holds now; NOT_FOUND for a service that is not here."""
        if request.service not in self._services:
            await context.abort(grpc.StatusCode.NOT_FOUND, "service: is not here; reflection lists those that are")
        return self._now()

    async def Watch(  # noqa: N802
        self, request: pb.HealthCheckRequest, context: Any
    ) -> AsyncIterator[pb.HealthCheckResponse]:
        """What holds now and whenever it changes, until the caller or the server goes."""
        told = None
        while not self._ended:
            changed, now = self._changed, self._now() if request.service in self._services else _UNKNOWN
            if now != told:
                yield now
                told = now
            await changed.wait()
        await context.abort(grpc.StatusCode.UNAVAILABLE, "the server is draining; watch another one")

    def _now(self) -> pb.HealthCheckResponse:
        return _SERVING if self._serving else _NOT_SERVING

    def _next(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
