"""Gateways on a real stack while what they depend on is killed, stopped, slow or wrong, or they are restarted."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from bundle import Bundle
from definitions.layout import layout_of
from definitions.usecase import find_usecase
from local_stack.harness import NativeStack
from local_stack.home import checkout_root
from millrace.client import Entity, EventClient
from millrace.decisions.v1 import decisions_pb2 as pb
from millrace_cli import faults
from millrace_cli.bench_ladder import fault_of
from millrace_cli.bench_orphans import gateways_calls
from millrace_cli.bench_restarts import Replicas
from pipelines.bench import ladder, orphans, restarts
from pipelines.bench.open_loop import OpenLoop, Question
from pipelines.bench.planted import EDGE, planted_templates, small_bundle, spoil, with_fragile_fallback
from pipelines.deploy import deploy
from pipelines.triton_client import Triton
from pipelines.triton_repository import Repository
from stores.batch import UserList, bucket_of, new_run_id, open_batch

from pipelines import decisions

pytestmark = pytest.mark.real

TEMPLATES = checkout_root() / "infra" / "triton"
LAYOUT = layout_of(find_usecase("movies", checkout_root() / "usecases"))
ITEMS = np.arange(7_000_001, 7_000_101, dtype=np.uint64)
DOOMED, POISONED = ITEMS[10:14].tolist(), int(ITEMS[20])
USERS = range(7_000_000, 7_000_005)
RATE, MEASURE_S = 50.0, 1.0
BACK_S = 10.0  # MODEL again after Triton is: the bar
LATE_CALLS = 400


def put(stack: NativeStack, *items: Entity) -> None:
    with EventClient(stack.address("collector"), timeout_s=30) as client:
        assert not client.put_items("movies", items).rejected


def item(item_id: int, year: float = 1999) -> Entity:
    return Entity(id=item_id, attributes={"genre": [1], "year": year})


def nightly_lists(stack: NativeStack) -> None:
    """A generation of lists for the tests' users: the items in their order."""
    store = open_batch(f"127.0.0.1:{stack.ports.cassandra}", stack.home / "unused", read_timeout_s=5.0)
    try:
        run_id = new_run_id(time.time_ns() // 1_000, "ladder")
        store.create_run("movies", run_id, 1, "movies-ladder/1")
        scores = np.linspace(1, 0, len(ITEMS), dtype=np.float32)
        assert {0} == {bucket_of(user, 1) for user in USERS}
        lists = [UserList(user_id=user, item_ids=ITEMS, scores=scores) for user in USERS]
        store.write_bucket("movies", run_id, 0, lists)
        store.seal_run("movies", run_id)
        store.flip("movies", run_id)
    finally:
        store.close()


@pytest.fixture(scope="module")
def version(stack: NativeStack, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model pinned, with nothing to roll back to, that can be spoilt, its fallback too; its folder in Triton."""
    number = int(time.time())
    bundles, aside = stack.home / "bundles" / "movies-ladder", tmp_path_factory.mktemp("ladder")
    with_fragile_fallback(small_bundle(aside / "movies-ladder" / "1", LAYOUT), bundles / str(number), "i_year")
    put(stack, *(item(each) for each in ITEMS.tolist()))
    nightly_lists(stack)
    kafka = f"127.0.0.1:{stack.ports.kafka}"
    repository = Repository(stack.home / "models", planted_templates(TEMPLATES, aside / "templates"))
    deploy(bundles / str(number), kafka=kafka, triton=f"127.0.0.1:{stack.ports.triton_grpc}", repository=repository)
    pin = decisions.serving_state(kafka, "movies").pin
    alone = pb.ServingState(pin=pin)
    decisions.change(
        kafka, "movies", pb.DECISION_KIND_DEPLOY, lambda _: alone, reason="nothing to return to", actor="test"
    )
    with OpenLoop([stack.address("gateway")], "movies", questions(), rate=RATE) as loop:
        assert loop.wait_for(lambda each: each.version == number, since=0, count=25, within_s=60) is not None
    return repository.root / "movies-ladder" / str(number)


def questions() -> list[Question]:
    labels = np.array([1, 0] * 5)
    return [Question(user, ITEMS, ITEMS[:10], labels) for user in USERS]


def test_every_fault_is_answered_by_the_next_rung(stack: NativeStack, version: Path) -> None:
    """Not one request fails, each answer says its rung and why, MODEL comes back, and a deleted item is gone."""

    def spoilt(fault: str) -> Callable[[], faults.Heal]:
        return lambda: spoil(version, fault)

    def absurd() -> faults.Heal:
        put(stack, item(POISONED, year=2 * EDGE))
        return lambda: put(stack, item(POISONED))

    def case(name: str, rung: str, *injections: Callable[[], faults.Heal], doomed: int = 0) -> ladder.Case:
        return ladder.Case(name, rung, *fault_of(*injections), doomed=doomed)

    cases = [
        case("nothing", "MODEL", doomed=DOOMED[0]),
        case("slow", "LOCAL_MODEL", spoilt("slow 0.2")),
        case("NaN", "LOCAL_MODEL", spoilt("nan"), doomed=DOOMED[1]),
        case("wrong shape", "LOCAL_MODEL", spoilt("shape")),
        case("Triton stopped", "LOCAL_MODEL", lambda: faults.stopped(stack, "triton")),
        case("Triton killed", "LOCAL_MODEL", lambda: faults.killed(stack, "triton")),
        case("NaN, fallback NaN", "PRECOMPUTED", absurd, spoilt("nan"), doomed=DOOMED[2]),
        case("Cassandra stopped", "POPULAR", absurd, spoilt("nan"), lambda: faults.stopped(stack, "cassandra"),
             doomed=DOOMED[3]),
    ]  # fmt: skip
    catalogue = ladder.Catalogue(
        delete=lambda each: put(stack, Entity(id=each, deleted=True)), restore=lambda each: put(stack, item(each))
    )

    found = ladder.run(
        stack.address("gateway"), "movies", questions(), cases, catalogue,
        where="the tests' stack", rate=RATE, measure_s=MEASURE_S, deadline_s=1.0,
    )  # fmt: skip

    assert [] == found["odd"]
    assert (0, 0, 1.0) == (found["failed_first_2s"], found["failed_after_2s"], found["labelled_share"])
    assert list(ladder.RUNGS) == list(found["rungs"])
    assert found["deleted_seen_before"] > 0 == found["deleted_served"]
    assert max(row["back_s"] for row in found["table"]) < BACK_S


def test_calls_that_outlive_their_budget_leave_triton_alive(
    triton: str, triton_repository: Path, tmp_path: Path
) -> None:
    """None is cancelled, whoever has gone; it answers well afterwards. 10,000 of them: `millrace bench orphans`."""
    bundle: Bundle = small_bundle(tmp_path / "late" / "1", LAYOUT)
    repository = Repository(triton_repository, planted_templates(TEMPLATES, tmp_path / "templates"))
    repository.add(bundle)
    repository.configure(bundle.manifest, [1])
    with Triton(triton) as server:
        server.load("late")
        server.wait_ready("late", [1])
        try:
            found = orphans.run(
                lambda: gateways_calls(triton, bundle),
                lambda seconds: spoil(triton_repository / "late" / "1", f"slow {seconds}"),
                lambda: server.states("late") != {},
                count=LATE_CALLS,
            )
        finally:
            server.unload("late")
            repository.drop("late")

    assert found["outlived"] >= LATE_CALLS
    assert (0, 100, 0) == (found["triton_exits"], found["good_after"], found["left_in_flight"])


@pytest.mark.parametrize("kill", [False, True])
def test_a_rolling_restart_of_two_gateways_fails_no_request(stack: NativeStack, version: Path, kill: bool) -> None:
    """Drained or killed: a client that knows both asks the other. Ten times: `millrace bench restarts`."""
    del version  # only that it serves
    with Replicas(stack, 2) as gateways:
        found = restarts.run(
            gateways.addresses, "movies", questions(), lambda number: gateways.restart(number, kill=kill),
            how="killed" if kill else "drained", rolls=1, requests=1, rate=RATE, deadline_s=1.0,
        )  # fmt: skip

    assert [] == found["odd"]
    assert (0, 2) == (found["failed"], found["restarts"])
    assert found["requests"] > 100
