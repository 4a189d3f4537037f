"""Who decides together with others, on the embedded broker and on Kafka: one comes first, and nothing is undone."""

import itertools
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from definitions.serving_state import deployed, without
from local_stack.topics import create_topics, declared_topics
from millrace.decisions.v1 import decisions_pb2 as pb
from pipelines.errors import DeployError
from servicekit.decisions import publish

from pipelines import decisions

TOPICS = Path(__file__).parents[2] / "infra" / "kafka" / "topics.yaml"
SAID = {"reason": "a test", "actor": "test"}

_numbers = itertools.count(time.time_ns() // 1_000_000)


@pytest.fixture(params=["embedded", pytest.param("real", marks=pytest.mark.real)])
def log(request: pytest.FixtureRequest) -> str:
    """Either broker, with the topic `decisions`."""
    broker = str(request.getfixturevalue("kafka" if request.param == "real" else "embedded_kafka"))
    create_topics(broker, declared_topics(TOPICS, []))
    return broker


@pytest.fixture
def usecase() -> str:
    """One of this test alone."""
    return f"decided{next(_numbers)}"


def pin(version: int) -> pb.ModelPin:
    return pb.ModelPin(name="trees", version=version, digest=f"{version:064x}")


def to(version: int) -> Callable[[pb.ServingState], pb.ServingState]:
    return lambda state: deployed(state, pin(version))


def test_each_decision_is_made_from_the_one_before(log: str, usecase: str) -> None:
    """And says so; other use cases on the same log do not count."""
    assert not decisions.serving_state(log, usecase).HasField("pin")
    for version in (1, 2):
        decisions.change(log, usecase, pb.DECISION_KIND_DEPLOY, to(version), **SAID)
        decisions.change(log, f"{usecase}-b", pb.DECISION_KIND_DEPLOY, to(9), **SAID)

    newest = decisions.newest(log, usecase)
    assert (2, 2, 1) == (newest.revision, newest.state.pin.version, newest.state.previous.version)


def test_a_deploy_that_meets_an_automatic_rollback_undoes_nothing(log: str, usecase: str) -> None:
    """The gateway takes version 2 back while version 3 is decided: 3 serves, and no rollback returns to 2."""
    for version in (1, 2):
        decisions.change(log, usecase, pb.DECISION_KIND_DEPLOY, to(version), **SAID)
    asked = []

    def meets(state: pb.ServingState) -> pb.ServingState:
        asked.append(state.pin.version)
        if len(asked) == 1:
            taken_back(log, usecase, pin(2))
        return deployed(state, pin(3))

    after = decisions.change(log, usecase, pb.DECISION_KIND_DEPLOY, meets, **SAID)

    assert [2, 1] == asked
    assert (3, 1) == (after.pin.version, after.previous.version)
    assert after == decisions.serving_state(log, usecase)


def taken_back(log: str, usecase: str, bad: pb.ModelPin) -> None:
    """As a gateway does it: one record, made from the newest that it knows."""
    newest = decisions.newest(log, usecase)
    found = without(newest.state, bad)
    assert found is not None
    state, kind = found
    made = pb.Decision(usecase=usecase, kind=kind, actor="gateway", state=state, revision=newest.revision + 1)
    publish(log, made)


def test_a_gateway_that_comes_second_changes_nothing(log: str, usecase: str) -> None:
    """Its record lies on the log behind that of a deploy, and no reader takes it for what serves."""
    for version in (1, 2):
        decisions.change(log, usecase, pb.DECISION_KIND_DEPLOY, to(version), **SAID)
    seen = decisions.newest(log, usecase)
    decisions.change(log, usecase, pb.DECISION_KIND_DEPLOY, to(3), **SAID)
    late = pb.Decision(usecase=usecase, state=pb.ServingState(pin=pin(1)), revision=seen.revision + 1)
    publish(log, late)

    assert 3 == decisions.serving_state(log, usecase).pin.version
    decisions.change(log, usecase, pb.DECISION_KIND_DEPLOY, to(4), **SAID)
    assert (4, 3) == ((state := decisions.serving_state(log, usecase)).pin.version, state.previous.version)


def test_many_at_once_all_come_in(log: str, usecase: str) -> None:
    """Six rules changes from as many processes' worth of writers: none is lost."""
    failed: list[Exception] = []

    def edit(state: pb.ServingState) -> pb.ServingState:
        state.rules_version += 1
        return state

    def decide() -> None:
        for _ in range(20):  # `change` gives up after a few tries, and says to try again
            try:
                decisions.change(log, usecase, pb.DECISION_KIND_RULES, edit, **SAID)
            except DeployError:
                continue
            except Exception as exc:  # noqa: BLE001  told below
                failed.append(exc)
            return

    threads = [threading.Thread(target=decide) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    newest = decisions.newest(log, usecase)
    assert ([], 6, 6) == (failed, newest.state.rules_version, newest.revision)


def test_who_always_loses_is_told(log: str, usecase: str) -> None:
    """And what the others decided stays."""

    def always_first(state: pb.ServingState) -> pb.ServingState:
        newest = decisions.newest(log, usecase)
        publish(log, pb.Decision(usecase=usecase, state=newest.state, revision=newest.revision + 1))
        return deployed(state, pin(1))

    with pytest.raises(DeployError, match="others decided first 5 times running"):
        decisions.change(log, usecase, pb.DECISION_KIND_DEPLOY, always_first, **SAID)
    assert not decisions.serving_state(log, usecase).HasField("pin")


def test_what_an_edit_refuses_is_not_on_the_log(log: str, usecase: str) -> None:
    """Nothing was decided."""

    def refuse(_: pb.ServingState) -> pb.ServingState:
        raise DeployError("no")

    with pytest.raises(DeployError, match="no"):
        decisions.change(log, usecase, pb.DECISION_KIND_DEPLOY, refuse, **SAID)
    assert pb.Decision() == decisions.newest(log, usecase)
