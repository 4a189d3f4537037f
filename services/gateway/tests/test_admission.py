"""What is shed for what it has waited, on a clock of the test's."""

import pytest
from gateway.admission import Queue, shed_unread
from gateway.query import Priority


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 50.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def queue(clock: Clock) -> Queue:
    return Queue(clock)


def unread(queue: Queue, left_s: float, lag_s: float = 0.0) -> str:
    return shed_unread(queue, left_s, lambda: lag_s)


def standing(queue: Queue, clock: Clock, waited_s: float) -> None:
    """Calls have waited for so long for a second."""
    for _ in range(100):
        queue.taken(waited_s)
        clock.now += 0.01
    queue.taken(waited_s)


def test_a_burst_is_worked_off(queue: Queue, clock: Clock) -> None:
    """Forty calls at once, after a stall, are answered by their deadlines: the queue has not stood for 100 ms."""
    for behind in range(40):
        queue.taken(0.09 - behind * 0.002)
        assert not unread(queue, 0.11)
        assert not queue.sheds(0.11, Priority.BATCH)
        clock.now += 0.002


def test_a_queue_that_stands_is_cut_to_a_quarter_of_the_deadline(queue: Queue, clock: Clock) -> None:
    """Of 200 ms, 50 may pass here; of 50 ms, 12."""
    standing(queue, clock, 0.049)
    assert not unread(queue, 0.151)
    assert "49 ms in the queue" in unread(queue, 0.05)

    queue.taken(0.051)
    assert "51 ms in the queue" in unread(queue, 0.149)


def test_a_queue_that_was_empty_once_stands_no_more(queue: Queue, clock: Clock) -> None:
    """Load that goes away is forgotten with the first call that did not wait."""
    standing(queue, clock, 0.08)
    assert unread(queue, 0.1)

    queue.taken(0.001)
    clock.now += 5.0
    queue.taken(0.08)
    assert not unread(queue, 0.1)


def test_a_deadline_that_passed_here_is_told_from_one_that_was_short(queue: Queue) -> None:
    """By what the call waited, or by how late the event loop is; else the ranking refuses it as too short."""
    queue.taken(0.0)
    assert not unread(queue, 0.004)
    assert unread(queue, 0.004, lag_s=0.02)

    queue.taken(0.19)
    assert "deadline passed" in unread(queue, 0.004)
