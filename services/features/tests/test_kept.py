"""A revision goes on under the use case that its state was made under."""

from pathlib import Path

from definitions.layout import layout_of
from definitions.usecase import UseCase
from features.kept import keep, kept_layout, revision_layout

COUNT = {"name": "u_seen", "of": "user", "group": "base", "kind": "count", "windows": ["all"]}
OTHER = {"name": "i_seen", "of": "item", "group": "base", "kind": "count", "windows": ["24h"]}


def usecase(*features: dict[str, object], limit: int = 10) -> UseCase:
    return UseCase.model_validate(
        {
            "usecase": "shop",
            "actions": [{"name": "view"}],
            "features": list(features),
            "candidates": {"limit": limit},
        }
    )


def test_a_first_start_takes_the_file_as_it_is(tmp_path: Path) -> None:
    """And keeps nothing by itself: the state may turn out to be another layout's."""
    root = tmp_path / "shop.1"
    assert layout_of(usecase(COUNT)).layout_hash == revision_layout(root, usecase(COUNT), 1).layout_hash
    assert kept_layout(root, 1) is None


def test_after_an_edit_the_kept_one_goes_on(tmp_path: Path) -> None:
    """What serves reads its rows."""
    root = tmp_path / "shop.2"
    keep(root, layout_of(usecase(COUNT), 2))

    layout = revision_layout(root, usecase(COUNT, OTHER), 2)

    assert (2, usecase(COUNT)) == (layout.revision, layout.usecase)


def test_an_edit_that_changes_no_layout_is_taken(tmp_path: Path) -> None:
    """Rules and limits are no part of the rows."""
    root = tmp_path / "shop.1"
    keep(root, layout_of(usecase(COUNT)))

    assert 20 == revision_layout(root, usecase(COUNT, limit=20), 1).usecase.candidates.limit
