"""The breaker's rules, with an injected clock."""

from gateway.breaker import Breaker


class Clock:
    """Time as the test sets it."""

    now = 50.0

    def __call__(self) -> float:
        return self.now


def opened(clock: Clock) -> Breaker:
    breaker = Breaker(clock)
    for _ in range(5):
        breaker.failed(timeout=True)
    return breaker


def test_half_of_twenty_calls_open_it() -> None:
    """Fewer calls, or a smaller share of errors, do not."""
    breaker = Breaker(Clock())
    for call in range(19):
        breaker.failed(timeout=False) if call % 2 else breaker.succeeded()
    assert not breaker.is_open
    breaker.failed(timeout=False)
    assert breaker.is_open


def test_errors_two_seconds_apart_do_not_add_up() -> None:
    """Only the last two seconds count."""
    clock = Clock()
    breaker = Breaker(clock)
    for _ in range(100):
        breaker.failed(timeout=False)
        breaker.succeeded()
        breaker.succeeded()
        clock.now += 0.3
    assert not breaker.is_open


def test_five_timeouts_in_a_row_open_it() -> None:
    """An answer in between starts the count anew."""
    breaker = Breaker(Clock())
    for _ in range(4):
        breaker.failed(timeout=True)
    breaker.succeeded()
    for _ in range(4):
        breaker.failed(timeout=True)
    assert not breaker.is_open
    breaker.failed(timeout=True)
    assert breaker.is_open


def test_one_caller_a_second_probes_while_it_is_open() -> None:
    """All others are refused at once."""
    clock = Clock()
    breaker = opened(clock)
    assert [False, False] == [breaker.allow(), breaker.allow()]
    clock.now += 1.0
    assert [True, False] == [breaker.allow(), breaker.allow()]


def test_three_good_probes_close_it() -> None:
    """A bad one in between starts the count anew."""
    breaker = opened(Clock())
    breaker.succeeded()
    breaker.succeeded()
    breaker.failed(timeout=True)
    breaker.succeeded()
    breaker.succeeded()
    assert breaker.is_open
    breaker.succeeded()
    assert not breaker.is_open
    assert breaker.allow()
