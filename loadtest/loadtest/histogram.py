"""Latencies in whole microseconds: fixed memory, under 0.8 % error, and exact extremes."""

_BITS = 7  # 128 buckets per doubling: the widest bucket is 1/128 of its value
_SUB = 1 << _BITS


class Histogram:
    """Counts of durations in µs; Locust's own rounds to milliseconds, which hides everything under 1 ms."""

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}
        self.count = 0
        self.max_us = 0

    def record(self, us: int) -> None:
        """Count one duration; negative ones (a clock's rounding) count as 0."""
        us = max(us, 0)
        shift = max(us.bit_length() - _BITS - 1, 0)
        bucket = (shift << _BITS) + (us >> shift)
        self._counts[bucket] = self._counts.get(bucket, 0) + 1
        self.count += 1
        self.max_us = max(self.max_us, us)

    def add(self, other: "Histogram") -> None:
        """Count all that another one counted."""
        for bucket, count in other._counts.items():
            self._counts[bucket] = self._counts.get(bucket, 0) + count
        self.count += other.count
        self.max_us = max(self.max_us, other.max_us)

    def quantile_us(self, q: float) -> int | None:
        """Smallest duration that at least the share `q` (0 to 1) of all records do not exceed; None while empty.

        The upper edge of its bucket, so never too kind, and never above the largest record.
        """
        if not self.count:
            return None
        wanted, seen = q * self.count, 0
        for bucket in sorted(self._counts):
            seen += self._counts[bucket]
            if seen >= wanted:
                return min(_upper_edge(bucket), self.max_us)
        return self.max_us


def _upper_edge(bucket: int) -> int:
    if bucket < 2 * _SUB:
        return bucket
    shift = (bucket >> _BITS) - 1
    mantissa = bucket - (shift << _BITS)
    return ((mantissa + 1) << shift) - 1


def milliseconds(us: int | None) -> float | None:
    """Microseconds as milliseconds with three decimals; None stays None."""
    return None if us is None else round(us / 1000, 3)
