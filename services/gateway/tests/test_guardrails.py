"""When a canary is taken back, and when it is left alone."""

from collections.abc import Callable

import numpy as np
import pytest
from definitions.serving_state import Limits
from gateway.guardrails import binomial_tail, breached
from gateway.health import Health

RNG = np.random.default_rng(0)


class Clock:
    """Stands still."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def seen(
    clock: Clock,
    n: int,
    *,
    fails: float = 0.0,
    seconds: Callable[[int], np.ndarray] = lambda n: RNG.exponential(0.004, n),
    scores: Callable[[int], np.ndarray] = lambda n: RNG.beta(2, 8, n),
) -> Health:
    """`n` calls over the last minute."""
    health = Health(clock)
    ends, failures = clock.now, round(n * fails)
    times, values = seconds(n), scores(n).astype(np.float32)
    for k in range(n):
        clock.now = ends - 60 + 60 * k / n
        if k < failures:
            health.failed("error")
        else:
            health.scored(clock.now - times[k], values[k : k + 1])
    clock.now = ends
    return health


def test_equal_versions_are_left_alone(clock: Clock) -> None:
    """Twenty pairs, each looked at: not one alarm."""
    for _ in range(10):
        pin, canary = seen(clock, 2_000), seen(clock, 700)
        assert breached(canary, pin, Limits()) is None
        assert breached(pin, canary, Limits()) is None


def test_more_errors_than_the_pins_are_found(clock: Clock) -> None:
    """Also at a few calls a second; a Triton that fails both is not the canary's fault."""
    assert "errors: 10 of 100" in str(breached(seen(clock, 100, fails=0.1), seen(clock, 2_000), Limits()))
    assert breached(seen(clock, 100, fails=0.1), seen(clock, 2_000, fails=0.1), Limits()) is None
    assert breached(seen(clock, 100, fails=0.1), seen(clock, 2_000), Limits(error_excess=float("inf"))) is None


def test_a_slow_tail_is_found(clock: Clock) -> None:
    """One call in twelve is slow, the median is as before."""
    slow = seen(clock, 300, seconds=lambda n: np.where(np.arange(n) % 12 == 0, 0.2, 0.004))
    pin = seen(clock, 2_000)
    assert str(breached(slow, pin, Limits())).startswith("p99: 25 of 300")
    assert breached(slow, pin, Limits(p99_ratio=float("inf"))) is None


def test_other_scores_are_found(clock: Clock) -> None:
    """Half a standard deviation further; from too few scores nothing is concluded."""
    shifted = lambda n: RNG.beta(2, 8, n) + 0.12  # noqa: E731
    pin = seen(clock, 2_000)
    assert "score drift" in str(breached(seen(clock, 1_000, scores=shifted), pin, Limits()))
    assert breached(seen(clock, 300, scores=shifted), pin, Limits()) is None
    assert breached(seen(clock, 1_000, scores=shifted), pin, Limits(score_psi=float("inf"))) is None


def test_what_lies_further_back_than_the_window_is_forgotten(clock: Clock) -> None:
    """A canary is not taken back for last hour's outage."""
    canary, pin = seen(clock, 100, fails=0.5), seen(clock, 1_000)
    clock.now += 200
    assert breached(canary, pin, Limits()) is None


def test_three_bad_answers_within_five_seconds(clock: Clock) -> None:
    """Not two, not over ten seconds, and not what was never asked."""
    health = Health(clock)
    for gap in (0.0, 4.0, 4.0):
        clock.now += gap
        health.failed("bad_scores")
    assert not health.struck_out
    clock.now += 0.5
    health.failed("in_flight")
    health.failed("time")
    assert not health.struck_out
    health.failed("bad_scores")
    assert health.struck_out
    health.forget()
    assert (False, (0, 0)) == (health.struck_out, health.calls(60))


def test_a_busy_version_is_sampled_and_its_failures_all_counted(clock: Clock) -> None:
    """Memory is bounded whatever the rate."""
    health = Health(clock)
    for _ in range(5_000):
        health.scored(clock.now, np.ones(3, np.float32))
    for _ in range(40):
        health.failed("error")
    assert ((5_040, 40), 64) == (health.calls(60), len(health.times(60)))


def test_the_tail_of_a_binomial() -> None:
    """Of four fair coins, three or four heads: 5 of 16."""
    assert 5 / 16 == pytest.approx(binomial_tail(3, 4, 0.5))
    assert (1.0, 1.0, 0.0) == (binomial_tail(0, 4, 0.5), binomial_tail(2, 4, 1.0), binomial_tail(1, 4, 0.0))
