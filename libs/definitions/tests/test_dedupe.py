"""A resent event counts once, streaming and in batch alike, whatever the cuts and restarts."""

from itertools import pairwise

import numpy as np
import pytest
from definitions.dedupe import Deduper, DedupeStateError, first_occurrences
from hypothesis import given, settings
from hypothesis import strategies as st


def keep(deduper: Deduper, ids: list[int], first_offset: int = 0) -> list[bool]:
    offsets = np.arange(first_offset, first_offset + len(ids), dtype=np.int64)
    return deduper.keep(np.array(ids, np.uint64), offsets).tolist()


def test_a_repeat_counts_once_within_a_batch_and_across() -> None:
    """Where the batches are cut changes nothing."""
    assert keep(Deduper(10), [1, 2, 1]) == [True, True, False]

    deduper = Deduper(10)
    assert keep(deduper, [1, 2]) == [True, True]
    assert keep(deduper, [1, 3], 2) == [False, True]


def test_the_window_is_counted_in_offsets_and_inclusive() -> None:
    """`window` offsets later is still a repeat, one more is a new event."""
    assert keep(Deduper(3), [1, 2, 3, 1]) == [True, True, True, False]
    assert keep(Deduper(3), [1, 2, 3, 4, 1]) == [True, True, True, True, True]


def test_a_repeat_renews_the_window() -> None:
    """Any earlier occurrence counts, itself counted or not: the rule is a function of the log."""
    assert keep(Deduper(2), [1, 2, 1, 3, 1]) == [True, True, False, True, False]


def test_offsets_that_go_back_are_refused() -> None:
    """A replay over a state that has seen the future would drop every event."""
    deduper = Deduper(5)
    keep(deduper, [1, 2, 3])

    with pytest.raises(ValueError, match="ascend"):
        keep(deduper, [1], 2)


@pytest.mark.parametrize("saved", [b"", b"x" * 30, Deduper(4).save()])
def test_a_state_of_another_window_or_cut_short_is_refused(saved: bytes) -> None:
    """Loading it would silently count events twice."""
    with pytest.raises(DedupeStateError):
        Deduper(5).load(saved)


def test_memory_is_bounded_by_the_window() -> None:
    """Entries older than the window go, in the state and in what is saved."""
    deduper = Deduper(20_000)
    for start in range(0, 200_000, 1_000):
        keep(deduper, list(range(start, start + 1_000)), start)

    assert deduper.used_bytes <= 2 * 16 * 65_536
    assert len(deduper.save()) == 20_001 * 16 + 24


def test_large_windows_agree_with_the_batch_form() -> None:
    """Sorted runs, merges and expiry included."""
    random = np.random.default_rng(5)
    ids = random.integers(0, 30_000, 60_000).astype(np.uint64)
    offsets = np.cumsum(random.integers(1, 4, 60_000)).astype(np.int64)
    deduper = Deduper(25_000)
    kept = [
        deduper.keep(ids[start : start + 7_001], offsets[start : start + 7_001]) for start in range(0, 60_000, 7_001)
    ]

    expected = first_occurrences(ids, np.zeros(60_000, np.int32), offsets, 25_000)

    assert 5_000 < expected.sum() < 55_000
    np.testing.assert_array_equal(expected, np.concatenate(kept))


def test_the_batch_form_keeps_partitions_apart_and_the_order_given() -> None:
    """The same id in two partitions is two events; rows may come in any order."""
    ids = np.array([7, 7, 7, 8], np.uint64)
    partitions = np.array([0, 1, 0, 0], np.int32)
    offsets = np.array([9, 3, 2, 5], np.int64)

    assert first_occurrences(ids, partitions, offsets, 100).tolist() == [False, True, True, True]


@pytest.mark.property
@settings(deadline=None)  # the first call may load kernels
@given(
    ids=st.lists(st.integers(0, 6), max_size=60),
    gaps=st.lists(st.integers(1, 3), min_size=60, max_size=60),
    window=st.integers(0, 12),
    cuts=st.sets(st.integers(0, 60), max_size=8),
)
def test_streaming_with_restarts_equals_batch(ids: list[int], gaps: list[int], window: int, cuts: set[int]) -> None:
    """Any log, any cuts, a save and load at each cut."""
    event_id = np.array(ids, np.uint64)
    offset = np.cumsum(gaps[: len(ids)]).astype(np.int64)
    edges = [0, *sorted(cut for cut in cuts if cut < len(ids)), len(ids)]
    kept, deduper = [], Deduper(window)
    for start, stop in pairwise(edges):
        kept.append(deduper.keep(event_id[start:stop], offset[start:stop]))
        saved = deduper.save()
        deduper = Deduper(window)
        deduper.load(saved)
        assert saved == deduper.save()

    expected = first_occurrences(event_id, np.zeros(len(ids), np.int32), offset, window)

    assert expected.tolist() == (np.concatenate(kept).tolist() if kept else [])
