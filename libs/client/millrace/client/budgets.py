"""How much more than one try a call may cost: retries and hedges are paid from budgets that calls fill."""

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

# gRPC's own retry throttling (gRFC A6): every failure costs 1 of 10, a success gives .1 back, retries end below half.
MOST: Final = 10.0
FAILURE: Final = 1.0
SUCCESS: Final = 0.1
_KEPT: Final = 512  # latencies; at 100 calls/s the last five seconds
_ENOUGH: Final = 50  # fewer say nothing about a p95
_AGAIN_S: Final = 0.25


@dataclass(frozen=True, slots=True)
class Hedging:
    """Asks a second server when the first takes long, and takes the first answer; the other one runs on, unheard.

    `after`: the share of calls that are faster than the wait, measured over the last ones. `share`: at most that many
    extra calls. `least_s`: never sooner. Only for calls that may be made twice, and with two targets or more.
    """

    after: float = 0.95
    share: float = 0.05
    least_s: float = 0.002

    def __post_init__(self) -> None:
        if not (0 < self.after < 1 and 0 < self.share <= 1 and self.least_s >= 0):
            raise ValueError("hedging: after and share must be between 0 and 1, least_s not negative")


class RetryBudget:
    """Stops retries where most calls fail: they would be an outage's second wave. Thread-safe."""

    def __init__(self) -> None:
        self._left = MOST
        self._lock = threading.Lock()

    def failed(self) -> bool:
        """A try found no server. Whether another one may be made."""
        with self._lock:
            self._left = max(0.0, self._left - FAILURE)
            return self._left > MOST / 2

    def succeeded(self) -> None:
        """A try was answered, whatever the answer."""
        if self._left < MOST:
            with self._lock:
                self._left = min(MOST, self._left + SUCCESS)


class HedgeBudget:
    """Says when to hedge and whether it may be done: a token bucket that each call fills by `share`. Thread-safe."""

    def __init__(self, hedging: Hedging, clock: Callable[[], float] = time.monotonic) -> None:
        self._hedging = hedging
        self._clock = clock
        self._lock = threading.Lock()
        self._left = 0.0  # so that at no time more than `share` of the calls so far were hedged
        self._latencies: deque[float] = deque(maxlen=_KEPT)
        self._wait_s: float | None = None
        self._computed = float("-inf")
        self.calls = 0
        self.hedges = 0

    def begin(self) -> float | None:
        """Count a call; after how many seconds to hedge it, None = not at all."""
        with self._lock:
            self.calls += 1
            self._left = min(MOST, self._left + self._hedging.share)
            now = self._clock()
            if now - self._computed >= _AGAIN_S and len(self._latencies) >= _ENOUGH:
                ranked = sorted(self._latencies)
                slow = ranked[min(int(self._hedging.after * len(ranked)), len(ranked) - 1)]
                self._wait_s, self._computed = max(slow, self._hedging.least_s), now
            return self._wait_s

    def take(self) -> bool:
        """Whether the budget holds one more hedge; it is taken."""
        with self._lock:
            if self._left < 1:
                return False
            self._left -= 1
            self.hedges += 1
            return True

    def answered(self, seconds: float) -> None:
        """A try took that long."""
        with self._lock:
            self._latencies.append(seconds)
