"""Refuses by the time left, never by a counter: the event loop's own queue shows in nothing else."""

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
# Of the event loop's worst delay in the last second: from here on such callers keep away, so that those behind whom
# somebody waits are not late. Chosen, not measured: below the 50 ms of a short deadline, above a pause of ours.
SHED_AT_S: Final = {Priority.PREFETCH: 0.030, Priority.BATCH: 0.015}


class Admission:
    """Knows how long each rung and our own work take, and so what still fits into a deadline.

    `lag` gives the event loop's worst recent delay in seconds: it tells a short deadline from a deadline that we
    ourselves used up. Belongs to the event loop.
    """

    def __init__(self, clock: Callable[[], float], lag: Callable[[], float]) -> None:
        self._clock = clock
        self._lag = lag
        self._samples: dict[Hashable, deque[tuple[float, float]]] = {}
        self._needs: dict[Hashable, tuple[float, float]] = {}  # key -> (computed at, seconds)

    def check(self, left_s: float, priority: Priority = Priority.INTERACTIVE) -> None:
        """Refuse a request that no rung can answer in `left_s`, or that must stand back for more urgent ones.

        Raises:
            DeadlineTooShort: under 5 ms, and we are not busy.
            Overloaded: the event loop is late, or our own work takes longer than that.
        """
        limit_s = SHED_AT_S.get(priority)
        if limit_s is not None and (late_s := self._lag()) >= limit_s:
            raise Overloaded(f"busy by {late_s * 1e3:.0f} ms: {priority.name} is shed first; try again later")
        if left_s < FLOOR_S:
            if self._lag() >= FLOOR_S:
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


def late_on_arrival(left_s: float | None, lag: Callable[[], float]) -> bool:
    """Whether a call's deadline was used up in our own queue: nothing of it is worth reading."""
    return left_s is not None and left_s < FLOOR_S and lag() >= FLOOR_S


class LoopLag:
    """Worst delay of the event loop over about the last second, by a timer that should fire every 20 ms."""

    _TICK_S: Final = 0.02
    _KEEP: Final = 50

    def __init__(self) -> None:
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
        due = now + self._TICK_S
        self._timer = loop.call_at(due, self._tick, loop, due)
