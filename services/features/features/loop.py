"""The loop: log -> state -> online rows and item partials -> checkpoint, exactly once.

Every output is an absolute value guarded by (epoch, offsets), and the offsets are saved with the state: a kill at any
line costs a replay, never a count.
"""

import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import structlog
from servicekit.errors import LogUnavailable
from servicekit.failpoints import fp
from servicekit.watchdog import Watchdog
from stores.errors import StoreUnavailable

from features.errors import CheckpointUnwritable, NoAnswer, PublishFailed
from features.log import Batch, ItemSink, Lease, Place, Source
from features.metrics import FeatureMetrics
from features.owned import Owned
from features.partition import INTERACTIONS

Offsets = Mapping[str, Mapping[str, Mapping[str, int]]]
"""Next offsets by use case, partition and topic."""


@dataclass(frozen=True)
class Pace:
    """How often things happen, in seconds."""

    users_s: float = 0.1  # changed rows at the latest; at once when a poll brings nothing new
    items_s: float = 1.0  # changed partials at the latest
    items_idle_s: float = 0.1  # changed partials once nothing has come for so long
    items_most_s: float = 5.0  # the same, at the latest under load
    checkpoint_s: float = 5.0
    wait_s: float = 0.2  # longest poll
    retry_s: float = 1.0  # after a store that did not answer
    rest: float = 3.0  # pause after an emission, in its durations: emission takes at most 25 % of the loop


class FeatureLoop:
    """Keeps the rows, partials and checkpoints of some partitions up to date until it is stopped."""

    def __init__(
        self,
        owned: Sequence[Owned],
        source: Source,
        items: ItemSink,
        metrics: FeatureMetrics,
        *,
        pace: Pace | None = None,
        clock: Callable[[], float] = time.monotonic,
        on_ready: Callable[[bool], None] = lambda _: None,
    ) -> None:
        self._owned = {(each.usecase, each.state.partition): each for each in owned}
        self._source = source
        self._items = items
        self._metrics = metrics
        self._pace = pace or Pace()
        self._clock = clock
        self._on_ready = on_ready
        self._log: structlog.stdlib.BoundLogger = structlog.get_logger("features")
        self._watchdog = Watchdog()
        self._flushes: queue.SimpleQueue[_Flush] = queue.SimpleQueue()
        now = clock()
        self._users_due = self._items_due = self._retry_at = self._last_news = now
        self._checkpoint_due = now + self._pace.checkpoint_s

    def run(self, stop: threading.Event) -> None:
        """Recover, then fold and emit until `stop`, then emit and save all.

        Raises:
            FeaturesError, StoreError, LogError: nothing is lost; a restart replays.
        """
        self.recover()
        while not stop.is_set():
            self.step()
        self.checkpoint()

    def recover(self) -> None:
        """Lease every partition, load its newest checkpoint, and read on from there, silently to the log's end.

        Raises:
            OffsetGone, CheckpointUnusable: a restart does not help; the message says what does.
        """
        for each in self._owned.values():
            each.lease()
            fp("features.leased")
        bounds = self._source.bounds()  # after the leases: no older owner can emit anything past these ends
        starts: dict[Place, int] = {}
        for each in self._owned.values():
            starts |= each.restore(bounds)
            fp("features.restored")
            for path in each.folder.damaged:
                self._log.error("damaged checkpoint passed over", checkpoint=path)
            self._log.info(
                "partition leased",
                usecase=each.usecase,
                partition=each.state.partition,
                epoch=each.epoch,
                offsets=each.state.offsets,
                replay_to=each.silent_until,
            )
        self._source.start(starts)
        self._end_silence()

    def step(self) -> None:
        """One turn: poll, fold, and emit or save what is due."""
        batches = self._source.poll(self._patience_s())
        now = self._clock()
        if batches:
            fp("features.polled")
        for batch in batches:
            self._fold(batch)
            self._last_news = now
        if batches:
            fp("features.folded")
        self._end_silence()
        if not batches or now >= self._users_due:
            self._emit_users()
        if now >= min(self._items_due, self._last_news + self._pace.items_idle_s):
            self._emit_items()
        if now >= self._checkpoint_due:
            self.checkpoint()
            self._watch(now)
        self._answer_flushes()

    def checkpoint(self) -> None:
        """Save what has moved, in the only safe order.

        1. Emit what is dirty and wait for the store.
        2. Flush the item partials (acks=all).
        3. State, offsets, epoch, checksum: temporary file, fsync, rename.
        4. Commit offsets, asynchronously, for dashboards only.

        A step that cannot be done now (store, broker or disk away) leaves the rest undone until the next time.
        """
        self._refill_emptied()
        saved = False
        if self._emit_users() and self._emit_items() and self._flush_items():
            saved = self._save()
            self._audit()
        self._on_ready(saved and len(self._speaking()) == len(self._owned))
        self._checkpoint_due = self._clock() + self._pace.checkpoint_s

    def request_checkpoint(self, timeout_s: float = 30.0) -> Offsets:
        """From another thread: save now; the offsets below which everything is saved.

        Raises:
            NoAnswer: the loop did not come to it in time.
        """
        flush = _Flush()
        self._flushes.put(flush)
        if not flush.done.wait(timeout_s):
            raise NoAnswer(f"no checkpoint within {timeout_s} s; the log of the features process says why")
        return flush.offsets

    # The parts of a turn ---------------------------------------------------------------------------------------

    def _patience_s(self) -> float:
        """How long a poll may wait: not at all while rows wait to be seen."""
        now = self._clock()
        due = [now + self._pace.wait_s, self._checkpoint_due]
        for each in self._speaking():
            if each.state.dirty_users():
                due.append(self._retry_at)
            if each.state.dirty_items():
                due.append(min(self._items_due, self._last_news + self._pace.items_idle_s))
        return max(0.0, min(due) - now)

    def _fold(self, batch: Batch) -> None:
        usecase, kind, partition = batch.place
        each = self._owned[usecase, partition]
        folded = each.state.fold(kind, batch.records, batch.next_offset)
        if folded.oldest_us is not None:
            each.oldest_us = folded.oldest_us if each.oldest_us is None else min(folded.oldest_us, each.oldest_us)
        self._metrics.folded(batch, folded)

    def _speaking(self) -> list[Owned]:
        """The partitions that may emit: their replay is over."""
        return [each for each in self._owned.values() if not each.silent_until]

    def _end_silence(self) -> None:
        """Partitions that have reached the end seen at their lease may emit from now on."""
        silent = [each for each in self._owned.values() if each.silent_until]
        if not silent:
            return
        positions = self._source.positions()
        for each in silent:
            if all(positions[each.place(kind)] >= end for kind, end in each.silent_until.items()):
                each.silent_until = {}
                each.oldest_us = None  # what was replayed is not late
        if not any(each.silent_until for each in silent):
            self._log.info("replayed", partitions=len(self._owned))
            self._refill_emptied()
            self._on_ready(self._emit_users() and self._emit_items())

    def _refill_emptied(self) -> None:
        for each in self._speaking():
            try:
                refilled = each.refill_if_emptied()
            except StoreUnavailable:
                return  # the emission that follows says so
            if refilled:
                self._log.warning("online store is new: writing all rows", usecase=each.usecase, rows=refilled)
                self._metrics.refills.labels(each.usecase).inc()

    def _emit_users(self) -> bool:
        """Write changed rows; False if some must wait because the store is away."""
        started = self._clock()
        waiting = [each for each in self._speaking() if each.state.dirty_users()]
        if waiting and started < self._retry_at:
            return False
        for each in waiting:
            began = self._clock()
            try:
                rows = each.write_rows()
            except StoreUnavailable as exc:
                self._log.warning("online store unavailable", usecase=each.usecase, error=str(exc))
                self._metrics.store_errors.labels(each.usecase).inc()
                self._retry_at = self._clock() + self._pace.retry_s
                self._on_ready(False)  # noqa: FBT003  the callback's one argument
                return False
            self._metrics.emission(each.usecase, "users", rows, self._clock() - began)
            if each.oldest_us is not None:
                self._metrics.visible(each.usecase, each.oldest_us)
                each.oldest_us = None
        ended = self._clock()
        self._users_due = ended + max(self._pace.users_s, self._pace.rest * (ended - started))
        return True

    def _emit_items(self) -> bool:
        """Send changed partials, each partition's followed by its marker; False if the log takes none now."""
        started = self._clock()
        for each in self._speaking():
            if not (items := each.state.dirty_items()):
                continue
            each.folder.check(each.epoch)
            fp("features.items_checked")
            began = self._clock()
            partials = dict(each.state.items.partials(sorted(items)).items())
            offset = each.state.offsets[INTERACTIONS]
            try:
                self._items.publish(each.usecase, each.state.partition, partials, each.epoch, offset)
            except PublishFailed as exc:
                self._items_failed(exc)
                return False
            fp("features.items_sent")
            each.state.items_sent()
            self._metrics.emission(each.usecase, "items", len(partials), self._clock() - began)
        ended = self._clock()
        stretched_s = min(self._pace.items_most_s, self._pace.rest * (ended - started))
        self._items_due = ended + max(self._pace.items_s, stretched_s)
        return True

    def _flush_items(self) -> bool:
        try:
            self._items.flush()
        except PublishFailed as exc:
            self._items_failed(exc)
            return False
        for each in self._owned.values():
            each.state.items_acknowledged()
        fp("features.emitted")
        return True

    def _audit(self) -> None:
        """Partials that a worker without a lease has written over are sent again with the next emission."""
        leases = {each.origin: Lease(each.epoch, each.known) for each in self._speaking()}
        try:
            found = self._items.audit(leases)
            for each in self._speaking():
                if items := found[each.origin].items:
                    self._log.warning("partials of a worker without a lease: sending ours again", items=len(items))
                    self._metrics.overwritten.inc(len(items))
                each.resend(found[each.origin])
        except (PublishFailed, CheckpointUnwritable) as exc:
            self._log.warning("item-features not looked through", error=str(exc))

    def _items_failed(self, exc: PublishFailed) -> None:
        self._log.warning("item partials not written: sending them again", error=str(exc))
        self._metrics.publish_errors.inc()
        self._on_ready(False)  # noqa: FBT003  the callback's one argument
        for each in self._owned.values():
            each.state.items_lost()
        self._items_due = self._last_news = self._clock() + self._pace.retry_s

    def _save(self) -> bool:
        for each in self._speaking():
            began = self._clock()
            try:
                size = each.save()
            except CheckpointUnwritable as exc:
                self._log.error("checkpoint not written", error=str(exc))
                return False
            if size:
                self._metrics.checkpoint(each.usecase, each.state.partition, size, self._clock() - began)
        speaking = self._speaking()
        self._source.commit({each.place(kind): at for each in speaking for kind, at in each.saved.items()})
        return True

    def _watch(self, now: float) -> None:
        for each in self._owned.values():
            for what, table in (("users", each.state.users), ("items", each.state.items)):
                self._metrics.state(each.usecase, each.state.partition, what, len(table), table.used_bytes)
        for place, lag in self._source.lags().items():
            self._metrics.lag.labels(place.usecase, place.kind, str(place.partition)).set(lag)
        positions = self._source.positions()
        if stalled := self._watchdog.stalled(now, positions, self._ends):
            self._log.warning("reading has stalled: assigning again", places=[str(place) for place in stalled])
            self._metrics.stalls.inc(len(stalled))
            self._source.start(positions)

    def _ends(self) -> Mapping[Place, int] | None:
        try:
            return {place: bound.end for place, bound in self._source.bounds().items()}
        except LogUnavailable:
            return None

    def _answer_flushes(self) -> None:
        if self._flushes.empty():
            return
        self.checkpoint()
        while not self._flushes.empty():
            flush = self._flushes.get_nowait()
            for each in self._owned.values():
                flush.offsets.setdefault(each.usecase, {})[str(each.state.partition)] = dict(each.saved)
            flush.done.set()


class _Flush:
    """A request to save now, and its answer."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self.offsets: dict[str, dict[str, Mapping[str, int]]] = {}
