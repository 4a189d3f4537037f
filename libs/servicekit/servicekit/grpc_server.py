"""A grpc.aio server as every service runs it: health, reflection, metrics, limits, no INTERNAL for bad bytes, drain."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from functools import cache
from typing import Any, Final, NoReturn

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from prometheus_client import Counter

from servicekit import health
from servicekit.backlog import Backlog, newest_server
from servicekit.histogram import LoopHistogram
from servicekit.kit import Budget, Kit
from servicekit.security.door import LOCAL, Door
from servicekit.security.errors import OverQuota, PermissionDenied, Refused, Shed, Unauthenticated
from servicekit.security.settings import EdgeSettings
from servicekit.security.tls import HANDSHAKE_S, server_credentials

MAX_MESSAGE_BYTES: Final = 256 * 1024
MAX_CONCURRENT_STREAMS: Final = 1_000  # a connection; the next call on it waits in the client
# From NOT_SERVING to the last accepted call: callers who watch health have gone by then, and lose none. gRPC's core
# ends by CANCELLED what arrives between its stop and the caller's reading of the GOAWAY (190 of 22,000 calls in 30
# drains under load by 8 threads; none by callers who watch). In Kubernetes preStop has waited before it.
ROUTING_WAIT_S: Final = 0.2
PUSH_BACK_MS: Final = 200  # how long a shed caller should keep away

# The ranking deadlines (50, 150 ms) and the freshness budget (1 s) are edges.
_BUCKETS_MS: Final = (0.5, 1, 2, 5, 10, 20, 30, 50, 75, 100, 150, 250, 500, 1_000, 2_500, 5_000, 10_000)

_REFUSED: Final[Mapping[type[Refused], grpc.StatusCode]] = {
    Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    PermissionDenied: grpc.StatusCode.PERMISSION_DENIED,
    OverQuota: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Shed: grpc.StatusCode.RESOURCE_EXHAUSTED,
}

Register = Callable[[grpc.aio.Server], Sequence[str]]
Behaviour = Callable[[Any, Any], Any]
ShedCheck = Callable[[str, float | None], None]


async def serve(
    kit: Kit,
    register: Register,
    port: int,
    *,
    drain_s: float,
    max_message_bytes: int = MAX_MESSAGE_BYTES,
    on_listening: Callable[[int], None] | None = None,
    shed: ShedCheck | None = None,
    backlog: Backlog | None = None,
) -> Budget:
    """Serve until `kit.stop`, then drain: NOT_SERVING, a moment for routing, no new calls, the running ones finish.

    `register(server)` adds the servicers and returns the full names of their services. Health is SERVING while
    `kit.ready` is. Port 0 takes a free one; `on_listening` is told which. `shed(rpc, seconds left or None)` is asked
    before a unary call is parsed, and raises `Shed` where it should not be. `backlog` is told of each call that gRPC
    hands out.

    Returns:
        What is left of `drain_s`, for the caller to flush in.

    Raises:
        OSError: the port is taken; the message names it.
    """
    server = GrpcServer(kit, register, port, max_message_bytes=max_message_bytes, shed=shed, backlog=backlog)
    await server.start()
    if on_listening is not None:
        on_listening(server.port)
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    kit.on_stop(lambda: loop.call_soon_threadsafe(stopping.set))
    await stopping.wait()
    return await server.drain(drain_s)


class GrpcServer:
    """The server of `serve`, for callers that start and drain it themselves (tests)."""

    def __init__(
        self,
        kit: Kit,
        register: Register,
        port: int,
        *,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        routing_wait_s: float = ROUTING_WAIT_S,
        shed: ShedCheck | None = None,
        backlog: Backlog | None = None,
    ) -> None:
        self._kit = kit
        self._routing_wait_s = routing_wait_s
        self._draining = asyncio.Event()
        edge = kit.settings if isinstance(kit.settings, EdgeSettings) else None
        self._credentials = server_credentials(edge) if edge else None
        door = Door.of(edge) if edge else None
        self._server = grpc.aio.server(
            interceptors=[_Guard(kit, self._draining, door, shed, backlog)],
            options=[
                ("grpc.max_receive_message_length", max_message_bytes),
                ("grpc.max_send_message_length", -1),  # the caller's limit is the caller's
                ("grpc.max_concurrent_streams", MAX_CONCURRENT_STREAMS),
                ("grpc.so_reuseport", int(edge is not None and edge.share_port)),  # else nobody shares it silently
                # Clients ping each second to notice a stopped peer; refusing would be GOAWAY.
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.http2.min_ping_interval_without_data_ms", 900),
                ("grpc.http2.max_ping_strikes", 0),
                ("grpc.server_handshake_timeout_ms", HANDSHAKE_S * 1_000),
                *_ages(edge),
            ],
        )
        if backlog is not None:
            backlog.bind(newest_server())
        services = [*register(self._server), health.SERVICE]
        self._health = health.Health(services)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection([*services, reflection.SERVICE_NAME], self._server)
        self._address = f"{kit.settings.bind}:{port}"
        self.port = port

    async def start(self) -> None:
        """Listen, on `self.port`. Health follows `kit.ready` from now on.

        Raises:
            OSError: the port is taken; the message names it.
        """
        loop = asyncio.get_running_loop()
        try:
            self.port = self._listen()
        except RuntimeError as exc:
            await self._server.stop(None)
            raise OSError(f"gRPC port {self._address}: cannot listen; free it or set MILLRACE_PORT_OFFSET") from exc
        await self._server.start()

        def on_change(_: bool) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(lambda: self._health.set(self._kit.ready.is_ready))

        self._kit.ready.watch(on_change)
        self._kit.log.info("serving", grpc_port=self.port)

    def _listen(self) -> int:
        if self._credentials is None:
            return int(self._server.add_insecure_port(self._address))
        return int(self._server.add_secure_port(self._address, self._credentials))

    async def drain(self, drain_s: float) -> Budget:
        """Refuse new calls, let the running ones finish, all within `drain_s`; returns what is left of it."""
        budget = self._kit.drain(drain_s)
        self._health.set(False)
        await asyncio.sleep(min(self._routing_wait_s, budget.left_s()))
        self._draining.set()
        self._health.end()
        await self._server.stop(budget.left_s())
        return budget


class _Guard(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # grpc is untyped
    """Around every method: parses the bytes itself, counts, times, and turns what nobody caught into INTERNAL."""

    def __init__(
        self, kit: Kit, draining: asyncio.Event, door: Door | None, shed: ShedCheck | None, backlog: Backlog | None
    ) -> None:
        self._shed = shed
        self._backlog = backlog
        self._log = kit.log
        self._draining = draining
        self._door = door
        self._wrapped: dict[str, grpc.RpcMethodHandler] = {}
        requests = Counter(f"{kit.name}_rpcs", "Finished calls.", ["method", "code"], registry=kit.registry)
        self._requests_of = cache(requests.labels)
        self._refused = Counter(
            f"{kit.name}_refused", "Calls that the edge refused.", ["method", "reason"], registry=kit.registry
        )
        seconds = LoopHistogram(
            f"{kit.name}_rpc_seconds",
            "Time from a call's first byte to its status.",
            ["method"],
            registry=kit.registry,
            buckets=[edge / 1_000 for edge in _BUCKETS_MS],
        )
        self._seconds_of = cache(seconds.labels)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler | None:
        """The method's handler, wrapped once."""
        if self._backlog is not None:
            self._backlog.taken_by(asyncio.current_task())
        name = handler_call_details.method
        if (known := self._wrapped.get(name)) is not None:
            return known
        if (handler := await continuation(handler_call_details)) is None:
            return None  # UNIMPLEMENTED, and not kept: callers choose these names
        self._wrapped[name] = wrapped = self._wrap(name, handler)
        return wrapped

    def _wrap(self, rpc: str, handler: grpc.RpcMethodHandler) -> grpc.RpcMethodHandler:
        parse = handler.request_deserializer
        if handler.request_streaming and handler.response_streaming:
            return grpc.stream_stream_rpc_method_handler(
                self._streaming(rpc, handler.stream_stream, lambda raw, call: self._stream(parse, raw, call)),
                response_serializer=handler.response_serializer,
            )
        if handler.request_streaming:
            return grpc.stream_unary_rpc_method_handler(
                self._unary(rpc, handler.stream_unary, lambda raw, call: self._stream(parse, raw, call)),
                response_serializer=handler.response_serializer,
            )
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(
                self._streaming(rpc, handler.unary_stream, lambda raw, _: _parsed(parse, raw)),
                response_serializer=handler.response_serializer,
            )
        return grpc.unary_unary_rpc_method_handler(
            self._unary(rpc, handler.unary_unary, lambda raw, _: _parsed(parse, raw)),
            response_serializer=handler.response_serializer,
        )

    def _unary(self, rpc: str, behaviour: Behaviour, read: Behaviour) -> Behaviour:
        method, door, shed = rpc.rpartition("/")[2], self._door, self._shed

        async def answer(raw: Any, context: grpc.aio.ServicerContext) -> Any:
            call = _Call(context)
            async with self._watched(method, call):
                if door is not None:
                    call.caller = door.admit(rpc, context)
                if shed is not None:
                    shed(rpc, context.time_remaining())
                return await behaviour(read(raw, call), call)

        return answer

    def _streaming(self, rpc: str, behaviour: Behaviour, read: Behaviour) -> Behaviour:
        method, door = rpc.rpartition("/")[2], self._door

        async def answer(raw: Any, context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
            call = _Call(context)
            async with self._watched(method, call):
                if door is not None:
                    call.caller = door.admit(rpc, context)
                answers = behaviour(read(raw, call), call)
                if hasattr(answers, "__aiter__"):
                    async for message in answers:
                        yield message
                else:
                    await answers  # it writes through the context

        return answer

    def _watched(self, method: str, call: "_Call") -> "_Watched":
        return _Watched(self, method, call)

    def note(self, method: str, call: "_Call", seconds: float) -> None:
        """A call is over."""
        self._seconds_of(method).observe(seconds)
        self._requests_of(method, call.outcome.name).inc()

    async def give_status(self, method: str, call: "_Call", exc: BaseException) -> None:
        """Every error has a status: raises what ends the call with it."""
        if isinstance(exc, grpc.aio.AbortError):
            return
        if isinstance(exc, asyncio.CancelledError | GeneratorExit):
            call.outcome = grpc.StatusCode.CANCELLED  # by the caller, or at its deadline
        elif isinstance(exc, _Malformed):
            await call.abort(grpc.StatusCode.INVALID_ARGUMENT, "request: malformed bytes; send this method's message")
        elif isinstance(exc, Refused):
            await self._refuse(method, call, exc)
        elif isinstance(exc, Exception):
            self._log.exception("uncaught", method=method, exc_info=exc)
            await call.abort(grpc.StatusCode.INTERNAL, "internal error; the server's log has it")

    async def _refuse(self, method: str, call: "_Call", exc: Refused) -> None:
        self._refused.labels(method, exc.reason).inc()
        pushback: Sequence[tuple[str, str]] = ()
        if isinstance(exc, OverQuota):
            pushback = (("grpc-retry-pushback-ms", str(max(1, round(exc.retry_after_s * 1_000)))),)
        await call.abort(_REFUSED[type(exc)], str(exc), pushback)

    async def _stream(
        self, parse: Callable[[bytes], Any], raw: AsyncIterator[bytes], call: "_Call"
    ) -> AsyncIterator[Any]:
        """The stream's messages; a drain ends it with UNAVAILABLE between two of them: the caller reconnects."""
        door, caller = self._door, call.caller
        if door is not None:
            door.quotas.open_stream(caller.name)
        draining = asyncio.ensure_future(self._draining.wait())
        coming: asyncio.Future[bytes] | None = None
        messages = aiter(raw)
        try:
            while True:
                coming = asyncio.ensure_future(anext(messages))
                await asyncio.wait({coming, draining}, return_when=asyncio.FIRST_COMPLETED)
                if not coming.done():
                    await call.abort(grpc.StatusCode.UNAVAILABLE, "the server is draining; reconnect and send again")
                try:
                    message = coming.result()
                except StopAsyncIteration:
                    return
                if door is not None:
                    door.check_still(caller)
                    if delay_s := door.quotas.delay_s(caller.name):
                        await asyncio.sleep(delay_s)
                yield _parsed(parse, message)
        finally:
            if door is not None:
                door.quotas.close_stream(caller.name)
            draining.cancel()
            if coming is not None:
                coming.cancel()


def _ages(edge: EdgeSettings | None) -> list[tuple[str, int]]:
    if edge is None:
        return []
    return [
        ("grpc.max_connection_age_ms", round(edge.max_connection_age_s * 1_000)),
        ("grpc.max_connection_age_grace_ms", round(edge.max_connection_grace_s * 1_000)),
    ]


class _Watched:
    """Around one call: counts and times it, and gives every error a status. A class: a generator takes 10 us more."""

    __slots__ = ("_began", "_call", "_guard", "_method")

    def __init__(self, guard: _Guard, method: str, call: "_Call") -> None:
        self._guard = guard
        self._method = method
        self._call = call
        self._began = time.perf_counter()

    async def __aenter__(self) -> None:
        pass

    async def __aexit__(self, kind: object, exc: BaseException | None, trace: object) -> None:
        try:
            if exc is not None:
                await self._guard.give_status(self._method, self._call, exc)
        except asyncio.CancelledError:
            self._call.outcome = grpc.StatusCode.CANCELLED
            raise
        finally:
            self._guard.note(self._method, self._call, time.perf_counter() - self._began)


class _Malformed(Exception):
    """The bytes are no message of the method's type."""


def _parsed(parse: Callable[[bytes], Any] | None, raw: bytes) -> Any:
    if parse is None:
        return raw
    try:
        return parse(raw)
    except Exception as exc:  # protobuf raises DecodeError, and others for hostile bytes
        raise _Malformed(str(exc)) from exc


class _Call:
    """The context that servicers see: grpc's own, which remembers the outcome and tells shed callers when to return."""

    def __init__(self, context: grpc.aio.ServicerContext) -> None:
        self._context = context
        self.outcome = grpc.StatusCode.OK
        self.caller = LOCAL

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    def set_code(self, code: grpc.StatusCode) -> None:
        self.outcome = code
        self._context.set_code(code)

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Sequence[Any] = ()) -> NoReturn:
        self.outcome = code
        if code is grpc.StatusCode.RESOURCE_EXHAUSTED and not trailing_metadata:
            trailing_metadata = (("grpc-retry-pushback-ms", str(PUSH_BACK_MS)),)
        try:
            await self._context.abort(code, details, tuple(trailing_metadata))
        except grpc.aio.AbortError:
            raise
        except grpc.aio.BaseError as exc:  # the caller's deadline passed in this moment: nobody hears the status
            raise asyncio.CancelledError from exc
        raise AssertionError("abort raises")
