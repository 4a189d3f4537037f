"""Stable ids."""

import pytest
from millrace.ids import stable_id


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a", 0xE6C632B61E964E1F), ("movie-242", 0x6AD8170495283805), ("Ünïcode ☃", 0x5F14936FF5983416)],
)
def test_an_id_is_the_same_on_every_machine_and_in_every_release(text: str, expected: int) -> None:
    """Ids lie in stored features: these numbers must never change (xxh3_64 of the UTF-8 bytes)."""
    assert expected == stable_id(text)


def test_an_empty_text_has_no_id() -> None:
    """0 means absent; the id of nothing would be somebody."""
    with pytest.raises(ValueError, match="empty"):
        stable_id("")


def test_ids_are_unsigned_64_bit_and_never_zero() -> None:
    """All fit `fixed64`."""
    assert all(0 < stable_id(str(number)) < 2**64 for number in range(1_000))
