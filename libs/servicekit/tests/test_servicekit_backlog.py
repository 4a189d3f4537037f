"""What calls have waited before anybody looked at them: by counts of the test's, and by gRPC's."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest
from servicekit.backlog import BUSY_EVERY_S, Backlog, Calls, newest_server


class Server:
    """Calls that come at given times; the backlog asks how many by now. `works`: the share of time that it is busy."""

    def __init__(self) -> None:
        self.now, self.next_look = 10.0, 10.02
        self.works, self.worked = 1.0, 0.0
        self.came: list[float] = []
        self.ended = 0
        self.asked = 0
        self.backlog = Backlog(self.count, lambda: self.now, lambda: self.worked)

    def count(self) -> Calls:
        self.asked += 1
        return Calls(sum(at <= self.now for at in self.came), self.ended)

    def go_on(self, at: float) -> None:
        self.worked += self.works * (at - self.now)
        self.now = at

    def pass_to(self, at: float) -> None:
        """Time goes on; the backlog looks each 20 ms."""
        while self.next_look <= at:
            self.go_on(self.next_look)
            self.backlog.look()
            self.next_look += 0.02
        self.go_on(at)

    def take(self) -> float:
        return self.backlog.taken()

    def end(self) -> None:
        self.ended += 1
        self.backlog.ended()


@pytest.fixture
def server() -> Server:
    return Server()


def test_calls_that_are_taken_as_they_come_have_not_waited(server: Server) -> None:
    """At any rate, however long each of them lasts."""
    for number in range(200):
        at = 10.0 + number * 0.004
        server.came.append(at)
        server.pass_to(at + 0.0005)
        assert 0.0 == server.take()
        if number >= 20:
            server.end()


def test_a_call_that_waits_is_known_by_when_it_came(server: Server) -> None:
    """First come, first taken: 300 a second come and 200 are taken, so the queue grows by a third of the time."""
    server.came = [10.0 + number / 300 for number in range(900)]
    for number in range(500):
        server.pass_to(10.0 + number / 200)
        waited = server.take()
        server.end()
        really = server.now - server.came[number]
        assert waited == pytest.approx(really, abs=0.02)


def test_a_stall_is_shared_evenly(server: Server) -> None:
    """Nobody looked for 200 ms: of sixty calls in that time the first has waited for all of it, the last not at all."""
    server.pass_to(10.1)
    server.backlog.sample()
    server.came = [10.1 + number * 0.2 / 60 for number in range(1, 61)]
    server.go_on(10.3)
    waited = [server.take() for _ in range(60)]
    assert waited[0] == pytest.approx(0.2, abs=0.01)
    assert waited[30] == pytest.approx(0.1, abs=0.01)
    assert waited[-1] == 0.0


def test_a_loop_that_has_time_asks_nobody(server: Server) -> None:
    """And as soon as it has none, what waits is known by when it came."""
    server.works = 0.5
    for number in range(300):
        at = 10.0 + number * 0.01
        server.came.append(at)
        server.pass_to(at + 0.0005)
        assert 0.0 == server.take()
        server.end()
    assert 0 == server.asked
    server.works, began = 1.0, server.now
    server.came += [began + number / 300 for number in range(1, 600)]
    for number in range(300):
        server.pass_to(began + number / 150)
        waited = server.take()
        server.end()
        assert waited == pytest.approx(server.now - server.came[300 + number], abs=0.03)
    assert server.asked > 50


def test_a_loop_that_comes_late_has_not_slept(server: Server) -> None:
    """It used no processor for 80 ms because others had it: eight calls of that time wait."""
    server.works = 0.1
    server.pass_to(10.1)
    server.came = [10.1 + number / 100 for number in range(1, 9)]
    server.go_on(10.18)
    server.backlog.look()
    assert 8 == server.backlog.waiting
    assert server.take() == pytest.approx(0.07, abs=0.015)


def test_calls_that_ended_unseen_do_not_wait_for_ever(server: Server) -> None:
    """Whoever gave up in the queue is counted as come and as ended, and never taken."""
    server.came = [10.0] * 50
    server.pass_to(10.1)
    server.ended = 50
    server.came += [10.1]
    server.backlog.sample()
    assert 0.0 == server.take()
    assert 0 == server.backlog.waiting


class Taking(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # grpc is untyped
    """Tells a backlog of each call, as servicekit's own server does."""

    def __init__(self) -> None:
        self.backlog = Backlog()

    async def intercept_service(self, continuation: Any, details: grpc.HandlerCallDetails) -> Any:
        self.backlog.taken_by(asyncio.current_task())
        return await continuation(details)


@asynccontextmanager
async def stuck(waited: list[float], pause_s: float) -> AsyncIterator[tuple[Backlog, grpc.aio.Channel]]:
    """A server whose event loop is stuck in each call, and a channel to it; it notes what each call waited."""
    taking = Taking()

    async def answer(_: bytes, __: grpc.aio.ServicerContext) -> bytes:
        waited.append(taking.backlog.waited_s)
        time.sleep(pause_s)  # noqa: ASYNC251  the loop is to be stuck
        return b""

    server = grpc.aio.server(interceptors=[taking])
    handler = grpc.unary_unary_rpc_method_handler(answer)
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("t.T", {"Call": handler})])
    taking.backlog.bind(newest_server())
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield taking.backlog, channel
    await server.stop(0)


async def test_grpc_counts_what_nobody_has_taken() -> None:
    """Calls that a stuck server has not seen are seen by the backlog, and gone when they gave up.

    What is read here is not gRPC's public face: a version that counts otherwise is found here.
    """
    waited: list[float] = []
    async with stuck(waited, 0.01) as (backlog, channel):
        call = channel.unary_unary("/t.T/Call")
        await call(b"")
        backlog.sample()
        assert 0 == backlog.waiting
        outcomes = await asyncio.gather(*(call(b"", timeout=0.15) for _ in range(40)), return_exceptions=True)
        await call(b"")
        backlog.sample()
        assert 0 == backlog.waiting
    assert any(isinstance(each, grpc.aio.AioRpcError) for each in outcomes)
    assert 0.05 < max(waited) < 0.3


async def test_calls_without_a_message_do_not_make_others_wait() -> None:
    """Twenty that begin and send nothing are held, not queued: who comes after them has not waited."""
    waited: list[float] = []
    async with stuck(waited, 0.0) as (backlog, channel):
        silent = [channel.stream_stream("/t.T/Call")() for _ in range(20)]
        for _ in range(20):
            await asyncio.sleep(BUSY_EVERY_S)
            backlog.sample()
            await channel.unary_unary("/t.T/Call")(b"")
        assert [0.0] * 20 == waited
        for each in silent:
            each.cancel()
