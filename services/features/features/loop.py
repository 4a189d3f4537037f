"""The loop: log -> state -> online rows and item partials -> checkpoint, exactly once.

Every output is an absolute value guarded by (epoch, offsets), and the offsets are saved with the state: a kill at any
line costs a replay, never a count.
"""

import os
import queue
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Final, TypeVar

import structlog
from servicekit.errors import LogUnavailable
from servicekit.failpoints import fp
from servicekit.watchdog import Watchdog
from stores.errors import StoreUnavailable

from features.emission import RowEmitter, RowPace
from features.errors import CheckpointUnwritable, NoAnswer, PublishFailed
from features.log import Batch, ItemSink, Lease, Place, Source
from features.metrics import FeatureMetrics
from features.owned import Owned
from features.partition import INTERACTIONS

_INLINE_RECORDS: Final = 2_000  # fewer are folded sooner than a thread wakes

K = TypeVar("K")
R = TypeVar("R")

Offsets = Mapping[str, Mapping[str, Mapping[str, int]]]
"""Next offsets by use case, partition and topic."""


@dataclass(frozen=True)
class Pace:
    """How often things happen, in seconds."""

    rows: RowPace = field(default_factory=RowPace)
    items_s: float = 0.5  # changed partials at the latest
    items_idle_s: float = 0.1  # changed partials once nothing has come for so long
    items_most_s: float = 5.0  # the same, at the latest under load
    checkpoint_s: float = 5.0
    checkpoint_most_s: float = 10.0  # the same, at the latest under load
    wait_s: float = 0.2  # longest poll
    look_s: float = 0.002  # the same while rows wait: so long without news, and the log has been read to its end
    retry_s: float = 1.0  # after a log that did not answer
    items_rest: float = 11.0  # pause after an emission, in its durations: partials take a twelfth of the loop at most


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
        self._writer = ThreadPoolExecutor(1, "rows")
        self._rows = [
            RowEmitter(
                usecase,
                [each for each in owned if each.usecase == usecase],
                metrics,
                pace=self._pace.rows,
                clock=clock,
                writer=self._writer,
            )
            for usecase in sorted({each.usecase for each in owned})
        ]
        self._pool = ThreadPoolExecutor(max(1, min(len(owned), os.cpu_count() or 1)), "features")
        self._had_news = False
        self._ahead: Sequence[Batch] = ()  # read, and not yet folded
        now = clock()
        self._items_due = self._last_news = now
        self._checkpointed = now

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
        batches, self._ahead = self._ahead, ()
        if not batches:
            with self._metrics.part("poll"):
                batches = self._source.poll(self._patience_s())
        now = self._clock()
        if batches:
            fp("features.polled")
            with self._metrics.part("fold"):
                self._fold(batches)
            self._last_news = now
            fp("features.folded")
        self._had_news = bool(batches)
        self._end_silence()
        self._emit(now, idle=not (batches or self._ahead) and self._source.is_read())
        self._tell_changed()
        self._answer_flushes()

    def _emit(self, now: float, *, idle: bool) -> None:
        """Emit or save what is due."""
        was_running = self._is_writing
        if any(rows.is_due(now, idle=idle) for rows in self._rows):
            self._emit_users()
        if now >= self._items_at():
            self._emit_items()
        if self._is_checkpoint_due(now, emitted=was_running and not self._is_writing):
            self.checkpoint()
            self._watch(now)

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
        if self._emit_users(wait=True) and self._emit_items() and self._flush_items():
            saved = self._save()
            self._audit()
        if saved:
            self._evict()
        self._on_ready(saved and len(self._speaking()) == len(self._owned))
        self._checkpointed = self._clock()

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
        """How long a poll may wait: hardly while rows wait to be seen."""
        now = self._clock()
        due = [now + self._pace.wait_s, self._checkpoint_at()]
        look_at = now if self._had_news else now + self._pace.look_s
        due += [rows.look_at(now, look_at) for rows in self._rows]
        for each in self._speaking():
            if each.state.changed_items:
                due.append(self._items_at())
        return max(0.0, min(due) - now)

    @property
    def _is_writing(self) -> bool:
        return any(rows.is_running for rows in self._rows)

    def _is_checkpoint_due(self, now: float, *, emitted: bool) -> bool:
        """A checkpoint waits for all rows: under load it is best taken when many have just been `emitted`."""
        pace = self._pace
        from_ = self._checkpointed + (pace.checkpoint_s + max(pace.checkpoint_s, pace.checkpoint_most_s)) / 2
        return now >= (from_ if emitted else self._checkpoint_at())

    def _checkpoint_at(self) -> float:
        """When one is due; under load, not before rows are emitted anyhow."""
        from_ = max(self._checkpointed + self._pace.checkpoint_s, *(rows.next_at for rows in self._rows))
        return min(from_, self._checkpointed + max(self._pace.checkpoint_s, self._pace.checkpoint_most_s))

    def _items_at(self) -> float:
        return min(self._items_due, self._last_news + self._pace.items_idle_s)

    def _fold(self, batches: Sequence[Batch]) -> None:
        """Fold each partition's batches in their order, several partitions at once, and read on meanwhile."""
        groups: dict[tuple[str, int], list[Batch]] = {}
        for batch in batches:
            groups.setdefault((batch.place.usecase, batch.place.partition), []).append(batch)
        if sum(len(batch.records) for batch in batches) < _INLINE_RECORDS:
            done = [self._owned[key].fold(group) for key, group in groups.items()]
        else:
            done = self._at_once(lambda key: self._owned[key].fold(groups[key]), groups, beside=self._read_ahead)
        self._tell_changed()
        for group, folded in zip(groups.values(), done, strict=True):
            for batch, result in zip(group, folded, strict=True):
                self._metrics.folded(batch, result)

    def _read_ahead(self) -> None:
        self._ahead = self._source.poll(0.0)

    def _at_once(
        self, work: Callable[[K], R], keys: Collection[K], beside: Callable[[], None] = lambda: None
    ) -> list[R]:
        """`work` for all keys, on all cores, and `beside` here; none is left running, whatever one of them raises."""
        running = [self._pool.submit(work, key) for key in keys]
        try:
            beside()
        finally:
            wait(running)
        return [each.result() for each in running]

    def _tell_changed(self) -> None:
        for rows in self._rows:
            self._metrics.changed(rows.usecase, rows.changed)

    def _speaking(self) -> list[Owned]:
        """The partitions that may emit: their replay is over."""
        return [each for each in self._owned.values() if not each.silent_until]

    def _end_silence(self) -> None:
        """Partitions that have reached the end seen at their lease may emit from now on."""
        silent = [each for each in self._owned.values() if each.silent_until]
        if not silent or self._ahead:
            return
        positions = self._source.positions()
        for each in silent:
            if all(positions[each.place(kind)] >= end for kind, end in each.silent_until.items()):
                each.silent_until = {}
                each.oldest_us = None  # what was replayed is not late
        if not any(each.silent_until for each in silent):
            self._log.info("replayed", partitions=len(self._owned))
            self._refill_emptied()
            self._on_ready(self._emit_users(wait=True) and self._emit_items())

    def _refill_emptied(self) -> None:
        for each in self._speaking():
            try:
                refilled = each.refill_if_emptied()
            except StoreUnavailable:
                return  # the emission that follows says so
            if refilled:
                self._log.warning("online store is new: writing all rows", usecase=each.usecase, rows=refilled)
                self._metrics.refills.labels(each.usecase).inc()

    def _emit_users(self, *, wait: bool = False) -> bool:
        """Write changed rows, many of them beside the loop unless it is to wait; False if the store is away."""
        with self._metrics.part("rows"):
            outcomes = [rows.finish() if wait else rows.emit() for rows in self._rows]
        if not all(outcomes):
            self._on_ready(False)  # noqa: FBT003  the callback's one argument
        return all(outcomes)

    def _emit_items(self) -> bool:
        """Send changed partials, each partition's followed by its marker; False if the log takes none now."""
        with self._metrics.part("items"):
            return self._send_items()

    def _send_items(self) -> bool:
        started = self._clock()
        for each in self._speaking():
            if not each.state.changed_items:
                continue
            each.folder.check(each.epoch)
            fp("features.items_checked")
            began = self._clock()
            partials = each.state.items.partials(each.state.dirty_items())
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
        rest_s = min(self._pace.items_most_s, self._pace.items_rest * (ended - started))
        self._items_due = ended + max(self._pace.items_s, rest_s)
        return True

    def _flush_items(self) -> bool:
        try:
            with self._metrics.part("items"):
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
        speaking = self._speaking()
        try:
            with self._metrics.part("checkpoint"):
                saved = self._at_once(self._save_one, speaking)
        except CheckpointUnwritable as exc:
            self._log.error("checkpoint not written", error=str(exc))
            return False
        for each, size, took_s in saved:
            if size:
                self._metrics.checkpoint(each.usecase, each.state.partition, size, took_s)
        self._source.commit({each.place(kind): at for each in speaking for kind, at in each.saved.items()})
        return True

    def _save_one(self, each: Owned) -> tuple[Owned, int, float]:
        began = self._clock()
        size = each.save()
        return each, size, self._clock() - began

    def _evict(self) -> None:
        """Nothing is dirty and all is saved: who was active longest ago may leave."""
        try:
            with self._metrics.part("evict"):
                for each in self._speaking():
                    self._metrics.evicted.labels(each.usecase).inc(each.evict())
        except StoreUnavailable as exc:
            self._log.error("users not evicted: they take more memory than they should", error=str(exc))

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
