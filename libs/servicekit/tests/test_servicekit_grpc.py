"""The gRPC server over a real socket."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from millrace.collector.v1 import collector_pb2 as pb
from millrace.collector.v1 import collector_pb2_grpc
from servicekit.grpc_server import GrpcServer, serve
from servicekit.kit import Kit, start
from servicekit.security.errors import Shed
from servicekit.settings import ProcessSettings

SERVICE = "millrace.collector.v1.CollectorService"
MALFORMED = b"\x0a\xff\xff\xff\xff\x0f"  # field 1 says 4 GiB follow


class Servicer(collector_pb2_grpc.CollectorServiceServicer):
    """Answers by the name of the use case."""

    def __init__(self) -> None:
        self.release = asyncio.Event()
        self.entered = asyncio.Event()

    async def Publish(self, request: pb.PublishRequest, context: Any) -> pb.PublishResponse:  # noqa: N802  gRPC's name
        match request.usecase:
            case "bug":
                raise RuntimeError("a bug with a secret in it")
            case "shed":
                await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too much")
            case "slow":
                self.entered.set()
                await self.release.wait()
        return pb.PublishResponse(accepted=[pb.Accepted(index=len(request.events))])

    async def PublishStream(  # noqa: N802  gRPC's name
        self, requests: AsyncIterator[pb.PublishRequest], context: Any
    ) -> AsyncIterator[pb.PublishResponse]:
        async for request in requests:
            yield await self.Publish(request, context)


@pytest.fixture
def kit(tmp_path: Path) -> Any:
    with start("example", ProcessSettings(home=tmp_path, metrics_port=0), signals=False) as started:
        yield started


def register(servicer: Servicer) -> Callable[[grpc.aio.Server], list[str]]:
    def add(server: grpc.aio.Server) -> list[str]:
        collector_pb2_grpc.add_CollectorServiceServicer_to_server(servicer, server)
        return [SERVICE]

    return add


@asynccontextmanager
async def serving(kit: Kit, servicer: Servicer) -> AsyncIterator[grpc.aio.Channel]:
    server = GrpcServer(kit, register(servicer), 0, routing_wait_s=0.0)
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        yield channel
    await server.drain(1.0)


def count(kit: Kit, method: str, code: str) -> float:
    return kit.registry.get_sample_value("example_rpcs_total", {"method": method, "code": code}) or 0.0


async def failure(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    return raised.value


@pytest.mark.parametrize("raw", [MALFORMED, b"\xff", b"\x0a\x02\xff\xfe", b"\x12\x01\x00"])
async def test_malformed_bytes_are_the_callers_mistake(kit: Kit, raw: bytes) -> None:
    """INVALID_ARGUMENT and counted as such: never INTERNAL or UNKNOWN, which page somebody."""
    async with serving(kit, Servicer()) as channel:
        error = await failure(channel.unary_unary(f"/{SERVICE}/Publish")(raw))

    assert grpc.StatusCode.INVALID_ARGUMENT == error.code()
    assert 1.0 == count(kit, "Publish", "INVALID_ARGUMENT")


async def test_malformed_bytes_in_a_stream_are_the_callers_mistake_too(kit: Kit) -> None:
    """The messages before them are answered."""
    async with serving(kit, Servicer()) as channel:
        call = channel.stream_stream(f"/{SERVICE}/PublishStream")(iter([b"", MALFORMED]))
        assert pb.PublishResponse(accepted=[pb.Accepted(index=0)]).SerializeToString() == await call.read()
        error = await failure(call.read())

    assert grpc.StatusCode.INVALID_ARGUMENT == error.code()


async def test_an_uncaught_error_is_internal_and_keeps_its_text_to_the_log(
    kit: Kit, capsys: pytest.CaptureFixture[str]
) -> None:
    """A bug is counted and logged; its text may hold anything, so the caller does not get it."""
    async with serving(kit, Servicer()) as channel:
        stub = collector_pb2_grpc.CollectorServiceStub(channel)
        error = await failure(stub.Publish(pb.PublishRequest(usecase="bug")))

    assert grpc.StatusCode.INTERNAL == error.code()
    assert "secret" not in (error.details() or "")
    assert 1.0 == count(kit, "Publish", "INTERNAL")


async def test_a_shed_caller_is_told_when_to_return(kit: Kit) -> None:
    """RESOURCE_EXHAUSTED carries the push-back that gRPC's own retries obey."""
    async with serving(kit, Servicer()) as channel:
        stub = collector_pb2_grpc.CollectorServiceStub(channel)
        error = await failure(stub.Publish(pb.PublishRequest(usecase="shed")))

    assert grpc.StatusCode.RESOURCE_EXHAUSTED == error.code()
    assert 0 < int(dict(error.trailing_metadata())["grpc-retry-pushback-ms"])


async def test_good_calls_are_counted_and_timed(kit: Kit) -> None:
    """Rate, errors and duration of each method, for all services alike."""
    async with serving(kit, Servicer()) as channel:
        await collector_pb2_grpc.CollectorServiceStub(channel).Publish(pb.PublishRequest(usecase="movies"))

    assert 1.0 == count(kit, "Publish", "OK")
    assert 1.0 == kit.registry.get_sample_value("example_rpc_seconds_count", {"method": "Publish"})


async def test_a_call_past_its_deadline_counts_as_cancelled(kit: Kit) -> None:
    """The caller has gone; what it would have got is nobody's status."""
    async with serving(kit, servicer := Servicer()) as channel:
        stub = collector_pb2_grpc.CollectorServiceStub(channel)
        error = await failure(stub.Publish(pb.PublishRequest(usecase="slow"), timeout=0.05))
        assert grpc.StatusCode.DEADLINE_EXCEEDED == error.code()
        async with asyncio.timeout(5):  # the server learns of it later than the caller
            while count(kit, "Publish", "CANCELLED") != 1.0:  # noqa: ASYNC110  a counter has no event
                await asyncio.sleep(0)
        servicer.release.set()

    assert 0.0 == count(kit, "Publish", "OK")


async def test_a_message_over_the_limit_is_refused(kit: Kit) -> None:
    """256 KiB: one caller cannot fill the memory."""
    async with serving(kit, Servicer()) as channel:
        stub = collector_pb2_grpc.CollectorServiceStub(channel)
        error = await failure(stub.Publish(pb.PublishRequest(usecase="x" * 300_000)))

    assert grpc.StatusCode.RESOURCE_EXHAUSTED == error.code()


async def test_health_follows_readiness(kit: Kit) -> None:
    """Load balancers see what /ready says, for the server and for each service."""
    async with serving(kit, Servicer()) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest(service=SERVICE))
        seen = [(await watch.read()).status]
        kit.ready.set("all", True)
        while seen[-1] != health_pb2.HealthCheckResponse.SERVING:
            seen.append((await asyncio.wait_for(watch.read(), 5)).status)
        kit.ready.set("all", False)
        while seen[-1] != health_pb2.HealthCheckResponse.NOT_SERVING:
            seen.append((await asyncio.wait_for(watch.read(), 5)).status)
        watch.cancel()


async def test_who_leaves_takes_no_news_from_the_others(kit: Kit) -> None:
    """Each watcher hears of a drain, however many watched before and left."""
    kit.ready.set("all", True)
    server = GrpcServer(kit, register(Servicer()), 0, routing_wait_s=0.0)
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        leaves, stays = (stub.Watch(health_pb2.HealthCheckRequest()) for _ in range(2))
        for watch in (leaves, stays):
            while (await watch.read()).status != health_pb2.HealthCheckResponse.SERVING:
                pass
        leaves.cancel()
        async with asyncio.timeout(5):  # until the server knows
            while count(kit, "Watch", "CANCELLED") != 1.0:  # noqa: ASYNC110  a counter has no event
                await asyncio.sleep(0)

        budget = await server.drain(30.0)

        assert health_pb2.HealthCheckResponse.NOT_SERVING == (await stays.read()).status
        assert grpc.StatusCode.UNAVAILABLE == await stays.code()
    assert budget.left_s() > 25.0  # a watch does not hold the drain


async def test_an_unknown_service_has_no_health(kit: Kit) -> None:
    """As the protocol says: not found for who asks, unknown for who watches."""
    async with serving(kit, Servicer()) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        asked = health_pb2.HealthCheckRequest(service="nobody")
        error = await failure(stub.Check(asked))
        watch = stub.Watch(asked)

        assert grpc.StatusCode.NOT_FOUND == error.code()
        assert health_pb2.HealthCheckResponse.SERVICE_UNKNOWN == (await watch.read()).status
        watch.cancel()


async def test_who_watches_health_loses_no_call_to_a_drain(kit: Kit) -> None:
    """Callers hear of it before the server stops; what arrives after that, gRPC's core ends by CANCELLED."""
    kit.ready.set("all", True)
    server = GrpcServer(kit, register(Servicer()), 0)
    await server.start()
    watching = '{"loadBalancingConfig": [{"round_robin": {}}], "healthCheckConfig": {"serviceName": ""}}'
    ends: list[tuple[grpc.StatusCode, str]] = []
    async with grpc.aio.insecure_channel(
        f"127.0.0.1:{server.port}", options=[("grpc.service_config", watching), ("grpc.enable_retries", 0)]
    ) as channel:
        stub = collector_pb2_grpc.CollectorServiceStub(channel)

        async def ask(answered: asyncio.Event) -> None:
            while not ends:
                try:
                    await stub.Publish(pb.PublishRequest())
                except grpc.aio.AioRpcError as exc:
                    ends.append((exc.code(), exc.details() or ""))
                answered.set()

        async with asyncio.TaskGroup() as callers:
            for answered in (events := [asyncio.Event() for _ in range(8)]):
                callers.create_task(ask(answered))
            await asyncio.gather(*(answered.wait() for answered in events))
            await server.drain(5.0)
    assert {grpc.StatusCode.UNAVAILABLE} == {code for code, _ in ends}
    assert all("failing" in text for _, text in ends), ends  # the caller's own channel: nothing was sent


async def test_reflection_lists_the_services(kit: Kit) -> None:
    """grpcurl works without the protos."""
    async with serving(kit, Servicer()) as channel:
        call = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(
            iter([reflection_pb2.ServerReflectionRequest(list_services="*")])
        )
        answer = await call.read()
        call.cancel()

    names = {service.name for service in answer.list_services_response.service}
    assert {SERVICE, "grpc.health.v1.Health"} <= names


async def test_a_drain_finishes_what_runs_and_leaves_the_rest_of_its_budget(kit: Kit) -> None:
    """The running call is answered although the process was asked to stop in its middle."""
    servicer = Servicer()
    port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    served = asyncio.create_task(serve(kit, register(servicer), 0, drain_s=5.0, on_listening=port.set_result))
    async with grpc.aio.insecure_channel(f"127.0.0.1:{await port}") as channel:
        stub = collector_pb2_grpc.CollectorServiceStub(channel)
        running = asyncio.ensure_future(stub.Publish(pb.PublishRequest(usecase="slow")))
        await servicer.entered.wait()
        draining = asyncio.Event()
        loop = asyncio.get_running_loop()
        kit.ready.set("all", True)
        kit.ready.watch(lambda is_ready: is_ready or loop.call_soon_threadsafe(draining.set))
        kit.request_stop("test")
        await draining.wait()
        servicer.release.set()

        assert 0 == (await running).accepted[0].index
    assert 0 < (await served).left_s() < 5.0


async def test_a_drain_does_not_wait_for_an_idle_stream(kit: Kit) -> None:
    """A caller that keeps its stream open is told to reconnect."""
    server = GrpcServer(kit, register(Servicer()), 0, routing_wait_s=0.0)
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        call = collector_pb2_grpc.CollectorServiceStub(channel).PublishStream()
        await call.write(pb.PublishRequest(usecase="movies"))
        assert isinstance(await call.read(), pb.PublishResponse)

        budget = await server.drain(30.0)

        assert grpc.StatusCode.UNAVAILABLE == await call.code()
        assert budget.left_s() > 25.0


async def test_a_call_is_shed_before_it_is_read(kit: Kit) -> None:
    """Bytes that are no message get RESOURCE_EXHAUSTED with push-back, not INVALID_ARGUMENT: nobody looked at them."""
    seen: list[tuple[str, float | None]] = []

    def shed(rpc: str, left_s: float | None) -> None:
        seen.append((rpc, left_s))
        if left_s is not None:
            raise Shed("overloaded", "busy", 0.5)

    server = GrpcServer(kit, register(Servicer()), 0, routing_wait_s=0.0, shed=shed)
    await server.start()
    method = f"/{SERVICE}/Publish"
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await channel.unary_unary(method)(b"\xff", timeout=5.0)
        assert grpc.StatusCode.RESOURCE_EXHAUSTED == raised.value.code()
        assert "500" == dict(raised.value.trailing_metadata())["grpc-retry-pushback-ms"]
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await channel.unary_unary(method)(b"\xff")
        assert grpc.StatusCode.INVALID_ARGUMENT == raised.value.code()
    await server.drain(1.0)
    assert [method, method] == [rpc for rpc, _ in seen]
    refused = {"method": "Publish", "reason": "overloaded"}
    assert 1 == kit.registry.get_sample_value("example_refused_total", refused)


async def test_a_taken_port_is_named(kit: Kit) -> None:
    """Two processes never share a port silently."""
    with socket.create_server(("127.0.0.1", 0)) as neighbour:
        taken = neighbour.getsockname()[1]
        with pytest.raises(OSError, match=f"{taken}.*MILLRACE_PORT_OFFSET"):
            await GrpcServer(kit, register(Servicer()), taken).start()
