"""What one model version did lately: its failures, times and scores, by the second, for the guardrails to judge."""

import time
from collections import deque
from collections.abc import Callable
from typing import Final

from gateway.errors import Reason
from gateway.query import Floats

WINDOW_S: Final = 120
SAMPLES: Final = 64  # times and scores kept of one second: a busy version is sampled, its failures are all counted
STRIKES: Final = 3
STRIKES_S: Final = 5.0
# Not the version's doing: nothing was asked of it.
_NOT_ASKED: Final[frozenset[Reason]] = frozenset({"in_flight", "breaker", "off"})


class _Second:
    """Calls that ended within one second."""

    __slots__ = ("at", "calls", "failed", "scores", "times")

    def __init__(self, at: int) -> None:
        self.at = at
        self.calls = 0
        self.failed = 0
        self.times: list[float] = []
        self.scores: list[float] = []


class Health:
    """Counts of one version, belonging to the event loop. Costs about a microsecond a call."""

    __slots__ = ("_last", "_seconds", "_strikes", "now")

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self.now = now
        self._seconds: deque[_Second] = deque(maxlen=WINDOW_S)
        self._last = _Second(-1)
        self._strikes: deque[float] = deque(maxlen=STRIKES)

    def scored(self, since: float, scores: Floats) -> None:
        """A call that began at `since` gave these finite scores, float32 (n,), n > 0."""
        now = self.now()
        second = self._second(now)
        if len(second.times) < SAMPLES:
            second.times.append(now - since)
            # One score a call, of another place each time: the scores of one list are not independent.
            second.scores.append(float(scores[(second.calls * 7) % len(scores)]))
        second.calls += 1

    def failed(self, reason: Reason) -> None:
        """A call gave none."""
        if reason in _NOT_ASKED:
            return
        now = self.now()
        second = self._second(now)
        second.calls += 1
        second.failed += 1
        if reason == "bad_scores":
            self._strikes.append(now)

    def forget(self) -> None:
        """As at the start: what was seen while warming up says nothing."""
        self._last = _Second(-1)
        self._seconds.clear()
        self._strikes.clear()

    @property
    def struck_out(self) -> bool:
        """Whether three answers within 5 s were bad: wrong in shape, NaN or infinite."""
        return len(self._strikes) == STRIKES and self._strikes[-1] - self._strikes[0] <= STRIKES_S

    def calls(self, since_s: float) -> tuple[int, int]:
        """Calls and failures of the last `since_s` seconds."""
        kept = self._of(since_s)
        return sum(second.calls for second in kept), sum(second.failed for second in kept)

    def times(self, since_s: float) -> list[float]:
        """A sample of the times that calls took, seconds."""
        return [value for second in self._of(since_s) for value in second.times]

    def scores(self, since_s: float) -> list[float]:
        """A sample of the scores."""
        return [value for second in self._of(since_s) for value in second.scores]

    def _of(self, since_s: float) -> list[_Second]:
        least = self.now() - since_s
        return [second for second in self._seconds if second.at >= least]

    def _second(self, now: float) -> _Second:
        at = int(now)
        if self._last.at != at:
            self._last = _Second(at)
            self._seconds.append(self._last)
        return self._last
