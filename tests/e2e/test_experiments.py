"""Experiments on a whole stack: arms stay, layers are independent, shares grow, and the report counts everybody."""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from definitions.assignment import Split, assigned
from local_stack.harness import NativeStack, free_offset
from millrace.client import RankingClient
from millrace.decisions.v1 import decisions_pb2 as pb
from stores.offline import Lake

pytestmark = pytest.mark.real

USERS = range(1, 201)
WAIT_S = 10.0
DIVERSE = {"diversity": {"lambda": 0.4, "by": "genre"}}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NativeStack]:
    with free_offset() as offset:
        made = NativeStack(tmp_path_factory.mktemp("experiments"), offset)
        made.millrace("up", "--profile", "embedded")
        made.millrace("simulate", "--requests", "20", "--users", "20", "--items", "60", "--rate", "0")
        yield made
        made.millrace("down")


def arms(stack: NativeStack) -> dict[int, dict[str, str]]:
    """User -> experiment -> arm, as the gateway answers."""
    with RankingClient(stack.address("gateway")) as client:
        said = {user: client.recommend("movies", user, limit=5, timeout_s=5.0).arm for user in USERS}
    return {user: dict(each.split("=") for each in arm.split(",") if each) for user, arm in said.items()}


def arms_when(stack: NativeStack, holds: Callable[[dict[int, dict[str, str]]], bool]) -> dict[int, dict[str, str]]:
    """`arms`, once a decision is in force."""
    deadline = time.monotonic() + WAIT_S
    while not holds(found := arms(stack)):
        assert time.monotonic() < deadline, found
    return found


def of(found: Mapping[int, Mapping[str, str]], experiment: str) -> dict[int, str]:
    return {user: each[experiment] for user, each in found.items() if experiment in each}


def hashed(answer: dict, name: str) -> dict[int, str]:
    """What `status` says of an experiment, drawn again by the hash that the libraries have."""
    told = next(each for each in answer["experiments"] if each["name"] == name)
    split = Split.of(
        pb.Experiment(
            name=name,
            layer=told["layer"],
            arms=[pb.Arm(name=arm, share=share) for arm, share in told["arms"].items()],
            segments=[pb.Segment(begin=begin, end=end) for begin, end in told["segments"]],
        )
    )
    drawn = assigned(split, np.array(USERS, np.uint64))
    return {user: split.arms[arm] for user, arm in zip(USERS, drawn.tolist(), strict=True) if arm >= 0}


def test_an_experiment_from_its_start_to_its_report(stack: NativeStack, tmp_path: Path) -> None:
    """Two layers; one grows, the gateway is killed, nobody changes arms; the lake has everybody, by arm and rules."""
    rules = tmp_path / "diverse.json"
    rules.write_text(json.dumps(DIVERSE))
    stack.millrace(
        "experiment", "start", "mmr", "--arm", f"new=0.1,rules={rules}", "--arm", "control=0.1",
        "--layer", "rules", "--users", "200",
    )  # fmt: skip
    stack.millrace("experiment", "start", "aa", "--arm", "one=0.5", "--arm", "control=0.5", "--users", "200")
    before = arms_when(stack, lambda found: len(of(found, "aa")) == len(USERS))
    told = stack.millrace("experiment", "status")
    assert hashed(told, "mmr") == of(before, "mmr")
    assert hashed(told, "aa") == of(before, "aa")

    stack.millrace("experiment", "grow", "mmr", "--arm", "new=0.4", "--arm", "control=0.4")
    grown = arms_when(stack, lambda found: len(of(found, "mmr")) > 0.6 * len(USERS))
    assert of(before, "mmr").items() <= of(grown, "mmr").items()
    assert of(before, "aa") == of(grown, "aa")
    met = Counter((each["mmr"], each["aa"]) for each in grown.values() if "mmr" in each)
    assert 4 == len(met)
    assert min(met.values()) > 0.1 * len(USERS)  # each arm of one layer meets both of the other

    stack.kill("gateway")
    stack.millrace("up", "--profile", "embedded")
    assert grown == arms(stack)

    found = stack.millrace("experiment", "report", "mmr")
    counted = {arm: list(of(grown, "mmr").values()).count(arm) for arm in ("new", "control")}
    assert counted == found["checks"]["assigned"]
    assert [0, 0, []] == [found["checks"][name] for name in ("moved", "misplaced", "void")]
    assert "May the arms be compared?" in Path(found["report"]).read_text()
    shown = Lake(str(stack.home / "lake"), "movies").scan("impressions").select("arm", "rules").collect()
    diverse = shown.with_columns(pl.col("rules").str.contains('"lambda":0.4').alias("diverse"))
    assert diverse.filter("diverse").height > 0
    assert diverse.filter(pl.col("arm").str.contains("mmr=new") != pl.col("diverse")).height == 0

    stack.millrace("experiment", "stop", "mmr")
    assert of(grown, "aa") == of(arms_when(stack, lambda found: not of(found, "mmr")), "aa")
    assert not stack.millrace("experiment", "report", "mmr")["running"]


def test_what_cannot_be_is_bad_input(stack: NativeStack) -> None:
    """Exit 2 with the remedy, and nothing is published."""
    args = ("experiment", "start", "x", "--users", "5")
    answer = stack.millrace(*args, "--arm", "new=0.1", "--arm", "control=0.1", "--primary", "joy", code=2)
    assert answer["error"].startswith("metric 'joy': movies has reward_per_user")
    answer = stack.millrace(*args, "--arm", "new=0.1,version=9", "--arm", "control=0.1", code=2)
    assert "no bundle yet; train one first" in answer["error"]
