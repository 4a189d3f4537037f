"""The layout: order of the columns, and a hash of everything that changes bytes or values."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from definitions.layout import Layout, layout_of
from definitions.usecase import UseCase

CONTENT = yaml.safe_load((Path(__file__).parent / "everything.yaml").read_text())


def changed(**fields: Any) -> int:
    return layout_of(UseCase.model_validate({**CONTENT, **fields})).layout_hash


def with_feature(name: str, **fields: Any) -> int:
    return changed(features=[f | fields if f["name"] == name else f for f in CONTENT["features"]])


def test_columns_stand_in_the_order_of_the_file_windows_expanded(layout: Layout) -> None:
    """Cross, user and item columns keep their places; tables, histories and codes are no float columns."""
    assert layout.feature_names == (
        *("x_rate", "u_all_1h", "u_all_24h", "u_all_30d", "u_all_all", "u_rates_2h", "u_sum_24h", "u_sum_all"),
        *("u_mean_1h", "u_mean_all", "u_ctr_1h", "u_ctr_30d", "u_bare_all", "u_dcount", "u_dmean", "u_drate"),
        *("u_idle", "u_idle_click", "u_fading_all", "x_now", "x_share", "x_seen"),
        *("x_recent_1", "x_recent_5", "x_recent_20", "x_recent_category", "x_recent_category_n", "u_age"),
        *("i_all_1h", "i_all_24h", "i_all_30d", "i_all_all", "i_mean_1h", "i_mean_24h", "i_mean_all"),
        *("i_ctr_1h", "i_ctr_7d", "i_dcount", "i_idle", "i_fading_all", "i_year"),
    )
    assert len(layout.feature_groups) == len(layout.feature_names)


def test_codes_and_histories_are_int_columns(layout: Layout) -> None:
    """Ids never pass through float32."""
    assert layout.user_int_names[:6] == (*(f"u_recent_ids_{i}" for i in range(5)), "u_recent_values_0")
    assert layout.user_int_names[50:] == ("u_gender", "u_likes_0", "u_likes_1", "u_likes_2", "c_device", "c_country")
    assert layout.item_int_names == ("item_id", "i_genre_0", "i_genre_1", "i_genre_2", "i_genre_3")
    assert layout.user_int_groups[0] == "history"


@pytest.mark.parametrize(
    "other",
    [
        with_feature("u_all", windows=["1h", "24h", "29d", "all"]),
        with_feature("u_mean", prior={"mean": 3.5, "weight": 11}),
        with_feature("u_fading", ttl="3h"),
        with_feature("u_recent", k=6),
        with_feature("u_dcount", half_life="7h"),
        with_feature("i_year", default=1991),
        changed(features=CONTENT["features"][::-1]),
        changed(actions=CONTENT["actions"][::-1]),
        changed(seen={"actions": ["rate"], "last": 8}),
        changed(category="item.colour"),
    ],
)
def test_what_changes_bytes_or_values_changes_the_hash(layout: Layout, other: int) -> None:
    """So a reader never takes another layout's bytes for its own."""
    assert other != layout.layout_hash


def test_what_changes_neither_keeps_the_hash(layout: Layout) -> None:
    """Targets, models and the revision need no rebuild."""
    assert changed(slo={"freshness_p99_ms": 5}, models={"ladder": ["lr"], "fallback": "lr"}) == layout.layout_hash
    assert layout_of(layout.usecase, revision=2).layout_hash == layout.layout_hash


def test_features_share_what_they_store(layout: Layout) -> None:
    """A rate's denominator that another feature counts too is stored once."""
    assert len(set(layout.user.measures)) == len(layout.user.measures) == 7
    assert [tiles.hop_us for tiles in layout.user.classes] == [300_000_000, 3_600_000_000, 86_400_000_000]


def test_a_residual_reads_the_longest_window_of_the_item_mean(layout: Layout) -> None:
    """Short windows of most items are empty; what a graph scores has the history's and the candidate's ids."""
    residual, scores = layout.residuals[0], layout.graph_scores[0]

    assert layout.feature_names[layout.item.window_columns[residual.mean].position] == "i_mean_all"
    assert (scores.name, scores.history, scores.scores) == ("x_alike", residual.history, ("residual_knn", "ease"))
    assert layout.item_id_int == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"last": [1, 21]}, "at most 20"),
        ({"last": [5, 1]}, "ascend"),
        ({"item_mean": "u_mean"}, "of: item"),
        ({"item_mean": "i_all"}, "no Mean feature"),
        ({"history": "u_genre"}, "no LastK feature"),
    ],
)
def test_a_residual_that_cannot_be_computed_is_refused(change: dict[str, Any], message: str) -> None:
    """With the field and what it may be."""
    with pytest.raises(ValueError, match=message):
        with_feature("x_recent", **change)
