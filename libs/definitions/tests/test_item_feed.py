"""Keys and markers of `item-features`."""

import pytest
from definitions.item_feed import (
    item_features_key,
    marker_value,
    parse_item_features_key,
    parse_marker_value,
    parse_partial_value,
    partial_value,
)


def test_a_key_holds_item_and_origin() -> None:
    """Item 0 is the marker of an emission."""
    key = item_features_key(0, 3)

    assert bytes(11) + b"\x03" == key
    assert (0, 3) == parse_item_features_key(key)


def test_a_marker_holds_epoch_and_offset() -> None:
    """They say up to where the origin's state was written, and by whom."""
    assert (7, 2**40) == parse_marker_value(marker_value(7, 2**40))


def test_a_partial_holds_its_writers_epoch() -> None:
    """The log takes what a writer without a lease still sends; readers must know it."""
    assert (7, b"packed") == parse_partial_value(partial_value(7, b"packed"))
    with pytest.raises(ValueError, match="its writer's epoch"):
        parse_partial_value(b"123")


@pytest.mark.parametrize("content", [None, b"", b"12345678901", b"1234567890123"])
def test_another_length_is_neither_key_nor_marker(content: bytes | None) -> None:
    """Such a record is skipped and counted."""
    with pytest.raises(ValueError, match="item-features"):
        parse_item_features_key(content)
    with pytest.raises(ValueError, match="item-features"):
        parse_marker_value(content)
