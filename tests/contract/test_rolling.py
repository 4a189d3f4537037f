"""Our client beside our server while servers go, come back and let go of old connections: no call may fail."""

import asyncio
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from millrace.client import RankingClient
from millrace.ranking.v1 import ranking_pb2 as pb
from millrace.ranking.v1 import ranking_pb2_grpc
from servicekit.grpc_server import GrpcServer
from servicekit.kit import start
from servicekit.security.settings import EdgeSettings

pytestmark = pytest.mark.real

CALLERS = 8  # so that each moment of a drain meets some
ROLLS = 10
LIMIT_S = 120.0


class Answers(ranking_pb2_grpc.RankingServiceServicer):
    """Answers, and knows who called."""

    def __init__(self) -> None:
        self.came = asyncio.Event()
        self.peers: set[str] = set()

    async def Rank(self, request: pb.RankRequest, context: Any) -> pb.RankResponse:  # noqa: N802
        self.peers.add(context.peer())
        self.came.set()
        return pb.RankResponse()


@asynccontextmanager
async def serving(home: Path, answers: Answers, port: int = 0, **settings: Any) -> AsyncIterator[int]:
    """A server on `port`, which is given; drained at the end."""

    def register(server: grpc.aio.Server) -> list[str]:
        ranking_pb2_grpc.add_RankingServiceServicer_to_server(answers, server)
        return ["millrace.ranking.v1.RankingService"]

    with start("example", EdgeSettings(home=home, metrics_port=0, **settings), signals=False) as kit:
        server = GrpcServer(kit, register, port)
        await server.start()
        kit.ready.set("all", True)
        yield server.port
        assert 0 < (await server.drain(20.0)).left_s()


@asynccontextmanager
async def calling(*ports: int) -> AsyncIterator[None]:
    """Callers with clients of their own, each one call after the other; an error of one is raised at the end."""
    over, targets = threading.Event(), [f"127.0.0.1:{port}" for port in ports]

    def call() -> None:
        with RankingClient(targets) as client:
            while not over.is_set():
                client.rank("movies", 1, [2], timeout_s=20.0)

    async def caller() -> None:
        try:
            await asyncio.get_running_loop().run_in_executor(threads, call)
        finally:
            over.set()

    with ThreadPoolExecutor(CALLERS) as threads:
        async with asyncio.TaskGroup() as callers:
            for _ in range(CALLERS):
                callers.create_task(caller())
            try:
                yield
            finally:
                over.set()


async def test_restarting_two_servers_in_turn_fails_no_call(tmp_path: Path) -> None:
    """Each is drained and comes back at its address as soon as the other has its share again."""
    async with asyncio.timeout(LIMIT_S), AsyncExitStack() as stays:
        running = [await stays.enter_async_context(AsyncExitStack()) for _ in range(2)]
        ports = [await each.enter_async_context(serving(tmp_path, Answers())) for each in running]
        async with calling(*ports):
            for roll in range(ROLLS):
                each, port = running[roll % 2], ports[roll % 2]
                await each.aclose()
                await each.enter_async_context(serving(tmp_path, answers := Answers(), port))
                await answers.came.wait()


async def test_a_connection_that_grows_old_takes_no_call_with_it(tmp_path: Path) -> None:
    """The caller makes another one, and notices nothing."""
    answers = Answers()
    async with asyncio.timeout(LIMIT_S), serving(tmp_path, answers, max_connection_age_s=0.2) as port, calling(port):
        while len(answers.peers) < ROLLS:
            answers.came.clear()
            await answers.came.wait()
