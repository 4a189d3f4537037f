"""The model changes under a real gateway and Triton while requests go on: to some, to all, back, and by itself."""

import shutil
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundle import load_bundle
from definitions.layout import layout_of
from definitions.usecase import load_usecase
from local_stack.harness import NativeStack
from millrace.client import Entity, EventClient, RankingClient
from millrace.decisions.v1 import decisions_pb2 as pb
from pipelines.bench.open_loop import Answer, OpenLoop, Question, failures
from pipelines.bench.planted import planted_templates, small_bundle, spoil
from pipelines.bench.swap import another
from pipelines.deploy import deploy, rollback
from pipelines.errors import DeployError
from pipelines.triton_repository import Repository

from pipelines import canary, decisions

pytestmark = pytest.mark.real

ROOT = Path(__file__).parents[2]
ITEMS = np.arange(7_100_001, 7_100_041, dtype=np.uint64)
USERS = range(7_200_001, 7_200_301)
NAME = "movies-life"
RATE, DEADLINE_S, WITHIN_S = 40.0, 2.0, 60.0


@dataclass
class Life:
    """The stack's versions: `next()` writes another one beside the first."""

    stack: NativeStack
    repository: Repository
    newest: int

    @property
    def to(self) -> dict[str, Any]:
        ports = self.stack.ports
        return {
            "kafka": f"127.0.0.1:{ports.kafka}",
            "triton": f"127.0.0.1:{ports.triton_grpc}",
            "repository": self.repository,
        }

    @property
    def kafka(self) -> str:
        return str(self.to["kafka"])

    @property
    def bundles(self) -> Path:
        return self.stack.home / "bundles"

    def folder(self, version: int) -> Path:
        return self.bundles / NAME / str(version)

    def next(self) -> int:
        self.newest += 1
        another(load_bundle(self.folder(self.newest - 1)), self.newest)
        return self.newest

    def state(self) -> pb.ServingState:
        return decisions.serving_state(self.kafka, "movies")

    def counted(self, metric: str, **labels: str) -> float:
        """A counter of the gateway."""
        with urllib.request.urlopen(f"http://{self.stack.metrics('gateway')}/metrics") as answer:
            lines = answer.read().decode().splitlines()
        wanted = [f'{name}="{value}"' for name, value in labels.items()]
        found = [line for line in lines if line.startswith(metric) and all(each in line for each in wanted)]
        return sum(float(line.rpartition(" ")[2]) for line in found)

    def asked(self, users: Iterator[int] | range = USERS) -> dict[int, tuple[int, str]]:
        """User -> version and arm of its answer."""
        found = {}
        with RankingClient(self.stack.address("gateway")) as client:
            for user in users:
                answer = client.rank("movies", user, ITEMS[:10].tolist(), timeout_s=DEADLINE_S)
                found[user] = (answer.model_version, answer.arm)
        return found

    def in_canary(self, version: int, percent: float) -> set[int]:
        """Users who get the canary, once the gateway has that state in force: the same at each call."""
        gives_up, former = time.monotonic() + WITHIN_S, set[int]()
        while True:
            found = self.asked()
            inside = {user for user, (_, arm) in found.items() if arm == "canary"}
            if inside == former and abs(len(inside) / len(USERS) - percent / 100) < 0.1:
                assert {version} == {found[user][0] for user in inside}
                assert version not in {found[user][0] for user in found.keys() - inside}
                return inside
            assert time.monotonic() < gives_up, f"{len(inside)} of {len(USERS)} users, {len(inside ^ former)} moved"
            former = inside


@pytest.fixture(scope="module")
def life(stack: NativeStack) -> Life:
    """Version one is pinned and answers. The wrapper in Triton can be told to go bad."""
    first = int(time.time())
    templates = planted_templates(ROOT / "infra" / "triton", stack.home / "planted-templates")
    life = Life(stack, Repository(stack.home / "models", templates), first)
    small_bundle(life.folder(first), layout_of(load_usecase(ROOT / "usecases/movies.yaml")))
    with EventClient(stack.address("collector"), timeout_s=WITHIN_S) as client:
        client.put_items("movies", [Entity(id=int(item), attributes={"genre": [1], "year": 1999}) for item in ITEMS])
    deploy(life.folder(first), **life.to)
    return life


@contextmanager
def traffic(life: Life, version: int) -> Iterator[OpenLoop]:
    """Requests of many users all the time, answered by `version` when this begins."""
    none = np.empty(0, np.uint64)
    questions = [Question(user, ITEMS, none, none.astype(np.int64)) for user in USERS]
    with OpenLoop([life.stack.address("gateway")], "movies", questions, rate=RATE, deadline_s=DEADLINE_S) as loop:
        answered_by(loop, version, time.monotonic())
        yield loop


def answered_by(loop: OpenLoop, version: int, since: float) -> None:
    def holds(answer: Answer) -> bool:
        return (answer.version, answer.rung) == (version, "MODEL")

    took = loop.wait_for(holds, since=since, count=20, within_s=WITHIN_S)
    odd = {(answer.code, answer.rung, answer.version, answer.reason) for answer in loop.between(since)[-40:]}
    assert took is not None, odd


def test_swap_and_rollback_fail_nobody(life: Life) -> None:
    """Two new versions and back to the first of them; each answer is of one of the versions that served then."""
    versions = [life.newest, life.next(), life.next()]
    with traffic(life, versions[0]) as loop:
        began = time.monotonic()  # before it, the gateway may have been about to take the first of them
        for version in versions[1:]:
            since = time.monotonic()
            deploy(life.folder(version), **life.to)
            answered_by(loop, version, since)
        since = time.monotonic()
        rollback("movies", bundles=life.bundles, **life.to)
        answered_by(loop, versions[1], since)
        answers = loop.between(began)
    assert {} == failures(answers)
    assert set(versions) >= {answer.version for answer in answers if answer.rung == "MODEL"}


def test_a_canary_is_sticky_and_grows_to_everybody(life: Life) -> None:
    """Who is in stays in, nobody else gets it, the answer names the arm; then all do, and no arm is named."""
    version = life.next()
    deploy(life.folder(version), canary=25.0, **life.to)
    quarter = life.in_canary(version, 25)
    canary.widen(life.kafka, "movies", 60.0)
    assert quarter < life.in_canary(version, 60)
    canary.finish(life.kafka, "movies")
    gives_up = time.monotonic() + WITHIN_S
    while {(version, "")} != (found := set(life.asked().values())) and time.monotonic() < gives_up:
        time.sleep(0.05)
    assert {(version, "")} == found


def test_corrupt_versions_are_refused_and_the_old_one_serves(life: Life) -> None:
    """By `deploy`, and where somebody gets past it by the gateway: counted, and nothing fails."""
    serves, version = life.newest, life.next()
    graph = life.folder(version) / "model.onnx"
    raw = bytearray(graph.read_bytes())
    digest = load_bundle(life.folder(version)).digest
    raw[-3] ^= 1
    graph.write_bytes(raw)
    before, refused = life.state(), life.counted("gateway_bundles_total", outcome="refused")
    with traffic(life, serves) as loop:
        with pytest.raises(DeployError, match="changed since it was written"):
            deploy(life.folder(version), **life.to)
        after = pb.ServingState()
        after.CopyFrom(before)
        after.pin.version, after.pin.digest = version, digest
        said = {"reason": "past deploy", "actor": "test"}
        decisions.change(life.kafka, "movies", pb.DECISION_KIND_DEPLOY, lambda _: after, **said)
        gives_up = time.monotonic() + WITHIN_S
        while life.counted("gateway_bundles_total", outcome="refused") == refused and time.monotonic() < gives_up:
            time.sleep(0.05)
        assert refused + 1 == life.counted("gateway_bundles_total", outcome="refused")
        answered_by(loop, serves, time.monotonic())
        decisions.change(life.kafka, "movies", pb.DECISION_KIND_DEPLOY, lambda _: before, **said)
        answers = loop.answers
    assert ({}, {serves}) == (failures(answers), {answer.version for answer in answers})
    shutil.rmtree(life.folder(version))
    life.newest = serves


def test_a_version_that_goes_bad_is_taken_back_by_itself(life: Life) -> None:
    """It scores NaN from a moment on: none of that is served, and the version before answers again at rung MODEL."""
    good, bad = life.newest, life.next()
    with traffic(life, good) as loop:
        since = time.monotonic()
        deploy(life.folder(bad), **life.to)
        answered_by(loop, bad, since)
        pin = life.state().pin
        since = time.monotonic()
        heal = spoil(life.repository.root / (pin.triton_name or pin.name) / str(bad), "nan")
        try:
            answered_by(loop, good, since)
        finally:
            heal()
        took = max(answer.ended for answer in loop.between(since) if answer.version == bad) - since
        answers = loop.answers
    assert {} == failures(answers)
    assert took <= 10, "the bar of a poisoned version"
    decision = decisions.newest(life.kafka, "movies")
    assert (pb.DECISION_KIND_ROLLBACK, "gateway", good) == (decision.kind, decision.actor, decision.state.pin.version)
    assert "bad answers" in decision.reason
    assert not decision.state.HasField("previous")
    assert life.counted("gateway_guardrails_total", outcome="taken_back") >= 1


def test_a_shadow_scores_copies_and_shows_nothing(life: Life) -> None:
    """Everybody is answered by the pin; the lake has both versions' scores, and the report compares them."""
    serves = life.state().pin.version
    version = life.next()
    canary.begin_shadow(life.folder(version), 1.0, **life.to)
    gives_up = time.monotonic() + WITHIN_S
    while life.counted("gateway_shadow_total", outcome="scored") < 20 and time.monotonic() < gives_up:
        assert {(serves, "")} == set(life.asked(USERS[:20]).values())
    assert life.counted("gateway_shadow_total", outcome="scored") >= 20
    canary.end_shadow(life.kafka, "movies")
    gives_up = time.monotonic() + WITHIN_S
    while True:  # the gateway hands impressions to Kafka within a second
        report = life.stack.millrace("shadow", "report", "--usecase", "movies", "--version", str(version))
        if report["requests"] >= 20 or time.monotonic() > gives_up:
            break
    assert (serves, version) == (report["served_version"], report["shadow_version"])
    assert report["requests"] >= 20
    assert (0.0, 0.0, 1.0) == (report["max_abs"], report["first_changed"], report["top_overlap"])
