"""Experiments on versions, on a running stack: two arms that rank the other way round, apart and in one list."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from definitions.layout import Layout, layout_of
from definitions.usecase import load_usecase
from local_stack.harness import NativeStack, free_offset
from millrace.client import Entity, Event, EventClient, Ranking, RankingClient
from pipelines.bench.planted import linear_bundle
from stores.offline import Lake

pytestmark = pytest.mark.real

OLDEST_FIRST, NEWEST_FIRST, NEWEST_TOO = 1, 2, 3
YEARS = {7_300_000 + year: year for year in range(1990, 2000)}  # item -> its year
BY_AGE = sorted(YEARS)
USERS = range(7_310_001, 7_310_041)
RATE, LIKED = 2, 5.0
WITHIN_S = 20.0


def by_year(folder: Path, layout: Layout, sign: int) -> None:
    """A bundle whose score is the item's year alone."""
    weights = np.where(np.array(layout.feature_names) == "i_year", sign * 1e-3, 0.0)
    linear_bundle(folder, layout.feature_names, weights, layout=layout)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NativeStack]:
    """Version 1, the oldest items first, serves everybody."""
    layout = layout_of(load_usecase(Path(__file__).parents[2] / "usecases" / "movies.yaml"))
    with free_offset() as offset:
        made = NativeStack(tmp_path_factory.mktemp("arms"), offset)
        made.millrace("up", "--profile", "embedded")
        for version, sign in ((OLDEST_FIRST, -1), (NEWEST_FIRST, 1), (NEWEST_TOO, 1)):
            by_year(made.home / "bundles" / "movies" / str(version), layout, sign)
        with EventClient(made.address("collector"), timeout_s=WITHIN_S) as client:
            client.put_items("movies", [Entity(id=item, attributes={"year": year}) for item, year in YEARS.items()])
        made.millrace("deploy", "--version", str(OLDEST_FIRST))
        yield made
        made.millrace("down")


def asked_until(stack: NativeStack, holds: Callable[[dict[int, Ranking]], bool]) -> dict[int, Ranking]:
    """User -> answer, once a decision is in force for all."""
    ends = time.monotonic() + WITHIN_S
    with RankingClient(stack.address("gateway")) as client:
        while True:
            found = {user: client.rank("movies", user, BY_AGE, limit=6, timeout_s=5.0) for user in USERS}
            if holds(found):
                return found
            assert time.monotonic() < ends, {(each.model_version, each.arm, each.served_by) for each in found.values()}


def test_each_arm_is_served_by_its_own_version(stack: NativeStack) -> None:
    """Users of one arm get its ranking and all others the pin's; the lake says the same of each list."""
    started = ("experiment", "start", "years", "--users", "40", "--arm", "control=0.5")
    stack.millrace(*started, "--arm", f"new=0.5,version={NEWEST_FIRST}")
    found = asked_until(stack, lambda answers: {each.model_version for each in answers.values()} == {1, 2})
    for answer in found.values():
        arm, items = answer.arm, [each.item_id for each in answer.items]
        version, ranked = (2, BY_AGE[::-1]) if arm == "years=new" else (1, BY_AGE)
        assert (arm in ("years=new", "years=control"), version, ranked[:6]) == (True, answer.model_version, items)

    told = stack.millrace("deploy", "--version", str(NEWEST_TOO), "--canary", "5", code=1)
    assert "experiment years compares versions" in told["error"]

    report = stack.millrace("experiment", "report", "years")
    assert {"new": 0, "control": 0}.keys() == report["checks"]["assigned"].keys()
    assert (len(USERS), []) == (sum(report["checks"]["assigned"].values()), report["checks"]["void"])
    shown = Lake(str(stack.home / "lake"), "movies").scan("impressions").select("arm", "model_version").collect()
    kept = set(shown.filter(pl.col("arm") != "").unique().iter_rows())
    assert {("years=new", 2), ("years=control", 1)} == kept

    stack.millrace("experiment", "stop", "years")
    stack.millrace("deploy", "--version", str(NEWEST_TOO), "--canary", "5")
    told = stack.millrace(*started, "--arm", f"new=0.5,version={NEWEST_FIRST}", code=2)
    assert "a canary of version 3 is under way" in told["error"]
    stack.millrace("canary", "stop")


def test_two_versions_draft_one_list(stack: NativeStack) -> None:
    """Each place says whose pick it is; who took the newer items preferred that ranking, and the report says so."""
    stack.millrace(
        "experiment", "start", "duel", "--users", "40", "--interleave", "--arm", f"new=0.5,version={NEWEST_FIRST}",
        "--arm", "control=0.5",
    )  # fmt: skip
    found = asked_until(stack, lambda answers: {each.arm for each in answers.values()} == {"duel=interleaved"})
    likes = []
    for user, answer in found.items():
        picks = {"new": [], "control": []}
        for each in answer.items:
            picks[each.reason.rpartition("@")[2]].append(each.item_id)
        assert (BY_AGE[:-4:-1], BY_AGE[:3]) == (picks["new"], picks["control"])
        likes += [
            Event(user_id=user, item_id=item, action=RATE, value=LIKED, request_id=answer.request_id)
            for item in picks["new"]
        ]
    with EventClient(stack.address("collector"), timeout_s=WITHIN_S) as client:
        assert not client.publish("movies", likes).rejected

    report = stack.millrace("experiment", "report", "duel")
    assert ("control", "new", 0) == (report["control"], report["other"], report["alone"])
    assert report["lists"] >= len(USERS)
    assert [0, len(USERS)] == report["preference"]["wins"][:2]
    stack.millrace("experiment", "stop", "duel")
