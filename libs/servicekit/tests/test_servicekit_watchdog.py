"""A reader that stands still while the log goes on is noticed, and only then."""

import pytest
from servicekit.errors import Stalled
from servicekit.watchdog import Watchdog


def test_a_quiet_log_is_no_stall() -> None:
    """Nothing to read is normal, however long."""
    watchdog = Watchdog(quiet_s=10)

    assert [watchdog.stalled(now, {"a": 5}, lambda: {"a": 5}) for now in (0.0, 10.0, 20.0, 30.0, 40.0)] == [[]] * 5


def test_the_log_is_asked_only_where_something_stands() -> None:
    """A moving reader costs no request."""
    watchdog = Watchdog(quiet_s=10)

    def never() -> dict[str, int]:
        raise AssertionError("asked")

    for now in range(0, 60, 5):
        assert watchdog.stalled(float(now), {"a": now}, never) == []


def test_standing_with_lag_is_named_twice_then_fatal() -> None:
    """Two new assignments, then the process ends."""
    watchdog = Watchdog(quiet_s=10)

    found = [watchdog.stalled(now, {"a": 5, "b": 1}, lambda: {"a": 9, "b": 1}) for now in (0.0, 5.0, 10.0, 15.0, 20.0)]

    assert found == [[], [], ["a"], [], ["a"]]
    with pytest.raises(Stalled, match="stands at 5"):
        watchdog.stalled(30.0, {"a": 5, "b": 1}, lambda: {"a": 9, "b": 1})


def test_movement_forgives() -> None:
    """Strikes count only in a row."""
    watchdog = Watchdog(quiet_s=10)
    for now, position in ((0.0, 5), (10.0, 5), (20.0, 5), (21.0, 6), (31.0, 6), (41.0, 6)):
        watchdog.stalled(now, {"a": position}, lambda: {"a": 9})

    with pytest.raises(Stalled):
        watchdog.stalled(51.0, {"a": 6}, lambda: {"a": 9})


def test_a_log_that_does_not_answer_is_not_the_readers_fault() -> None:
    """A broker that is away is waited for."""
    watchdog = Watchdog(quiet_s=10)

    assert [watchdog.stalled(now, {"a": 5}, lambda: None) for now in (0.0, 10.0, 20.0, 30.0, 40.0)] == [[]] * 5
