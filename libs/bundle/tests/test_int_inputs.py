"""Integer columns reach the graph in its own order and codes."""

import numpy as np
import pytest
from bundle import AdmissionError, IntInputs

USERS, ITEMS = ("u_recent_ids_0", "u_recent_ids_1", "u_gender"), ("i_genre_0",)


def test_columns_are_picked_in_the_graphs_order_and_repeated_per_candidate() -> None:
    """A user column is the same in every candidate's row."""
    inputs = IntInputs(("i_genre_0", "u_gender"), USERS, ITEMS, {})

    columns = inputs(np.array([1, 2, 3]), np.array([[7], [8]]))

    np.testing.assert_array_equal([[7, 3], [8, 3]], columns)


def test_ids_become_dense_codes_and_unknown_ones_zero() -> None:
    """One vocabulary serves all slots of a history, also for ids above 2^63."""
    large = 2**63 + 5
    vocabulary = np.array([10, 20, large], np.uint64)
    inputs = IntInputs(("u_recent_ids_0", "u_recent_ids_1"), USERS, ITEMS, {"u_recent_ids": vocabulary})

    columns = inputs(np.array([20, np.uint64(large).astype(np.int64), 3]), np.zeros((1, 1), np.int64))
    unknown = inputs(np.array([11, 0, 3]), np.zeros((1, 1), np.int64))

    np.testing.assert_array_equal([[2, 3]], columns)
    np.testing.assert_array_equal([[0, 0]], unknown)


def test_rows_may_have_their_own_user_columns() -> None:
    """Training rows are of many users."""
    inputs = IntInputs(("u_gender",), USERS, ITEMS, {})

    columns = inputs(np.array([[0, 0, 5], [0, 0, 6]]), np.zeros((2, 1), np.int64))

    np.testing.assert_array_equal([[5], [6]], columns)


def test_a_graph_without_integers_gets_none() -> None:
    """Base models take floats only."""
    assert IntInputs((), USERS, ITEMS, {})(np.zeros(3, np.int64), np.zeros((2, 1), np.int64)) is None


def test_a_column_that_the_layout_lacks_is_refused() -> None:
    """Better at load than at the first request."""
    with pytest.raises(AdmissionError, match="i_price"):
        IntInputs(("i_price",), USERS, ITEMS, {})
