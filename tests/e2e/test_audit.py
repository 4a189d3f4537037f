"""Decisions are made again to the bit after the model changed and everything was restarted; a forged one is found."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from local_stack.harness import NativeStack, free_offset
from millrace.client import Context, RankingClient
from pipelines.datasets.synthetic import synthetic_world
from stores.offline import Lake
from stores.offline.schemas import TABLES

pytestmark = pytest.mark.real

ROOT = Path(__file__).parents[2]
USERS, ITEMS, EVENTS = 60, 200, 2_500
EACH = 500  # decisions by each of two models
WAIT_S = 20.0
RULES = """
diversity: {lambda: 0.8, by: genre}
exploration: {epsilon: 0.3, slots: [3, 6], among: 10}
"""


@dataclass(frozen=True)
class Audited:
    """A stack whose two models have made decisions, and which was stopped and started since: the embedded log is empty
    then, nothing is deployed, and only the lake and the bundles are left. `asked`: what was asked before.
    """

    stack: NativeStack
    versions: tuple[int, int]
    asked: dict[str, Any]

    @property
    def lake(self) -> Lake:
        return Lake(self.stack.home / "lake", "audited")


def decide(stack: NativeStack, n: int, version: int, at_us: int) -> None:
    """n answers by that version: lists that the gateway finds, and the caller's items."""
    draw = np.random.default_rng(version)
    with RankingClient(stack.address("gateway"), timeout_s=5.0) as client:
        context, ends = Context(time_us=at_us), time.monotonic() + WAIT_S
        while client.recommend("audited", 1, context=context).model_version != version:
            assert time.monotonic() < ends, f"version {version} does not serve"
            time.sleep(0.02)
        for user in draw.integers(1, USERS + 20, n).tolist():
            if draw.random() < 0.7:
                answer = client.recommend("audited", user, limit=10, context=context)
            else:
                items = draw.choice(np.arange(1, ITEMS + 1), 30, replace=False).tolist()
                answer = client.rank("audited", user, items, limit=int(draw.integers(0, 20)), context=context)
            assert ("MODEL", version) == (answer.served_by, answer.model_version)


def ask(stack: NativeStack) -> dict[str, Any]:
    """Explanations of the running stack: of its own rows by the command, and by the gateway."""
    with RankingClient(stack.address("gateway"), timeout_s=5.0) as client:
        answer = client.recommend("audited", 1, limit=3)
    return {
        "answer": answer,
        "command": stack.millrace("explain", "--user", "1", "--items", "1,2,3", "--above", "2"),
        "gateway": stack.millrace("explain", "--user", "1", "--items", "1,2,3", "--gateway", "--top", "100"),
        "recent": stack.millrace("explain", "--request", str(answer.request_id), "--gateway"),
        "forgotten": stack.millrace("explain", "--request", "5", "--gateway", code=2),
    }


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Audited]:
    home = tmp_path_factory.mktemp("audited")
    movies = (ROOT / "usecases" / "movies.yaml").read_text()
    usecase = home / "audited.yaml"
    usecase.write_text(movies.replace("usecase: movies", "usecase: audited") + RULES)
    world = synthetic_world(users=USERS, items=ITEMS, events=EVENTS, seed=5)
    files = []
    for name, source in (("interactions", world.interactions), ("items", world.items), ("users", world.users)):
        assert source is not None
        source.table.write_csv(home / f"{name}.csv")
        files += [f"--{name}", str(home / f"{name}.csv")]
    with free_offset() as offset:
        stack = NativeStack(home / "stack", offset, usecases=(str(usecase),))
        try:
            stack.millrace("up", "--profile", "embedded")
            stack.millrace("load", *files, "--usecase", str(usecase))
            at_us = stack.millrace("recommend", "1")["at_us"]
            versions = []
            for _ in range(2):
                version = stack.millrace("train")["version"]
                stack.millrace("deploy")
                decide(stack, EACH, version, at_us)
                versions.append(version)
            asked = ask(stack)
            stack.millrace("down")
            stack.millrace("up", "--profile", "embedded")
            yield Audited(stack, (versions[0], versions[1]), asked)
        finally:
            stack.millrace("down")


def test_every_decision_is_the_same_to_the_bit(audited: Audited) -> None:
    """A thousand of a thousand: every score, every place, every propensity, of both models."""
    found = audited.stack.millrace("redo", "--last", str(2 * EACH))

    assert (2 * EACH, 2 * EACH, 0, 0) == tuple(
        found[key] for key in ("decisions", "equal", "mismatched", "unredone")
    ), found["examples"]
    first, second = (found["models"][f"audited/{version}"] for version in audited.versions)
    assert first >= EACH - 10  # those that waited for a version are among the last, too
    assert second >= EACH
    assert {"MODEL": 2 * EACH} == found["rungs"]
    assert found["scores_compared"] > 2 * EACH * 30
    drawn = audited.lake.scan("impressions").select(pl.col("propensities").explode()).collect().to_series()
    assert ((drawn > 0) & (drawn < 1)).sum() > EACH / 4  # exploration was on
    gauges = (audited.stack.home / "reports" / "metrics" / "redo-audited.prom").read_text()
    assert f'redo_decisions{{usecase="audited"}} {2 * EACH}' in gauges


def test_features_rebuilt_from_the_log_are_those_that_were_logged(audited: Audited) -> None:
    """A comparison of its own, below the logged offsets."""
    ids = some(audited, 5)
    found = audited.stack.millrace("redo", *map(str, ids), "--features")

    assert [(each, True) for each in ids] == [(told["request_id"], told["same"]) for told in found["requests"]]
    assert (5, 0) == (found["features"]["impressions"], found["features"]["logic"])
    assert found["features"]["cells"] > 5 * 30


def test_a_decision_is_explained_by_what_made_it(audited: Audited) -> None:
    """Of the archive by the very bundle, with nothing deployed; why one item lies above another."""
    stack = audited.stack
    [request] = some(audited, 1)
    told = stack.millrace("explain", "--request", str(request), "--top", "100")
    first, second = (item["item_id"] for item in told["items"][:2])

    for item in told["items"]:
        raw = told["base"] + sum(feature["contribution"] for feature in item["features"])
        assert raw == pytest.approx(item["raw"], abs=1e-3)
        assert 1 / (1 + np.exp(-raw)) == pytest.approx(item["score"], abs=1e-4)
    pair = stack.millrace("explain", "--request", str(request), "--items", str(second), "--above", str(first))["above"]
    assert (second, first) == (pair["item_id"], pair["other_id"])
    assert pair["because"]


def test_the_gateway_explains_what_it_serves(audited: Audited) -> None:
    """The same scores as by the command, with ages; an answer of its own; one that it does not remember."""
    command, gateway, recent, answer = (audited.asked[name] for name in ("command", "gateway", "recent", "answer"))

    assert (1, 2) == (command["above"]["item_id"], command["above"]["other_id"])
    assert {item["item_id"]: pytest.approx(item["score"], abs=1e-5) for item in command["items"]} == {
        item["item_id"]: item["score"] for item in gateway["items"]
    }
    ages = [each["age_us"] for item in gateway["items"] for each in item["features"]]
    assert any(age is not None and age > 0 for age in ages)
    assert None in ages
    assert [item.item_id for item in answer.items] == [item["item_id"] for item in recent["items"][:3]]
    assert "millrace explain --request 5" in audited.asked["forgotten"]["error"]


def test_a_forged_record_is_found(audited: Audited) -> None:
    """One score of one record moved by its last bit: exit 1, and the report names request and item."""
    [request] = some(audited, 1)
    rows = audited.lake.scan("impressions").filter(pl.col("request_id") == request).collect()
    scores = np.array(rows["scores"][0], np.float32)
    scores[-1] = np.nextafter(scores[-1], np.float32(-1))
    forged = rows.with_columns(
        pl.Series("scores", [scores.tolist()], rows.schema["scores"]),
        pl.lit(77, pl.Int32).alias("partition"),
        (pl.col("timestamp_us") + 10**12).alias("timestamp_us"),
    )
    schema = TABLES["impressions"].schema
    table = forged.to_arrow().select(schema.names).cast(schema)
    audited.lake.append("impressions", table, app_id="forger", version=int(rows["offset"][0]) + 1)

    found = audited.stack.millrace("redo", "--last", "100", code=1)

    assert (99, 1) == (found["equal"], found["mismatched"])
    [example] = found["examples"]
    assert request == example["request_id"]
    assert f"item {rows['item_ids'][0][-1]} has" in example["differs"][0]


def some(audited: Audited, n: int) -> list[int]:
    """Of the first model's lists, before anything else was deployed."""
    wanted = (pl.col("model_version") == audited.versions[0]) & (pl.col("positions").list.sum() == 55)
    ids: list[int] = (
        audited.lake.scan("impressions").filter(wanted).select("request_id").head(n).collect()["request_id"].to_list()
    )
    return ids
