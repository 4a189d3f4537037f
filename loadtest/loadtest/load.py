"""What one run sends, decided before it starts: the load, its arrival times and its encoded requests."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from millrace.events.v1 import events_pb2
from millrace.ranking.v1 import ranking_pb2

from loadtest.errors import BadInput

_DISTINCT_REQUESTS = 4096  # enough users and lists that no cache sees the same one twice in 40 s at 100/s
_SHOWN = 10
MAX_RATE = 5000  # one process; above it the generator measures itself


@dataclass(frozen=True)
class Load:
    """One run. `rate` per second, `seconds` and `warmup_s` in s, `time_us` the evaluation time (None = now)."""

    target: str
    usecase: str
    rate: float
    seconds: float
    candidates: int
    warmup_s: float
    deadline_ms: int
    phases: tuple[tuple[float, float], ...] = ()  # (rate, seconds) one after the other; empty: one rate throughout
    mode: str = "open"  # or "poisson": Locust users who wait for their answers
    pool: int = 512
    users: int | None = None  # of mode "poisson"; None: one for each request a second
    seed: int = 7
    time_us: int | None = None

    def checked(self) -> "Load":
        """This load, or every problem at once.

        Raises:
            BadInput: a value out of range, named with its range.
        """
        ranges = {
            "rate": (max([self.rate, *(rate for rate, _ in self.phases)]), 0.1, MAX_RATE),
            "seconds": (self.seconds, 1, 3600),
            "candidates": (self.candidates, 1, 2000),
            "warmup_s": (self.warmup_s, 0, 600),
            "deadline_ms": (self.deadline_ms, 5, 60_000),
            "pool": (self.pool, 1, 4096),
            "users": (1 if self.users is None else self.users, 1, 10_000),
        }
        problems = [
            f"{n} must be {low} to {high}, not {v}" for n, (v, low, high) in ranges.items() if not low <= v <= high
        ]
        if ":" not in self.target:
            problems.append(f"target must be host:port, not {self.target!r}")
        if not self.usecase:
            problems.append("usecase must be named")
        if self.mode not in ("open", "poisson"):
            problems.append(f"mode must be open or poisson, not {self.mode!r}")
        if problems:
            raise BadInput("; ".join(problems))
        return self


def phases_of(load: Load) -> Sequence[tuple[float, float]]:
    """(rate, seconds) of the measured time, in order."""
    return load.phases or ((load.rate, load.seconds),)


def arrivals(load: Load) -> npt.NDArray[np.float64]:
    """Due times in s from the start, rising, shape (n,): a Poisson process over warm-up and measured time."""
    rng = np.random.default_rng(load.seed)
    parts, begins_s = [], 0.0
    for rate, seconds in ((load.rate, load.warmup_s), *phases_of(load)):
        expected = int(rate * seconds)
        gaps = rng.exponential(1 / rate, size=expected + 6 * int(expected**0.5) + 10)
        times: npt.NDArray[np.float64] = np.cumsum(gaps)
        parts.append(begins_s + times[times < seconds])
        begins_s += seconds
    return np.concatenate(parts)


def encoded_requests(load: Load, item_ids: Sequence[int], user_ids: Sequence[int]) -> list[bytes]:
    """Rank requests as bytes, so that sending one costs the generator no encoding.

    Each draws a user and `candidates` distinct items; a catalogue smaller than that is sent whole.

    Raises:
        BadInput: no items or no users.
    """
    if not item_ids or not user_ids:
        raise BadInput("a load needs item ids and user ids; load a data set first, or leave both to be made up")
    rng = np.random.default_rng(load.seed)
    items = np.asarray(item_ids, dtype=np.uint64)
    users = np.asarray(user_ids, dtype=np.uint64)
    asked = min(load.candidates, len(items))
    context = events_pb2.Context(time_us=load.time_us) if load.time_us is not None else None
    count = min(_DISTINCT_REQUESTS, int(sum(r * s for r, s in phases_of(load)) + load.rate * load.warmup_s) + 1)
    return [
        ranking_pb2.RankRequest(
            usecase=load.usecase,
            user_id=int(rng.choice(users)),
            item_ids=rng.choice(items, size=asked, replace=False).tolist(),
            limit=_SHOWN,
            context=context,
            priority=ranking_pb2.PRIORITY_INTERACTIVE,
        ).SerializeToString()
        for _ in range(count)
    ]
