"""The whole loop as people run it: by the command, on the real profile, with a use case and files of their own."""

import json
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from bundle import Bundle, load_bundle
from definitions.backfill import Queries, backfill
from definitions.layout import Layout, layout_of
from definitions.usecase import load_usecase
from local_stack.harness import NativeStack
from local_stack.home import Home
from local_stack.state import StackState
from millrace.client import MillraceError, RankingClient
from millrace.decisions.v1 import decisions_pb2
from pipelines.agreement import offline_scores
from pipelines.audit import archived_since
from pipelines.datasets.synthetic import synthetic_world
from pipelines.training.examples import Examples, Log
from servicekit.kafka import end_offsets
from servicekit.topics import topic
from stores.batch import open_batch
from stores.offline import Lake

from pipelines import decisions

pytestmark = pytest.mark.real

USERS, ITEMS, EVENTS = 150, 300, 12_000
JUNE_1999_US = 928_195_200_000_000
PATIENCE_S = 30.0  # for what has no bar of its own
BACK_S = 10.0  # MODEL again after `up` returned: the bar
ONLINE_GAP = 0.004
PARITY = 1e-5
REDONE = 100  # decisions
RUN_ID = "20260131T020000Z-loop"
LOAD_ONLY = """
suites:
  errors:
    about: Every request is answered; how fast is another test's.
    rate: 50
    candidates: 100
    seconds: 12
    warmup_s: 1
    deadline_ms: 1000
    limits: {error_share: 0, achieved_share: 0.5, generator_cpu_share: 4}
"""


@dataclass(frozen=True)
class Loop:
    """The shared stack, seen through the commands of one use case."""

    stack: NativeStack
    path: Path

    def __call__(self, command: str, *arguments: str) -> dict[str, Any]:
        """`millrace <command> ... --usecase loop.yaml --json`."""
        return self.stack.millrace(command, *arguments, "--usecase", str(self.path))

    @property
    def kafka(self) -> str:
        return f"127.0.0.1:{self.stack.ports.kafka}"

    @property
    def lake(self) -> Lake:
        return Lake(self.stack.home / "lake", "loop")

    @property
    def layout(self) -> Layout:
        return layout_of(load_usecase(self.path))

    def log(self) -> Log:
        return Log.of_lake(self.lake, self.layout.usecase.dedupe_offsets)

    def bundle(self, version: int) -> Bundle:
        return load_bundle(self.stack.home / "bundles" / "loop" / str(version))

    def await_model(self, version: int, within_s: float) -> None:
        """Wait until that version answers; the gateway reads a decision within a second, not at once."""
        with RankingClient(self.stack.address("gateway")) as client:
            ends = time.monotonic() + within_s
            while True:
                answer = client.recommend("loop", 1, timeout_s=1.0)
                if (answer.served_by, answer.model_version) == ("MODEL", version):
                    return
                assert time.monotonic() < ends, f"{answer.served_by} {answer.model_version} after {within_s} s"
                time.sleep(0.02)

    def offline(self, version: int, user: int, items: list[int], at_us: int) -> list[float]:
        """What the bundle says of these pairs at that time, by features computed from the lake."""
        log, layout, n = self.log(), self.layout, len(items)
        queries = Queries.of([user] * n, items, [at_us] * n)
        filled = backfill(layout, log.events, log.users, log.items, queries)
        none = np.zeros(n, np.int64)
        examples = Examples(
            filled.features, filled.user_ints, filled.item_ints, none, none.astype(np.float32), queries.item_id,
            queries.user_id, queries.item_id, queries.time_us, layout.layout_hash, np.zeros(n, np.uint64),
            none.astype(bool), none.astype(np.float32), {},
        )  # fmt: skip
        found: list[float] = offline_scores(self.bundle(version), layout, examples, 2).tolist()
        return found


@dataclass(frozen=True)
class Begun:
    """What was done once for all tests: what `load` said, answers before any deploy, and the version that serves."""

    loop: Loop
    rows: int
    loaded: dict[str, Any]
    unserved: dict[str, Any]
    unserved_text: str
    version: int

    @property
    def user(self) -> int:
        return 7


@pytest.fixture(scope="module")
def begun(stack: NativeStack, tmp_path_factory: pytest.TempPathFactory) -> Begun:
    """Files on disk, loaded; asked for a list with nothing deployed; trained and deployed."""
    folder = tmp_path_factory.mktemp("files")
    world = synthetic_world(users=USERS, items=ITEMS, events=EVENTS, seed=3)
    assert world.items is not None
    assert world.users is not None
    arguments = []
    for name, source in (("interactions", world.interactions), ("items", world.items), ("users", world.users)):
        source.table.write_csv(folder / f"{name}.csv")
        arguments += [f"--{name}", str(folder / f"{name}.csv")]
    loop = Loop(stack, stack.home / "loop.yaml")
    loaded = loop("load", *arguments, "--share", "0.95")
    unserved = loop("recommend", "7", "--limit", "5")
    text = stack.said("recommend", "7", "--limit", "5", "--usecase", str(loop.path))
    version = loop("train")["version"]
    assert version == loop("deploy")["version"]
    loop.await_model(version, PATIENCE_S)
    return Begun(loop, world.interactions.table.height, loaded, unserved, text, version)


@pytest.fixture(scope="module")
def nightly(begun: Begun) -> dict[str, Any]:
    """One generation; what `precompute` said of it."""
    return begun.loop("precompute", "--run-id", RUN_ID)


@pytest.fixture
def loop(begun: Begun) -> Iterator[Loop]:
    """The loop with its first version serving, before and after."""
    yield begun.loop
    begun.loop.await_model(begun.version, PATIENCE_S)


def test_load_says_what_is_on_the_log(begun: Begun) -> None:
    """Nothing is refused, and the tail that replay needs is left out."""
    loaded = begun.loaded

    assert (ITEMS, USERS, []) == (loaded["items"], loaded["users"], loaded["rejected"])
    assert begun.rows == loaded["events"] + loaded["tail"]
    assert loaded["tail"] == pytest.approx(0.05 * begun.rows, rel=0.1)  # equal times stay together


def test_before_any_deploy_what_is_popular_answers(begun: Begun) -> None:
    """The list is what the loaded events say: most positive ratings first, nothing that the user has rated."""
    events = begun.loop.log().events
    events = events.take(events.event_time_us < begun.unserved["at_us"])
    liked = Counter(events.item_id[events.value >= 4].tolist())
    rated = set(events.item_id[events.user_id == begun.user].tolist())
    best = sorted((item for item in range(1, ITEMS + 1) if item not in rated), key=lambda item: (-liked[item], item))

    answer = begun.unserved

    assert ("POPULAR", "", 0) == (answer["served_by"], answer["model_name"], answer["model_version"])
    assert best[:5] == [item["item_id"] for item in answer["items"]]
    assert [float(liked[item]) for item in best[:5]] == [item["score"] for item in answer["items"]]
    assert all(re.fullmatch(rf"\w+ film {item['item_id']}", item["title"]) for item in answer["items"])
    assert answer["stages"]
    assert answer["row"]["interactions_offset"] > 0


def test_the_text_says_what_the_data_says(begun: Begun) -> None:
    """Titles, ids, scores, the rung, the model and the stages are on the screen too."""
    text, answer = begun.unserved_text, begun.unserved

    for item in answer["items"]:
        assert re.search(rf"{item['position']}\D+{item['external_id']}\D+{item['title']}\D+{item['score']:.4f}", text)
    assert "served by POPULAR (no model)" in text
    assert all(f"{stage} " in text.partition("stages, ms:")[2] for stage in answer["stages"])


def test_a_ranking_at_a_time_is_the_models_on_the_features_of_that_time(loop: Loop, begun: Begun) -> None:
    """`--at` moves windows, decays and ages; what is served equals what the lake and the bundle say, score by score."""
    items = list(range(1, 41))
    events = loop.log().events
    newest = int(events.event_time_us.argmax())  # of a user whose last hour is full of events
    user, end_us = int(events.user_id[newest]), int(events.event_time_us[newest]) + 1
    asked = ("rank", str(user), "--items", ",".join(map(str, items)), "--limit", "40")
    answers = [loop(*asked, "--at", at) for at in (str(end_us), "1999-06-01")]

    for answer, at_us in zip(answers, (end_us, JUNE_1999_US), strict=True):
        served = {item["item_id"]: item["score"] for item in answer["items"]}
        expected = loop.offline(begun.version, user, items, at_us)
        assert ("MODEL", begun.version, at_us) == (answer["served_by"], answer["model_version"], answer["at_us"])
        assert expected == pytest.approx([served[item] for item in items], abs=PARITY)
        assert sorted(served.values(), reverse=True) == [item["score"] for item in answer["items"]]
    assert answers[0]["items"] != answers[1]["items"]


def test_replay_serves_what_offline_evaluation_says(loop: Loop, begun: Begun) -> None:
    """Every event of the tail is scored by the model before it is published; none is lost, none is there twice."""
    before = sum(end_offsets(loop.kafka, topic("loop", "interactions")).values())

    figures = loop("replay")

    assert begun.loaded["tail"] == figures["rows"]
    assert {"MODEL": 1.0} == figures["rungs"]
    assert [begun.version] == figures["versions"]
    assert figures["gap"] <= ONLINE_GAP
    assert figures["online"]["auc"] > 0.55
    ends = end_offsets(loop.kafka, topic("loop", "interactions"))
    state = StackState.read(Home(loop.stack.home))
    assert state is not None
    archived = archived_since(loop.lake, state.log_id, dict.fromkeys(ends, 0))
    assert before + begun.loaded["tail"] == sum(ends.values()) == archived.places
    assert 0 == archived.duplicates
    assert archived.places == len(loop.log().events)


def test_what_triton_scored_is_made_again_to_the_bit(loop: Loop, begun: Begun) -> None:
    """A real Triton's scores of a hundred archived lists are those of the bundle here: every bit of every one."""
    ends = time.monotonic() + PATIENCE_S
    ids: list[int] = []
    with RankingClient(loop.stack.address("gateway"), timeout_s=1.0) as client:
        while len(ids) < REDONE:  # a machine that was busy for a moment is answered by a lower rung
            assert time.monotonic() < ends
            answer = client.recommend("loop", len(ids) + 1, limit=10)
            ids += [answer.request_id] if (answer.served_by, answer.model_version) == ("MODEL", begun.version) else []
    while archived_impressions(loop, ids) < REDONE:  # the gateway hands them to the log within a second
        assert time.monotonic() < ends

    found = loop("redo", *map(str, ids))

    assert (REDONE, REDONE, REDONE) == (found["decisions"], found["equal"], found["orders_equal"]), found["examples"]
    assert ({f"loop/{begun.version}": REDONE}, {"MODEL": REDONE}) == (found["models"], found["rungs"])
    assert found["scores_compared"] > REDONE * 30


def test_a_generation_is_written_once_and_answers_when_no_model_is_left(
    loop: Loop, begun: Begun, nightly: dict[str, Any]
) -> None:
    """Verified by reading back; the same run again changes nothing; unpinned, the gateway serves its lists."""
    again = loop("precompute", "--run-id", RUN_ID)

    assert (USERS, "Cassandra", f"loop/{begun.version}") == (
        nightly["users"],
        nightly["store"],
        nightly["model_version"],
    )
    assert (USERS, 0) == (nightly["rows"], nightly["resumed_buckets"])
    assert again["resumed_buckets"] > 0
    same = ("users", "rows", "checksum", "run_id", "previous_run_id")
    assert [nightly[name] for name in same] == [again[name] for name in same]
    events = loop.log().events
    rated = set(events.item_id[events.user_id == begun.user].tolist())
    run_id, stored = generation(loop, begun.user)
    best = [item for item in stored if item not in rated][:10]
    decide(loop, decisions_pb2.ServingState())
    try:
        ends = time.monotonic() + PATIENCE_S
        while (answer := loop("recommend", str(begun.user)))["served_by"] != "PRECOMPUTED":
            assert time.monotonic() < ends, answer["served_by"]
    finally:
        loop("deploy", "--version", str(begun.version))
    assert RUN_ID == run_id
    assert [(item, stored[item]) for item in best] == [(item["item_id"], item["score"]) for item in answer["items"]]
    assert ("loop", begun.version) == (answer["model_name"], answer["model_version"])


def test_no_request_fails_while_versions_change(loop: Loop, begun: Begun) -> None:
    """Deploy and rollback under traffic: each version answers in its turn, and nothing else does."""
    second = loop("train", "--seed", "1")["version"]
    with traffic(loop.stack) as outcomes:
        deployed = loop("deploy")
        loop.await_model(second, PATIENCE_S)
        former = loop("rollback")
        loop.await_model(begun.version, PATIENCE_S)

    assert (second, begun.version) == (deployed["version"], deployed["previous_version"])
    assert (begun.version, second) == (former["version"], former["previous_version"])
    assert [] == outcomes.failed
    assert {begun.version, second} == {version for _, version in outcomes.answers}
    assert len(outcomes.answers) > 50


def test_triton_dies_under_load_and_no_answer_fails(loop: Loop, tmp_path: Path) -> None:
    """The load test's own report names the rung that stood in; after `up`, MODEL is back within seconds."""
    targets = tmp_path / "targets.yaml"
    targets.write_text(LOAD_ONLY)
    with loop.stack.begun(
        "loadtest", "--suite", "errors", "--targets", str(targets), "--usecase", str(loop.path), "--json"
    ) as load:
        assert load.stderr is not None
        assert any("10 %" in line for line in load.stderr), "the load test ended before it began"
        loop.stack.kill("triton")
        said: list[str] = []
        drain = threading.Thread(target=lambda: said.extend(load.stderr or ()))  # a full pipe would stop it
        drain.start()
        loop.stack.millrace("up")
        returned = time.monotonic()
        await_rung(loop, "MODEL", returned + BACK_S)
        drain.join()
        assert load.stdout is not None
        verdict = json.loads(load.stdout.read().splitlines()[-1])

    assert 0 == load.returncode, said
    assert (0, True) == (verdict["errors"], verdict["passed"])
    named = [second["rungs"] for second in verdict["timeline"]]
    assert any(rungs.get("LOCAL_MODEL") for rungs in named), named
    assert named[0].keys() == {"MODEL"}, named


def test_state_survives_down_and_up(loop: Loop, begun: Begun, nightly: dict[str, Any]) -> None:
    """The next `up` goes on: the same rows, the same model on its first rung, the same generation, no row twice."""
    asked = ("rank", str(begun.user), "--items", ",".join(map(str, range(1, 41))), "--at", "1999-06-01")
    before, lists, rows = loop(*asked), generation(loop, begun.user), archived_rows(loop)

    loop.stack.millrace("down")
    loop.stack.millrace("up")

    loop.await_model(begun.version, BACK_S)
    after = loop(*asked)
    for name in ("items", "served_by", "model_name", "model_version", "feature_age_us"):
        assert before[name] == after[name]
    assert before["row"]["interactions_offset"] == after["row"]["interactions_offset"]
    assert (nightly["run_id"], lists[1]) == generation(loop, begun.user)
    assert rows == archived_rows(loop)


@dataclass
class Outcomes:
    """What traffic met: (rung, version) of each answer, and errors."""

    answers: list[tuple[str, int]] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


@contextmanager
def traffic(stack: NativeStack) -> Iterator[Outcomes]:
    """About 40 requests a second from a thread, until the block ends."""
    outcomes, is_over = Outcomes(), threading.Event()

    def ask() -> None:
        with RankingClient(stack.address("gateway")) as client:
            while not is_over.wait(0.025):
                try:
                    answer = client.rank("loop", 1, range(1, 101), limit=10, timeout_s=1.0)
                except MillraceError as exc:
                    outcomes.failed.append(str(exc))
                else:
                    outcomes.answers.append((answer.served_by, answer.model_version))

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield outcomes
    finally:
        is_over.set()
        thread.join()


def await_rung(loop: Loop, rung: str, ends: float) -> None:
    """Wait until that rung answers; AssertionError after `ends` of the monotonic clock."""
    with RankingClient(loop.stack.address("gateway")) as client:
        while (answer := client.recommend("loop", 1, timeout_s=1.0)).served_by != rung:
            assert time.monotonic() < ends, answer.served_by
            time.sleep(0.02)


def decide(loop: Loop, state: decisions_pb2.ServingState) -> None:
    """Announce a serving state, as an operator's tool would."""
    decisions.change(
        loop.kafka, "loop", decisions_pb2.DECISION_KIND_DEPLOY, lambda _: state, reason="a test unpins", actor="test"
    )


def generation(loop: Loop, user: int) -> tuple[str, dict[int, float]]:
    """The generation that readers see: its run id, and the user's list in it as item -> score, best first."""
    cassandra = f"127.0.0.1:{loop.stack.ports.cassandra}"
    store = open_batch(cassandra, loop.stack.home / "absent.sqlite", read_timeout_s=5.0)
    try:
        pointer = store.pointer("loop")
        assert pointer is not None
        found = store.read("loop", pointer.run_id, user)
        assert found is not None
        return pointer.run_id, dict(zip(found.item_ids.tolist(), found.scores.tolist(), strict=True))
    finally:
        store.close()


def archived_impressions(loop: Loop, ids: list[int]) -> int:
    """How many of these requests the lake has now."""
    loop.stack.flush("archiver")
    return loop.lake.scan("impressions").filter(pl.col("request_id").is_in(ids)).collect().height


def archived_rows(loop: Loop) -> list[tuple[int, int]]:
    """Each (partition, offset) of the lake's interactions, sorted, as often as it is there."""
    found = loop.lake.scan("interactions").select("partition", "offset").sort("partition", "offset").collect().rows()
    return [(int(partition), int(offset)) for partition, offset in found]
