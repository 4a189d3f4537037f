"""What a use case was, kept as JSON."""

from pathlib import Path

import pytest
from definitions.errors import UseCaseError
from definitions.kept_usecase import from_json, to_json
from definitions.layout import layout_of
from definitions.usecase import load_usecase

USECASES = Path(__file__).parents[3] / "usecases"


@pytest.mark.parametrize("path", sorted(USECASES.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_use_case_comes_back_as_it_was(path: Path) -> None:
    """Equal, and of the same layout: rows and models stay readable after its file was edited."""
    usecase = load_usecase(path)

    kept = from_json(to_json(usecase), "usecase.json")

    assert usecase == kept
    assert layout_of(usecase).layout_hash == layout_of(kept).layout_hash


@pytest.mark.parametrize("raw", [b"", b"[]", b'{"usecase": "a", "colour": 1}', b"\xff"])
def test_a_damaged_file_is_named(raw: bytes) -> None:
    """Never half a use case."""
    with pytest.raises(UseCaseError, match=r"usecase\.json"):
        from_json(raw, "usecase.json")
