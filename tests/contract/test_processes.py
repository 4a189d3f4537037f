"""Two processes of one server on one port: one is killed under traffic, then all are asked to end."""

import asyncio
import os
import signal
import socket
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from millrace.client import RankingClient
from servicekit.kit import start
from servicekit.processes import port_is_taken, supervise
from servicekit.settings import ProcessSettings

pytestmark = pytest.mark.real

LIMIT_S = 120.0
CALLERS = 4
SERVER = """
import asyncio, os, sys
from millrace.ranking.v1 import ranking_pb2, ranking_pb2_grpc
from servicekit.grpc_server import serve
from servicekit.kit import start
from servicekit.security.settings import EdgeSettings

class Names(ranking_pb2_grpc.RankingServiceServicer):
    async def Rank(self, request, context):
        return ranking_pb2.RankResponse(model_version=os.getpid())

def register(server):
    ranking_pb2_grpc.add_RankingServiceServicer_to_server(Names(), server)
    return ["millrace.ranking.v1.RankingService"]

with start("example", EdgeSettings()) as kit:
    listening = lambda _: kit.ready.set("listening", True)
    asyncio.run(serve(kit, register, int(sys.argv[1]), drain_s=10, on_listening=listening))
"""


def free_ports(count: int) -> list[int]:
    """Ports that nobody had a moment ago."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in held]
    for each in held:
        each.close()
    return ports


async def test_a_killed_process_is_started_anew_and_no_call_fails(tmp_path: Path) -> None:
    """Both answer on one port; a third takes the place of the dead; all drain at the end."""
    port, *pages = free_ports(3)
    given = {"MILLRACE_HOME": str(tmp_path), "MILLRACE_SHARE_PORT": "true", "MILLRACE_MAX_CONNECTION_AGE_S": "0.3"}
    environments = {f"127.0.0.1:{page}": os.environ | given | {"MILLRACE_METRICS_PORT": str(page)} for page in pages}
    over, seen, news = threading.Event(), set[int](), asyncio.Event()
    loop = asyncio.get_running_loop()

    def call() -> None:
        with RankingClient(f"127.0.0.1:{port}") as client:
            while not over.is_set():
                seen.add(client.rank("movies", 1, [2], timeout_s=30.0).model_version)
                loop.call_soon_threadsafe(news.set)

    async def answered_by(count: int) -> None:
        while len(seen) < count:
            news.clear()
            await news.wait()

    with start("example", ProcessSettings(home=tmp_path, metrics_port=0), signals=False) as kit:
        ready = asyncio.Event()
        kit.ready.watch(lambda is_ready: is_ready and loop.call_soon_threadsafe(ready.set))
        with ThreadPoolExecutor(CALLERS + 1) as threads:
            command = [sys.executable, "-c", SERVER, str(port)]
            supervised = loop.run_in_executor(threads, supervise, kit, command, environments, 10.0)
            try:
                async with asyncio.timeout(LIMIT_S):
                    await ready.wait()
                    calling = [loop.run_in_executor(threads, call) for _ in range(CALLERS)]
                    await answered_by(2)
                    os.kill(min(seen), signal.SIGKILL)
                    await answered_by(3)
                    over.set()
                    await asyncio.gather(*calling)
            finally:
                over.set()
                kit.request_stop("the test is over")
            assert 0 == await supervised
        assert 1 == kit.registry.get_sample_value("example_process_restarts_total")


async def test_wrong_settings_end_them_all(tmp_path: Path) -> None:
    """No restart mends them."""
    (page,) = free_ports(1)
    with start("example", ProcessSettings(home=tmp_path, metrics_port=0), signals=False) as kit:
        command = [sys.executable, "-c", "raise SystemExit(2)"]
        environments = {f"127.0.0.1:{page}": dict(os.environ)}
        assert 2 == await asyncio.to_thread(supervise, kit, command, environments, 10.0)


def test_a_stranger_on_the_port_is_noticed() -> None:
    """Also one who shares it."""
    with socket.socket() as stranger:
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        assert port_is_taken(*stranger.getsockname())
    assert not port_is_taken("127.0.0.1", free_ports(1)[0])
