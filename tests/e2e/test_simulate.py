"""`millrace simulate` against a whole stack: users ask, react to what was served, and what they did is on the log."""

from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from local_stack.harness import NativeStack, free_offset
from stores.offline import Lake

pytestmark = pytest.mark.real

WORLD = ("--users", "40", "--items", "60", "--rate", "0", "--seed", "5")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NativeStack]:
    with free_offset() as offset:
        made = NativeStack(tmp_path_factory.mktemp("simulated"), offset)
        made.millrace("up", "--profile", "embedded")
        yield made
        made.millrace("down")


def test_events_answer_what_was_served_and_a_second_run_goes_on(stack: NativeStack) -> None:
    """Every event in the lake names an impression of the truth, at the item's place; no event is there twice."""
    first = stack.millrace("simulate", "--requests", "60", *WORLD)
    second = stack.millrace("simulate", "--requests", "40", "--call", "recommend", *WORLD)

    assert [60, 40] == [first["requests"], second["requests"]]
    assert 0 == first["failed"] == second["failed"] == second["unknown_items"]
    assert second["clock_us"] > first["clock_us"]
    stack.flush("archiver")
    events = Lake(str(stack.home / "lake"), "movies").scan("interactions").collect()
    shown = pl.read_parquet(Path(second["truth"]) / "shown-*.parquet")
    clicks = events.filter(pl.col("action") == 1).join(
        shown.filter("clicked"), on=["request_id", "position"], how="inner"
    )
    assert first["events"] + second["events"] == len(events) == events["event_id"].n_unique()
    assert len(clicks) == (events["action"] == 1).sum() > 50


def test_another_world_does_not_go_on_where_this_one_was(stack: NativeStack) -> None:
    """Bad input, with the remedy."""
    answer = stack.millrace("simulate", "--requests", "1", "--items", "80", *WORLD[:2], *WORLD[4:], code=2)

    assert "is a run of another world" in answer["error"]
