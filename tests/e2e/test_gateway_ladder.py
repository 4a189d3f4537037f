"""The gateway beside a real Triton that is killed, stopped and brought back while requests go on."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest
from definitions.layout import Layout, layout_of
from definitions.usecase import load_usecase
from local_stack.harness import NativeStack
from millrace.client import Entity, EventClient
from millrace.events.v1 import events_pb2
from millrace.ranking.v1 import ranking_pb2 as pb
from millrace.ranking.v1 import ranking_pb2_grpc
from pipelines.deploy import deploy
from pipelines.triton_repository import Repository

pytestmark = pytest.mark.real

ROOT = Path(__file__).parents[2]
ITEMS = range(7_000_001, 7_000_101)
RATE, DEADLINE_S = 50.0, 1.0
PATIENCE_S = 60.0  # for what has no bar of its own
BACK_S = 10.0  # MODEL again after Triton is: the bar


@dataclass
class Traffic:
    """Steady requests from a thread of its own; every outcome with the time it came."""

    target: str
    outcomes: list[tuple[float, str]] = field(default_factory=list)  # (monotonic, rung or status)
    _stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        with grpc.insecure_channel(self.target) as channel:
            stub = ranking_pb2_grpc.RankingServiceStub(channel)
            request = pb.RankRequest(usecase="movies", user_id=7_000_000, item_ids=ITEMS, limit=10)
            due = time.monotonic()
            while not self._stop.wait(max(0.0, due - time.monotonic())):
                due = max(due + 1 / RATE, time.monotonic() - 1.0)
                try:
                    answer = stub.Rank(request, timeout=DEADLINE_S)
                    outcome = events_pb2.Rung.Name(answer.served_by) if len(answer.items) == 10 else "SHORT"
                except grpc.RpcError as exc:
                    outcome = exc.code().name
                self.outcomes.append((time.monotonic(), outcome))

    def stop(self) -> None:
        self._stop.set()

    def since(self, moment: float) -> list[str]:
        return [outcome for when, outcome in list(self.outcomes) if when >= moment]

    def failed(self) -> list[str]:
        return [outcome for _, outcome in self.outcomes if not outcome.startswith("RUNG_")]

    def wait_for(self, rung: str, moment: float, count: int, within_s: float) -> float:
        """Wait until `count` answers since `moment` in a row are from `rung`; returns seconds since `moment`."""
        while time.monotonic() < moment + within_s:
            newest = self.since(moment)[-count:]
            if len(newest) == count and set(newest) == {rung}:
                return time.monotonic() - moment
            time.sleep(0.02)
        pytest.fail(f"no {count} answers of {rung} in a row within {within_s} s: {self.since(moment)[-20:]}")


@pytest.fixture(scope="module")
def deployed(stack: NativeStack, small_bundle: Callable[[Path, Layout, int], None]) -> int:
    """A model pinned and loaded, and items to rank; the version."""
    version = int(time.time())
    folder = stack.home / "bundles" / "movies-ladder" / str(version)
    small_bundle(folder, layout_of(load_usecase(ROOT / "usecases/movies.yaml")), version)
    with EventClient(stack.address("collector"), timeout_s=PATIENCE_S) as client:
        client.put_items("movies", [Entity(id=item, attributes={"genre": [1], "year": 1999}) for item in ITEMS])
    deploy(
        folder,
        kafka=f"127.0.0.1:{stack.ports.kafka}",
        triton=f"127.0.0.1:{stack.ports.triton_grpc}",
        repository=Repository(stack.home / "models", ROOT / "infra" / "triton"),
    )
    return version


@pytest.fixture
def traffic(stack: NativeStack, deployed: int) -> Iterator[Traffic]:
    """Requests under way, answered by the model."""
    running = Traffic(stack.address("gateway"))
    thread = threading.Thread(target=running.run)
    thread.start()
    try:
        running.wait_for("RUNG_MODEL", time.monotonic(), 25, PATIENCE_S)
        yield running
    finally:
        running.stop()
        thread.join()


def triton_pid(stack: NativeStack) -> int:
    pid = stack.pids()["triton"]
    assert pid is not None
    return pid


def killed(stack: NativeStack) -> Callable[[], None]:
    """Kill Triton; the way back is `millrace up`."""
    os.kill(triton_pid(stack), signal.SIGKILL)
    return lambda: stack.millrace("up") and None


def stopped(stack: NativeStack) -> Callable[[], None]:
    """Stop Triton: it keeps its connections and says nothing."""
    pid = triton_pid(stack)
    os.kill(pid, signal.SIGSTOP)
    return lambda: os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize("fault", [killed, stopped])
def test_no_answer_fails_while_triton_is_gone(
    stack: NativeStack, traffic: Traffic, fault: Callable[[NativeStack], Callable[[], None]]
) -> None:
    """A lower rung answers every request and is named; MODEL is back within 10 s of Triton."""
    began = time.monotonic()
    bring_back = fault(stack)
    traffic.wait_for("RUNG_LOCAL_MODEL", began, 40, PATIENCE_S)
    bring_back()
    returned = time.monotonic()
    traffic.wait_for("RUNG_MODEL", returned, 25, BACK_S)

    assert [] == traffic.failed()
