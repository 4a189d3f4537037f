"""The pages about features are what the use cases say: `make reference` writes them."""

from pathlib import Path

import pytest
from definitions.features import Attribute, LastK
from definitions.layout import Layout, layout_of
from definitions.reference import meanings, page
from definitions.usecase import load_usecase

ROOT = Path(__file__).parents[3]
USECASES = sorted((ROOT / "usecases").glob("*.yaml"))


@pytest.mark.parametrize("path", USECASES, ids=[path.stem for path in USECASES])
def test_each_use_case_has_the_page_that_its_file_gives(path: Path) -> None:
    """A changed feature without its page is red."""
    written = ROOT / "docs" / "features" / f"{path.stem}.md"

    assert page(layout_of(load_usecase(path))) == written.read_text(encoding="utf-8"), "run: make reference"


def test_no_page_is_left_over() -> None:
    """Of a use case that is gone."""
    assert {path.stem for path in USECASES} == {path.stem for path in (ROOT / "docs" / "features").glob("*.md")}


def test_the_page_has_every_column_in_its_place(layout: Layout) -> None:
    """Of a use case with all kinds; what is a number there is the place in the input."""
    rows = [line.split("|")[1:3] for line in page(layout).splitlines() if line.startswith("|")]
    columns = [(int(number), name.strip(" `")) for number, name in rows if number.strip().isdigit()]

    assert columns == list(enumerate(layout.feature_names))
    for feature in layout.usecase.features:
        if isinstance(feature, LastK):
            assert f"`{feature.name}_ids_0`" in page(layout)
        if isinstance(feature, Attribute):
            assert f"`{feature.source}`" in page(layout)


def test_the_video_use_case_has_every_kind() -> None:
    """It is the example of each, so none may be missing."""
    everything = {feature.kind for feature in load_usecase(Path(__file__).parent / "everything.yaml").features}

    assert everything <= {feature.kind for feature in load_usecase(ROOT / "usecases" / "video.yaml").features}


def test_every_column_has_a_meaning_in_words(layout: Layout) -> None:
    """Of floats, of attributes by their name, and of what a graph computes: reports show them to people."""
    told = meanings(layout)
    codes = [feature.name for feature in layout.usecase.features if isinstance(feature, Attribute)]

    assert {*layout.feature_names, *codes} <= told.keys()
    assert {f"{each.name}_{score}" for each in layout.graph_scores for score in each.scores} <= told.keys()
    assert all(told.values())
