"""Sources of candidates are merged by quota."""

import numpy as np
from definitions.candidates import merge


def ids(*values: int) -> np.ndarray:
    return np.array(values, np.uint64)


def test_sources_are_merged_by_quota_each_item_once() -> None:
    """In order: what a source before has brought does not use up a quota; what is missing is filled."""
    asked: list[int] = []

    def source(*values: int) -> object:
        def find(limit: int) -> np.ndarray:
            asked.append(limit)
            return ids(*values)[:limit]

        return find

    found = merge([source(1, 2, 3, 4), source(2, 1, 5, 6, 7), source()], [2, 2, 2], 8, source(1, 7, 8, 9, 10, 5))

    assert [1, 2, 5, 6, 7, 8, 9, 10] == found.item_ids.tolist()
    assert [0, 0, 1, 1, -1, -1, -1, -1] == found.source.tolist()
    assert [2, 4, 6, 8] == asked


def test_nothing_found_is_no_candidates() -> None:
    """An empty catalogue is normal."""
    found = merge([], [], 5, lambda _: ids())
    assert (0, 0) == (len(found.item_ids), len(found.source))
