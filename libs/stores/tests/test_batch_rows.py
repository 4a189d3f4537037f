"""Lists as the batch stores keep them."""

import numpy as np
import pytest
from stores.batch.rows import UserList, decoded
from stores.errors import StoreCorrupt

LIST = UserList(7, np.array([3, 2**63], np.uint64), np.array([0.5, 0.25], np.float32))


def test_what_was_encoded_is_decoded() -> None:
    assert decoded(7, *LIST.encoded()) == LIST


@pytest.mark.parametrize(
    ("items", "scores"),
    [(b"123", b""), (b"", b"\0"), (bytes(16), bytes(4)), (None, bytes(8)), (bytes(16), None)],
    ids=["items cut short", "scores cut short", "one score for two items", "no items", "no scores"],
)
def test_a_row_that_is_no_list_says_whose_and_the_remedy(items: bytes, scores: bytes) -> None:
    """A gateway leaves such a list aside; it does not answer INTERNAL."""
    with pytest.raises(StoreCorrupt, match=r"list of user 7: .*millrace precompute"):
        decoded(7, items, scores)
