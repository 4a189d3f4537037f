"""Topic names and keys."""

import pytest
from servicekit import topics


@pytest.mark.parametrize("record_id", [0, 1, 2**32, 2**64 - 1])
def test_an_id_key_is_eight_bytes_in_sorting_order_and_reads_back(record_id: int) -> None:
    """Big-endian keeps ids in order and the partitioner's input fixed."""
    key = topics.id_key(record_id)

    assert record_id.to_bytes(8, "big") == key
    assert record_id == topics.parse_id_key(key)


@pytest.mark.parametrize("record_id", [-1, 2**64])
def test_an_id_outside_64_bits_has_no_key(record_id: int) -> None:
    """A key that wraps round would land on another user."""
    with pytest.raises(ValueError, match="64-bit"):
        topics.id_key(record_id)


@pytest.mark.parametrize("key", [None, b"", b"1234567", b"123456789"])
def test_a_key_of_another_length_is_no_id(key: bytes | None) -> None:
    """Such a record is a dead letter, not user 0."""
    with pytest.raises(ValueError, match="8 bytes"):
        topics.parse_id_key(key)


def test_topics_are_named_by_use_case_and_kind() -> None:
    """One function makes the names, so one place can be wrong."""
    assert "movies.item-features" == topics.topic("movies", "item-features")


@pytest.mark.parametrize(("usecase", "kind"), [("Mo vies", "items"), ("a.b", "items"), ("movies", "item")])
def test_a_name_that_is_no_topic_is_refused(usecase: str, kind: str) -> None:
    """A wrong name would otherwise wait for a topic that never comes."""
    with pytest.raises(ValueError, match="use "):
        topics.topic(usecase, kind)  # type: ignore[arg-type]  # the point of the test


def test_each_revision_has_its_own_item_features() -> None:
    """Two revisions are served side by side; the first keeps the plain name."""
    assert ["movies.item-features", "movies.item-features.2"] == [
        topics.item_features_topic("movies", revision) for revision in (1, 2)
    ]
    with pytest.raises(ValueError, match="count from 1"):
        topics.item_features_topic("movies", 0)
