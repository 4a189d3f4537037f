"""Stops asking a dependency that fails, and finds out by single probes when it is back."""

from collections import deque
from collections.abc import Callable
from typing import Final

WINDOW_S: Final = 2.0
MIN_CALLS: Final = 20
ERROR_SHARE: Final = 0.5
TIMEOUTS_IN_A_ROW: Final = 5
PROBE_EVERY_S: Final = 1.0
PROBES_TO_CLOSE: Final = 3


class Breaker:
    """Opens at half or more errors among 20 or more calls of 2 s, or 5 timeouts in a row; three good probes close it.

    Not thread-safe: it belongs to the event loop.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._calls: deque[tuple[float, bool]] = deque()  # (when, failed), oldest first
        self._failed = 0
        self._timeouts = 0
        self._open = False
        self._probed_at = 0.0
        self._good_probes = 0

    @property
    def is_open(self) -> bool:
        """Whether calls other than probes are refused."""
        return self._open

    def allow(self) -> bool:
        """Whether the caller may call now. While open, one caller a second is let through as a probe."""
        if not self._open:
            return True
        now = self._clock()
        if now - self._probed_at < PROBE_EVERY_S:
            return False
        self._probed_at = now
        return True

    def succeeded(self) -> None:
        """The call that `allow` let through was answered."""
        self._timeouts = 0
        if self._open:
            self._good_probes += 1
            if self._good_probes >= PROBES_TO_CLOSE:
                self._close()
            return
        self._count(failed=False)

    def failed(self, *, timeout: bool) -> None:
        """The call that `allow` let through ended in an error, or (`timeout`) was not answered in time."""
        if self._open:
            self._good_probes = 0
            return
        self._timeouts = self._timeouts + 1 if timeout else 0
        self._count(failed=True)
        enough = len(self._calls) >= MIN_CALLS and self._failed >= ERROR_SHARE * len(self._calls)
        if enough or self._timeouts >= TIMEOUTS_IN_A_ROW:
            self._open = True
            self._good_probes = 0
            self._probed_at = self._clock()

    def _count(self, *, failed: bool) -> None:
        now = self._clock()
        self._calls.append((now, failed))
        self._failed += failed
        while now - self._calls[0][0] > WINDOW_S:
            self._failed -= self._calls.popleft()[1]

    def _close(self) -> None:
        self._open = False
        self._calls.clear()
        self._failed = 0
        self._timeouts = 0
