"""A model is read by its own layout, whatever has become of the file that declared it."""

from collections.abc import Callable
from pathlib import Path

import pytest
from bundle import AdmissionError, Bundle, Manifest, bundle_layout, load_bundle, write_bundle
from definitions.kept_usecase import FILE, to_json
from definitions.layout import layout_of
from definitions.usecase import UseCase

COUNT = {"name": "u_seen", "of": "user", "group": "base", "kind": "count", "windows": ["all", "1h", "24h"]}
OTHER = {"name": "i_seen", "of": "item", "group": "base", "kind": "count", "windows": ["all"]}

Write = Callable[[UseCase | None], Bundle]


def usecase(name: str = "movies", limit: int = 10, features: tuple[dict[str, object], ...] = (COUNT,)) -> UseCase:
    return UseCase.model_validate(
        {"usecase": name, "actions": [{"name": "view"}], "features": list(features), "candidates": {"limit": limit}}
    )


@pytest.fixture
def write(tmp_path: Path, manifest: Manifest, files: dict[str, Path]) -> Write:
    """Writes a bundle of revision 3 that was trained with COUNT, and perhaps keeps that use case."""

    def written(kept: UseCase | None) -> Bundle:
        layout = layout_of(usecase())
        if kept is not None:
            (tmp_path / FILE).write_bytes(to_json(kept))
            files[FILE] = tmp_path / FILE
        fields = {"revision": 3, "layout_hash": layout.layout_hash, "feature_names": layout.feature_names}
        write_bundle(tmp_path / "bundle", manifest.model_copy(update=fields), files)
        return load_bundle(tmp_path / "bundle")

    return written


def test_the_readers_own_file_holds_while_its_layout_is_the_models(write: Write) -> None:
    """Rules may be edited without training anew; the revision is the bundle's."""
    layout = bundle_layout(write(usecase()), usecase(limit=20))

    assert (3, 20) == (layout.revision, layout.usecase.candidates.limit)


def test_after_an_edit_the_use_case_in_the_bundle_holds(write: Write) -> None:
    """The file has a further feature: what serves knows nothing of it."""
    layout = bundle_layout(write(usecase()), usecase(features=(COUNT, OTHER)))

    assert (3, layout_of(usecase()).feature_names) == (layout.revision, layout.feature_names)


def test_a_model_whose_layout_nobody_knows_is_refused(write: Write) -> None:
    """No use case in the bundle, and the file was edited."""
    with pytest.raises(AdmissionError, match="layout_hash: the bundle says"):
        bundle_layout(write(None), usecase(features=(COUNT, OTHER)))


def test_a_bundle_that_keeps_another_use_case_is_refused(write: Write) -> None:
    """The manifest says which layout it is."""
    with pytest.raises(AdmissionError, match="layout_hash: the bundle says"):
        bundle_layout(write(usecase(features=(OTHER,))), usecase(features=(COUNT, OTHER)))


def test_another_use_cases_bundle_is_refused(write: Write) -> None:
    """By name, before anything else is looked at."""
    with pytest.raises(AdmissionError, match="usecase: the bundle says 'movies', expected 'shop'"):
        bundle_layout(write(None), usecase("shop"))
