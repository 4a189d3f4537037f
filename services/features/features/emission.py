"""Changed rows on their way to the online store: a few at once, many beside the folding."""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Final

import numpy as np
import structlog
from definitions.packed_rows import PackedRows
from definitions.slots import Ids
from servicekit.failpoints import fp
from stores.errors import StoreUnavailable

from features.errors import StoreAhead
from features.metrics import FeatureMetrics
from features.owned import Owned

ROWS_PER_WRITE: Final = 20_000  # bounds memory and the store's transaction
_RETRY_S: Final = 1.0  # after a store that did not answer


@dataclass(frozen=True)
class RowPace:
    """Seconds between the end of an emission and the next."""

    least_s: float = 0.1  # unless the log has been read to its end: then at once
    rest: float = 5.0  # in durations of the emission before: rows take a sixth of the loop at most
    inline_rows: int = ROWS_PER_WRITE  # more are written beside the folding
    look_s: float = 0.02  # at one that runs: each look takes the interpreter from it


class RowEmitter:
    """Writes the changed rows of one use case's partitions.

    While an emission runs beside the loop, partitions may fold, each under its lock: a row then holds more than it did
    when the emission began, and is changed again.
    """

    def __init__(
        self,
        usecase: str,
        owned: Sequence[Owned],
        metrics: FeatureMetrics,
        *,
        pace: RowPace,
        clock: Callable[[], float],
        writer: Executor,
    ) -> None:
        """`writer` runs what is written beside the loop."""
        self.usecase, self._owned, self._metrics = usecase, owned, metrics
        self._pace, self._clock, self._writer = pace, clock, writer
        self._log: structlog.stdlib.BoundLogger = structlog.get_logger("features.rows")
        self._running: Future[int] | None = None
        self._writing: Sequence[Owned] = ()
        self._oldest_us: dict[int, int] = {}
        self._began = self._due = clock()
        self._retry_at = -math.inf

    @property
    def is_running(self) -> bool:
        """Whether an emission is under way."""
        return self._running is not None

    @property
    def changed(self) -> int:
        """How many rows wait to be written, or are being written."""
        return sum(each.state.changed_users for each in self._owned if not each.silent_until)

    def look_at(self, now: float, look_at: float) -> float:
        """When to see whether rows can be emitted: at `look_at` perhaps, if any wait."""
        if not self.changed:
            return math.inf
        if self._running is not None and not self._running.done():
            return now + self._pace.look_s
        return self._retry_at if self._retry_at > now else min(self.next_at, look_at)

    @property
    def next_at(self) -> float:
        """When the next emission is due under load; now, if one has ended, and never while one runs."""
        if self._running is None:
            return max(self._retry_at, self._due)
        return -math.inf if self._running.done() else math.inf

    def is_due(self, now: float, *, idle: bool) -> bool:
        """Whether `emit` has something to do; `idle`: the loop has not, so that rows need not wait for their turn."""
        return now >= (self._retry_at if idle and self._running is None else self.next_at)

    def emit(self) -> bool:
        """End an emission that is done, or begin the next; False if rows must wait because the store is away.

        Raises:
            LeaseLost: another worker owns a partition.
            StoreAhead: the store refused rows although this worker holds the newest leases.
        """
        if self._running is None:
            return self._begin()
        return not self._running.done() or self._end()

    def finish(self) -> bool:
        """Write all that has changed, and wait for it."""
        if self._running is not None and not self._end():
            return False
        return self._begin() and (self._running is None or self._end())

    def _begin(self) -> bool:
        owned = [each for each in self._owned if not each.silent_until and each.state.changed_users]
        if not owned:
            return True
        self._began = self._clock()
        if self._began < self._retry_at:
            return False
        changed = [each.state.dirty_users() for each in owned]
        for each in owned:
            if each.oldest_us is not None:
                self._oldest_us[each.state.partition] = each.oldest_us
                each.oldest_us = None
        if sum(map(len, changed)) <= self._pace.inline_rows:
            return self._ended(owned, functools.partial(self._write, owned, changed))
        self._writing = owned
        self._running = self._writer.submit(self._write, owned, changed)
        return True

    def _end(self) -> bool:
        """Wait for the emission that runs."""
        running, self._running = self._running, None
        return running is None or self._ended(self._writing, running.result)

    def _ended(self, owned: Sequence[Owned], outcome: Callable[[], int]) -> bool:
        try:
            rows = outcome()
        except StoreUnavailable as exc:
            self._log.warning("online store unavailable", usecase=self.usecase, error=str(exc))
            self._metrics.store_errors.labels(self.usecase).inc()
            self._retry_at = self._clock() + _RETRY_S
            return False
        for each in owned:
            each.state.users_emitted()
        self._metrics.emission(self.usecase, "users", rows, self._clock() - self._began)
        for oldest_us in self._oldest_us.values():
            self._metrics.visible(self.usecase, oldest_us)
        self._oldest_us.clear()
        self._rested()
        return True

    def _rested(self) -> None:
        ended = self._clock()
        self._due = ended + max(self._pace.least_s, self._pace.rest * (ended - self._began))

    def _write(self, owned: Sequence[Owned], changed: Sequence[Ids]) -> int:
        """Write these users' rows, and wait for the store; how many.

        Rows of all partitions are written together in the order of their keys: users who are neighbours in the store
        come from any partition.
        """
        for each in owned:
            each.folder.check(each.epoch)
            each.claim_store()
        fp("features.rows_checked")
        written = 0
        for rows in _packed(owned, changed):
            if (won := owned[0].store.write_rows(rows.ids, rows.bounds, rows.data)) < len(rows):
                for each in owned:
                    each.folder.check(each.epoch)
                raise StoreAhead(
                    f"{len(rows) - won} rows of {self.usecase} lost to rows newer than this worker's: "
                    f"{owned[0].folder.root.parent} does not belong to this online store; remove one"
                )
            written += len(rows)
        return written


def _packed(owned: Sequence[Owned], changed: Sequence[Ids]) -> Iterator[PackedRows]:
    """The rows of all, some thousand at a time, each time those of the next ids."""
    steps = np.sort(np.concatenate(changed))[ROWS_PER_WRITE::ROWS_PER_WRITE]
    cuts = [[0, *np.searchsorted(ids, steps).tolist(), len(ids)] for ids in changed]
    for number in range(len(steps) + 1):
        parts = []
        for each, ids, cut in zip(owned, changed, cuts, strict=True):
            with each.lock:
                parts.append(each.state.users.rows(ids[cut[number] : cut[number + 1]], each.epoch))
        yield PackedRows.joined(parts)
