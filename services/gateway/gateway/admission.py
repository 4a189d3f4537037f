"""Refuses by the time that a call has left and by the time that it has waited: no counter of ours sees the queue."""

import asyncio
from collections import deque
from collections.abc import Callable, Hashable
from typing import Final

from gateway.errors import DeadlineTooShort, Overloaded
from gateway.query import Priority

FLOOR_S: Final = 0.005  # under this no answer is in time
MARGIN: Final = 1.5  # a step needs this times its rolling p99
WINDOW_S: Final = 2.0
MIN_SAMPLES: Final = 50  # fewer say nothing about a p99
REFRESH_S: Final = 0.25
OWN_WORK: Final = "own"
# A call gives up so much of its time to a queue that stands: the rest is for an answer, or for hearing of none.
WAIT_SHARE: Final = 0.25
# Calls for which nobody waits give way long before that of the shortest deadlines (50 ms) is reached: to any queue that
# stands, and to one of twice that.
SHED_AT_S: Final = {Priority.PREFETCH: 2 * FLOOR_S, Priority.BATCH: FLOOR_S}
STANDS_S: Final = 0.1  # CoDel's interval (RFC 8289): what is worked off within it was a burst


class Queue:
    """The calls that nobody has looked at: tells a queue that stands from a burst, by what each call waited in it.

    Controlled delay as CoDel has it (RFC 8289): delay below the floor shows that the queue has been empty, and while it
    has not been for an interval, what waited too long is sent away at once. So those that are answered have time for
    it, and the others hear of it. One for all use cases of the process; belongs to the event loop.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._since: float | None = None  # not empty
        self.waited_s = 0.0  # by the call that was taken last

    def taken(self, waited_s: float) -> None:
        """A call is taken that waited for so long; `sheds` is about this one."""
        self.waited_s = waited_s
        if waited_s < FLOOR_S:
            self._since = None
        elif self._since is None:
            self._since = self._clock()

    def sheds(self, left_s: float, priority: Priority = Priority.INTERACTIVE) -> bool:
        """Whether a call of that priority, with `left_s` of its deadline, is to be sent away."""
        if self._since is None or self._clock() - self._since < STANDS_S:
            return False
        least_s = WAIT_SHARE * (self.waited_s + left_s)
        return self.waited_s >= min(least_s, SHED_AT_S.get(priority, least_s))


class Admission:
    """Knows how long each rung and our own work take, and so what still fits into a deadline.

    `lag` gives the event loop's worst recent delay in seconds: it tells a short deadline from a deadline that we
    ourselves used up. Belongs to the event loop.
    """

    def __init__(self, clock: Callable[[], float], lag: Callable[[], float], queue: Queue) -> None:
        self._clock = clock
        self._lag = lag
        self._queue = queue
        self._samples: dict[Hashable, deque[tuple[float, float]]] = {}
        self._needs: dict[Hashable, tuple[float, float]] = {}  # key -> (computed at, seconds)

    def check(self, left_s: float, priority: Priority = Priority.INTERACTIVE) -> None:
        """Refuse a request that no rung can answer in `left_s`, or that must stand back for more urgent ones.

        Raises:
            DeadlineTooShort: under 5 ms, and we are not busy.
            Overloaded: the event loop is late, or our own work takes longer than that.
        """
        if self._queue.sheds(left_s, priority):
            late_ms = self._queue.waited_s * 1e3
            raise Overloaded(f"{late_ms:.0f} ms in the queue here: {priority.name} is shed first; try again later")
        if left_s < FLOOR_S:
            if max(self._lag(), self._queue.waited_s) >= FLOOR_S:
                raise Overloaded(f"{left_s * 1e3:.1f} ms are left after queueing here; try again later")
            raise DeadlineTooShort(f"deadline: {left_s * 1e3:.1f} ms left; an answer needs at least 5 ms")
        if not self.fits(OWN_WORK, left_s):
            raise Overloaded(
                f"{left_s * 1e3:.1f} ms are left, {self._need(OWN_WORK) * 1e3:.1f} needed; try again later"
            )

    def fits(self, key: Hashable, left_s: float) -> bool:
        """Whether a step still fits: 1.5 times its p99 of the last 2 s, never under 5 ms."""
        return left_s >= self._need(key)

    def note(self, key: Hashable, seconds: float) -> None:
        """A step took `seconds`."""
        samples = self._samples.setdefault(key, deque(maxlen=4096))
        samples.append((self._clock(), seconds))

    def _need(self, key: Hashable) -> float:
        now = self._clock()
        computed_at, need = self._needs.get(key, (-REFRESH_S, FLOOR_S))
        if now - computed_at < REFRESH_S:
            return need
        samples = self._samples.get(key, deque())
        while samples and now - samples[0][0] > WINDOW_S:
            samples.popleft()
        need = FLOOR_S
        if len(samples) >= MIN_SAMPLES:
            ranked = sorted(seconds for _, seconds in samples)
            need = max(FLOOR_S, MARGIN * ranked[int(0.99 * len(ranked))])
        self._needs[key] = (now, need)
        return need


def shed_unread(queue: Queue, left_s: float, lag: Callable[[], float]) -> str:
    """Why a call is sent away before it is read, whatever its priority; empty if it is not.

    Its deadline was used up in our own queue, or it waited too long in one that stands.
    """
    if left_s < FLOOR_S and max(lag(), queue.waited_s) >= FLOOR_S:
        return "the deadline passed in the queue here; try again later"
    if queue.sheds(left_s):
        return f"{queue.waited_s * 1e3:.0f} ms in the queue here; try again later"
    return ""


class LoopLag:
    """Worst delay of the event loop over about the last second, by a timer that should fire every 20 ms.

    `each` is called whenever it does.
    """

    _TICK_S: Final = 0.02
    _KEEP: Final = 50

    def __init__(self, each: Callable[[], None] = lambda: None) -> None:
        self._each = each
        self._delays: deque[float] = deque(maxlen=self._KEEP)
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin, on the running loop."""
        loop = asyncio.get_running_loop()
        due = loop.time() + self._TICK_S
        self._timer = loop.call_at(due, self._tick, loop, due)

    def stop(self) -> None:
        """End the timer."""
        if self._timer is not None:
            self._timer.cancel()

    def worst_s(self) -> float:
        """Seconds; 0 before the first tick."""
        return max(self._delays, default=0.0)

    def _tick(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        now = loop.time()
        self._delays.append(now - due)
        self._each()
        due = now + self._TICK_S
        self._timer = loop.call_at(due, self._tick, loop, due)
