"""A shadow's report: the same candidates of the same requests, by hand."""

from pathlib import Path

import pytest
from definitions.impressions import packed
from millrace.events.v1 import events_pb2 as pb
from pipelines.errors import BadInputError
from pipelines.shadow import compare
from stores.offline import Lake, app_id
from stores.offline.rows import impressions_table

AT_US = 1_700_000_000_000_000


def impression(request: int, scores: dict[int, float], *, shadow: bool = False, version: int = 1) -> pb.Impression:
    """As the gateway logs it: what was shown first, the shadow's with all positions 0."""
    n, micros = len(scores), 8_000 if shadow else 2_000
    return pb.Impression(
        request_id=request, user_id=5, time_us=AT_US + request, usecase="films", item_ids=list(scores),
        scores=list(scores.values()), propensities=[0.0 if shadow else 1.0] * n,
        positions=[0] * n if shadow else range(1, n + 1), reasons=["requested"] * n, rung=pb.RUNG_MODEL,
        arm=f"shadow:{version}" if shadow else "", model_name="films", model_version=version,
        stages=[pb.StageTiming(stage="row", micros=70_000), pb.StageTiming(stage="model", micros=micros)],
    )  # fmt: skip


def lake_of(folder: Path, *impressions: pb.Impression) -> Lake:
    lake = Lake(folder / "lake", "films")
    offsets = [(offset, each.time_us) for offset, each in enumerate(impressions)]
    rows = impressions_table("a-log", 0, offsets, list(map(packed, impressions)))
    lake.append("impressions", rows, app_id=app_id("a-log", "films.impressions", 0), version=len(impressions))
    return lake


def test_the_figures_by_hand(tmp_path: Path) -> None:
    """Two requests: one in the same order, one with its first two items exchanged; a third has no shadow."""
    lake = lake_of(
        tmp_path,
        impression(1, {10: 0.9, 11: 0.5, 12: 0.1}),
        impression(1, {10: 0.8, 11: 0.4, 12: 0.0}, shadow=True, version=2),
        impression(2, {20: 0.6, 21: 0.5, 22: 0.1}),
        impression(2, {20: 0.5, 21: 0.7, 22: 0.1}, shadow=True, version=2),
        impression(3, {30: 0.6}),
    )
    found = compare(lake)
    assert (1, 2, 2, 6) == (found.served_version, found.shadow_version, found.requests, found.candidates)
    assert 0.75 == pytest.approx(found.rank_correlation)  # 1, and 1 - 6 * 2 / (3 * 8)
    assert (0.5, 1.0) == (pytest.approx(found.first_changed), found.top_overlap)
    assert 0.6 / 6 == pytest.approx(found.mean_abs)
    assert 0.2 == pytest.approx(found.max_abs, abs=1e-6)
    assert (2.0, 8.0) == (found.served_p50_ms, found.shadow_p99_ms)


def test_candidates_that_only_one_of_them_logged_are_left_out(tmp_path: Path) -> None:
    """Where only the shown items were logged, the shadow's record has more."""
    lake = lake_of(
        tmp_path,
        impression(1, {10: 0.9, 11: 0.5}),
        impression(1, {10: 0.9, 11: 0.5, 12: 0.99}, shadow=True, version=2),
    )
    found = compare(lake, 2)
    assert (2, 0.0, 0.0) == (found.candidates, found.first_changed, found.max_abs)


def test_nothing_to_compare_is_said(tmp_path: Path) -> None:
    """With what to do."""
    lake = lake_of(tmp_path, impression(1, {10: 0.9}))
    with pytest.raises(BadInputError, match="millrace shadow start"):
        compare(lake)
    with pytest.raises(BadInputError, match="version 7"):
        compare(lake, 7)
