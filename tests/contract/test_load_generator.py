"""The load generator against a small real server; each case takes seconds, since it measures time."""

import asyncio
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from loadtest.errors import BadInput, Unreachable
from loadtest.targets import load_suite
from millrace.events.v1 import events_pb2
from millrace.ranking.v1 import ranking_pb2, ranking_pb2_grpc

from loadtest import Saturation, Verdict, run_loadtest, run_suite

pytestmark = pytest.mark.real  # real sockets, and real seconds


@dataclass
class FakeGateway(ranking_pb2_grpc.RankingServiceServicer):
    """Answers at once; the call number `stall_at` blocks the whole server for `stall_s`."""

    stall_at: int = -1
    stall_s: float = 0.0
    refuse: str = ""
    rung: "events_pb2.Rung" = events_pb2.RUNG_MODEL
    target: str = ""
    calls: int = 0
    users: set[int] = field(default_factory=set)

    async def Rank(  # noqa: N802 - the protocol's name
        self, request: ranking_pb2.RankRequest, context: grpc.aio.ServicerContext
    ) -> ranking_pb2.RankResponse:
        """The first ten items as they came."""
        if self.refuse:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, self.refuse)
        self.calls += 1
        self.users.add(request.user_id)
        if self.calls == self.stall_at:
            time.sleep(self.stall_s)  # noqa: ASYNC251 - the planted stall: everything waits
        items = [ranking_pb2.RankedItem(item_id=item, position=n) for n, item in enumerate(request.item_ids[:10], 1)]
        return ranking_pb2.RankResponse(items=items, served_by=self.rung, model_name="lightgbm", model_version=1)


@pytest.fixture
def gateway() -> Iterator[Callable[..., FakeGateway]]:
    """Starts fakes on free ports; all of them end with the test."""
    running: list[tuple[asyncio.AbstractEventLoop, threading.Thread]] = []

    def start(**settings: object) -> FakeGateway:
        fake = FakeGateway(**settings)  # type: ignore[arg-type]
        ready = threading.Event()
        loop = asyncio.new_event_loop()

        async def serve() -> None:
            server = grpc.aio.server()
            ranking_pb2_grpc.add_RankingServiceServicer_to_server(fake, server)
            fake.target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
            await server.start()
            ready.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                await server.stop(None)

        def run() -> None:
            task = loop.create_task(serve())
            loop.stop_serving = task.cancel  # type: ignore[attr-defined]
            loop.run_until_complete(task)
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()

        thread = threading.Thread(target=run)
        thread.start()
        running.append((loop, thread))
        assert ready.wait(10)
        return fake

    yield start
    for loop, thread in running:
        loop.call_soon_threadsafe(loop.stop_serving)  # type: ignore[attr-defined]
        thread.join(10)


LOOSE = """
suites:
  test: {about: t, rate: 100, candidates: 20, seconds: 2, warmup_s: 0, deadline_ms: 5000,
    limits: {p99_ms: 300, error_share: 0, achieved_share: 0.5, generator_cpu_share: 5, rungs: {MODEL: 0.99}}}
"""


@pytest.fixture
def targets(tmp_path: Path) -> Path:
    path = tmp_path / "targets.yaml"
    path.write_text(LOOSE)
    return path


def test_a_fast_gateway_passes(gateway: Callable[..., Any], targets: Path, tmp_path: Path) -> None:
    """Every scheduled request is answered, reported, and drawn from the given ids."""
    fake = gateway()
    seen: list[Mapping[str, Any]] = []

    verdict = run_loadtest(
        fake.target, "movies", item_ids=range(1, 100), user_ids=[7, 8], targets=targets, suite="test",
        report_dir=tmp_path / "reports", progress=seen.append,
    )  # fmt: skip

    assert verdict.passed, verdict.missed
    assert verdict.requests == fake.calls - 1  # the probe is not counted
    assert {7, 8} == fake.users
    assert {"lightgbm:1": verdict.requests} == verdict.models
    assert seen[-1]["seconds"] == 2.0
    assert verdict.requests == json.loads((tmp_path / "reports" / "loadtest-test.json").read_text())["requests"]


def test_only_the_open_loop_shows_a_stall(gateway: Callable[..., Any], targets: Path) -> None:
    """1 s of standstill in 2.5 s: two requests in five were due in it, yet three users who wait ask three.

    The stall is planted at call 50, so it begins within the run in both modes.
    """
    open_loop, waiting = (
        run_loadtest(
            gateway(stall_at=50, stall_s=1.0).target, "movies", seconds=2.5, targets=targets, suite="test", **m
        )
        for m in ({}, {"mode": "poisson", "rate": 60, "users": 3})
    )

    assert open_loop.p99_ms is not None
    assert open_loop.p99_ms > 800
    assert ["p99_ms"] == open_loop.missed
    assert waiting.requests < 60 * 2.5 * 0.9  # and nothing in their verdict counts what they did not ask


def test_a_full_pool_drops_what_is_past_its_deadline(gateway: Callable[..., Any], targets: Path) -> None:
    """Two slots and a standstill of 1 s: what was due meanwhile fails after 200 ms, sent or not, and is counted."""
    fake = gateway(stall_at=50, stall_s=1.0)

    verdict = run_loadtest(fake.target, "movies", targets=targets, suite="test", deadline_ms=200, pool=2)

    assert verdict.errors > 40
    assert verdict.late > 20
    assert "error_share" in verdict.missed


def test_the_rung_is_judged_and_the_exit_code_is_one(gateway: Callable[..., Any], targets: Path) -> None:
    """Answers from POPULAR miss a target that asks for MODEL."""
    fake = gateway(rung=events_pb2.RUNG_POPULAR)
    command = [sys.executable, "-m", "loadtest", "--target", fake.target, "--targets", str(targets), "--suite", "test"]

    done = subprocess.run([*command, "--seconds", "1", "--json"], capture_output=True, text=True, check=False)

    assert 1 == done.returncode
    assert ["rungs.MODEL"] == json.loads(done.stdout.splitlines()[-1])["missed"]


SEARCH = """
suites:
  search: {about: t, rate: 60, candidates: 20, seconds: 1, warmup_s: 0, deadline_ms: 2000,
    limits: {error_share: 1, achieved_share: 0.5, generator_cpu_share: 5},
    # So far apart that a line through the fake's processor time rises, whatever else runs meanwhile.
    search: {calibrate: [10, 300], factor: 2, max_rate: 120, knee_p99_ms: 1500, knee_model_share: 0.99, confirm_s: 1,
      overload: 1.5, goodput_share: 0.9, overload_p99_ms: 2000, unshed_share: 0, model_error: 1000000}}
  spike: {about: t, rate: 20, candidates: 20, seconds: 6, warmup_s: 0, deadline_ms: 2000,
    phases: [{name: before, seconds: 1, rate: 20}, {name: spike, seconds: 1, rate: 200},
      {name: after, seconds: 4, rate: 20}],
    limits: {error_share: 1, unshed_share: 0, recovery_s: 1, achieved_share: 0.5, generator_cpu_share: 5}}
"""


def test_a_search_ends_at_the_highest_rate_it_may_try(gateway: Callable[..., Any], tmp_path: Path) -> None:
    """A real generator for each step; a server that is never full holds every rate, and the report says so."""
    targets = tmp_path / "targets.yaml"
    targets.write_text(SEARCH)
    target, suite = gateway().target, load_suite("search", targets)

    def once(rate: float | None, seconds: float | None, seed: int) -> Verdict:
        return run_loadtest(target, "movies", rate, seconds, targets=targets, suite="search", seed=seed)

    found = run_suite("search", suite, once, folder=tmp_path)

    assert isinstance(found, Saturation)
    assert found.passed, found.missed
    assert (120, 180) == (found.knee_rps, found.steps[-1].rate)
    assert ["calibrate", "calibrate", "search", "search", "knee", "overload"] == [
        step.kind for step in found.steps if step.kind != "beyond"
    ]
    assert Path(found.report_png).stat().st_size > 10_000


def test_a_spike_is_judged_by_its_phases(gateway: Callable[..., Any], tmp_path: Path) -> None:
    """Each phase asks at its own rate."""
    targets = tmp_path / "targets.yaml"
    targets.write_text(SEARCH)

    verdict = run_loadtest(gateway().target, "movies", targets=targets, suite="spike")

    assert verdict.passed, verdict.missed
    assert [("before", 20), ("spike", 200), ("after", 20)] == [(each["name"], each["rate"]) for each in verdict.phases]
    assert 150 < verdict.phases[1]["requests"] < 260


def test_nobody_there_is_the_environment() -> None:
    """Exit code 3, and what to do."""
    with pytest.raises(Unreachable, match="millrace up"):
        run_loadtest("127.0.0.1:1", "movies", seconds=1)


def test_what_the_gateway_refuses_is_bad_input(gateway: Callable[..., Any]) -> None:
    """Its own words reach the caller before a single request is counted."""
    with pytest.raises(BadInput, match="unknown use case"):
        run_loadtest(gateway(refuse="usecase: unknown use case").target, "moovies", seconds=1)
