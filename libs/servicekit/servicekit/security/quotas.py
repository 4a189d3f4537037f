"""How often a caller may call: a token bucket each, and a count of open streams."""

import time
from collections.abc import Callable
from typing import Final

from servicekit.security.errors import OverQuota
from servicekit.security.policy import Quotas

CALLERS: Final = 10_000  # buckets kept; a full one that is dropped comes back full


class _Bucket:
    """Fills at `rate` a second up to `burst`."""

    __slots__ = ("at", "burst", "left", "max_streams", "rate", "streams")

    def __init__(self, rate: float, burst: float, max_streams: int, now: float) -> None:
        self.rate, self.burst, self.left, self.at = rate, burst, burst, now
        self.streams, self.max_streams = 0, max_streams


class CallerQuotas:
    """Every caller's bucket. Belongs to one thread. `clock`: monotonic seconds."""

    def __init__(self, quotas: Quotas, clock: Callable[[], float] = time.monotonic) -> None:
        self._quotas = quotas
        self._clock = clock
        self._buckets: dict[str, _Bucket] = {}

    def take(self, caller: str) -> None:
        """Count one call.

        Raises:
            OverQuota: with the time after which there is room for one.
        """
        bucket = self._filled(caller)
        if bucket.left < 1:
            wait_s = (1 - bucket.left) / bucket.rate
            raise OverQuota("quota", f"quota: {bucket.rate:g} calls a second are used up; slow down", wait_s)
        bucket.left -= 1

    def delay_s(self, caller: str) -> float:
        """Count one message of a stream; how long to wait before it is read. Streams are slowed, never shed."""
        bucket = self._filled(caller)
        bucket.left -= 1
        return max(0.0, -bucket.left / bucket.rate)

    def open_stream(self, caller: str) -> None:
        """Count one more open stream; `close_stream` gives it back. OverQuota if there are too many."""
        bucket = self._filled(caller)
        if bucket.streams >= bucket.max_streams:
            raise OverQuota("streams", f"quota: {bucket.max_streams} streams are open; close one", 1.0)
        bucket.streams += 1

    def close_stream(self, caller: str) -> None:
        """One stream less."""
        self._filled(caller).streams -= 1

    def _filled(self, caller: str) -> _Bucket:
        now = self._clock()
        bucket = self._buckets.get(caller)
        if bucket is None:
            self._forget(now)
            quota = self._quotas.of(caller)
            bucket = self._buckets[caller] = _Bucket(quota.rate, quota.burst, quota.streams, now)
            return bucket
        bucket.left = min(bucket.burst, bucket.left + (now - bucket.at) * bucket.rate)
        bucket.at = now
        return bucket

    def _forget(self, now: float) -> None:
        """Drop those that have filled up since, where there are too many: subjects are chosen by who signs tokens."""
        if len(self._buckets) < CALLERS:
            return
        self._buckets = {
            name: each
            for name, each in self._buckets.items()
            if each.streams or each.left + (now - each.at) * each.rate < each.burst
        }
