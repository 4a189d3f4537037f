"""Whether a canary does worse than the pin beside it. Pure: two `Health`s in, a reason or None out."""

import math
from typing import Final

import numpy as np
from definitions.serving_state import Limits
from definitions.stability import psi

from gateway.health import WINDOW_S, Health

MIN_ERROR_CALLS: Final = 20
MIN_TIMES: Final = 50
MIN_SCORES: Final = 500  # equal models differ by a PSI of .079 in one of 100 samples of this size
MIN_P99_S: Final = 0.005  # twice of almost nothing is still nothing
# Looked at every second on growing samples, for hours: a chance in a million for each look.
ALPHA: Final = 1e-6


def breached(canary: Health, pin: Health, limits: Limits) -> str | None:
    """Which guardrail the canary broke, as a sentence; None if none. Both are judged over the same last minutes."""
    return _errors(canary, pin, limits) or _slow(canary, pin, limits) or _drifted(canary, pin, limits)


def _errors(canary: Health, pin: Health, limits: Limits) -> str | None:
    if math.isinf(limits.error_excess):
        return None
    calls, failed = canary.calls(WINDOW_S)
    pin_calls, pin_failed = pin.calls(WINDOW_S)
    if calls < MIN_ERROR_CALLS:
        return None
    allowed = min(1.0, pin_failed / max(1, pin_calls) + limits.error_excess)
    if failed <= allowed * calls or binomial_tail(failed, calls, allowed) >= ALPHA:
        return None
    return f"errors: {failed} of {calls} calls failed, {pin_failed} of {pin_calls} of the pin's"


def _slow(canary: Health, pin: Health, limits: Limits) -> str | None:
    if math.isinf(limits.p99_ratio):
        return None
    times, of_pin = canary.times(WINDOW_S), pin.times(WINDOW_S)
    if min(len(times), len(of_pin)) < MIN_TIMES:
        return None
    p99 = float(np.quantile(of_pin, 0.99))
    limit = max(limits.p99_ratio * p99, MIN_P99_S)
    slower = sum(1 for seconds in times if seconds > limit)
    if slower <= 0.01 * len(times) or binomial_tail(slower, len(times), 0.01) >= ALPHA:
        return None
    return f"p99: {slower} of {len(times)} calls took over {limit * 1e3:.1f} ms; the pin's p99 is {p99 * 1e3:.1f} ms"


def _drifted(canary: Health, pin: Health, limits: Limits) -> str | None:
    if math.isinf(limits.score_psi):
        return None
    scores, of_pin = canary.scores(WINDOW_S), pin.scores(WINDOW_S)
    if min(len(scores), len(of_pin)) < MIN_SCORES:
        return None
    index = psi(np.array(of_pin), np.array(scores))
    if index <= limits.score_psi:
        return None
    return f"score drift: stability index {index:.2f} against the pin's scores, at most {limits.score_psi:g}"


def binomial_tail(successes: int, trials: int, chance: float) -> float:
    """Probability of `successes` or more of `trials`, each with `chance`."""
    if successes <= 0 or chance >= 1:
        return 1.0
    if chance <= 0:
        return 0.0
    whole = math.lgamma(trials + 1)
    return sum(
        math.exp(
            whole
            - math.lgamma(k + 1)
            - math.lgamma(trials - k + 1)
            + k * math.log(chance)
            + (trials - k) * math.log1p(-chance)
        )
        for k in range(successes, trials + 1)
    )
