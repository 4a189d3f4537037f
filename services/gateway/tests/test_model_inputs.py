"""Integer inputs as a graph takes them."""

import numpy as np
import pytest
from gateway.model import IntInputs, codes

USER_NAMES = ("u_recent_ids_0", "u_recent_ids_1", "u_device")
ITEM_NAMES = ("i_genre_0", "i_genre_1")
USER = np.array([np.uint64(2**63 + 5).astype(np.int64), 0, 2], np.int64)
ITEMS = np.array([[4, 9], [6, 0]], np.int64)


def test_a_graph_without_integer_columns_gets_none() -> None:
    """Most graphs take floats only."""
    assert IntInputs((), USER_NAMES, ITEM_NAMES, {})(USER, ITEMS) is None


def test_columns_come_in_the_graphs_order() -> None:
    """User columns repeat for each candidate; columns without a vocabulary pass unchanged."""
    inputs = IntInputs(("i_genre_1", "u_device", "i_genre_0"), USER_NAMES, ITEM_NAMES, {})
    assert [[9, 2, 4], [0, 2, 6]] == inputs(USER, ITEMS).tolist()


def test_known_values_become_dense_codes_and_others_0() -> None:
    """A history's slots share the vocabulary of its name; ids are unsigned, however int64 shows them."""
    inputs = IntInputs(
        ("u_recent_ids_0", "u_recent_ids_1", "i_genre_0"),
        USER_NAMES,
        ITEM_NAMES,
        {"u_recent_ids": np.array([3, 2**63 + 5], np.uint64), "i_genre_0": np.array([4, 5], np.uint64)},
    )
    assert [[2, 0, 1], [2, 0, 0]] == inputs(USER, ITEMS).tolist()


def test_an_empty_vocabulary_knows_nothing() -> None:
    """A column that training never saw."""
    assert [0, 0] == codes(np.array([1, 2], np.uint64), np.empty(0, np.uint64)).tolist()


def test_a_column_that_the_layout_lacks_is_an_error() -> None:
    """The bundle belongs to another layout."""
    with pytest.raises(KeyError, match="i_colour"):
        IntInputs(("i_colour",), USER_NAMES, ITEM_NAMES, {})
