"""The archiver's loop: each log record once, as a row or as a dead letter."""

import queue
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import pyarrow as pa
import structlog
from definitions.records import BadRecord, LogRecord
from servicekit.errors import LogUnavailable
from servicekit.failpoints import fp
from servicekit.kit import Readiness
from servicekit.watchdog import Watchdog
from stores.errors import StoreUnavailable

from archiver.errors import DeadLettersUnavailable, FlushTimeout, RecordsGone
from archiver.log import Batch, Bounds, DeadLetters, Part, Place, Source, Stream
from archiver.metrics import Metrics

_POLL_S: Final = 0.1  # how long a flush may wait to be noticed
_RETRY_S: Final = 1.0
_LAG_EVERY_S: Final = 5.0
# So many records of a place are decoded together: a table of ten rows costs as much as one of hundreds.
_TOGETHER: Final = 256


@dataclass
class _Buffer:
    """What was read of one place and is not in the lake yet."""

    stream: Stream
    next_offset: int
    committed: int
    expected: int | None  # the table's position as this process left it; None where a commit's answer was lost
    waiting: list[LogRecord] = field(default_factory=list)  # not decoded yet
    rows: list[pa.Table] = field(default_factory=list)
    bad: list[BadRecord] = field(default_factory=list)
    nbytes: int = 0


@dataclass
class _Flush:
    """One request to archive up to the log's present end."""

    done: threading.Event = field(default_factory=threading.Event)
    ends: Mapping[Place, int] | None = None
    rows: dict[str, int] = field(default_factory=dict)
    dead_letters: int = 0
    next_offsets: dict[str, dict[str, int]] = field(default_factory=dict)


class Archiver:
    """Moves streams from the log into their tables. `run` from one thread; `flush` from any other."""

    def __init__(
        self,
        streams: Sequence[Stream],
        source: Source,
        dead_letters: DeadLetters,
        *,
        ready: Readiness,
        metrics: Metrics,
        commit_s: float = 30.0,
        buffer_bytes: int = 32 << 20,
        accept_loss: bool = False,
    ) -> None:
        """Rows are committed every `commit_s`, or earlier when `buffer_bytes` of them wait.

        `accept_loss`: begin at the log's first record where those before it are gone, instead of raising RecordsGone.
        """
        self._streams = {stream.topic: stream for stream in streams}
        self._source = source
        self._dead_letters = dead_letters
        self._ready = ready
        self._metrics = metrics
        self._commit_s = commit_s
        self._buffer_bytes = buffer_bytes
        self._accept_loss = accept_loss
        self._buffers: dict[Place, _Buffer] = {}
        self._retrying = False
        self._watchdog = Watchdog()
        self._flushes: queue.SimpleQueue[_Flush] = queue.SimpleQueue()
        self._flushing: list[_Flush] = []
        self._write_at = 0.0
        self._lag_at = 0.0
        self._log: structlog.stdlib.BoundLogger = structlog.get_logger("archiver.loop")

    def run(self, stop: threading.Event) -> None:
        """Archive until `stop`, then write what was read.

        Rows and the offset after them are one commit, and dead letters are acknowledged before it, so a kill at any
        line costs a repeat that the table drops, or a dead letter twice.

        Raises:
            NewerWriter: another process owns a partition. End; never retry.
            RecordsGone: records between the archived ones and the log were lost.
            LogError: the log refuses for good. What a retry may help is waited for.
        """
        self._resume(stop)
        while not stop.is_set():
            if self._buffered() < self._buffer_bytes:
                self._read(stop)
            else:
                stop.wait(_POLL_S)  # the lake does not take what is there already
            self._take_flushes()
            if self._is_due():
                self._write()
            self._end_flushes()
            self._measure()
        self._write()

    def flush(self, timeout_s: float = 60.0) -> dict[str, Any]:
        """Archive everything that is on the log now; next offsets by topic and partition, what this call wrote.

        Raises:
            FlushTimeout: not within `timeout_s`.
        """
        flush = _Flush()
        self._flushes.put(flush)
        if not flush.done.wait(timeout_s):
            raise FlushTimeout(f"not archived within {timeout_s} s; the archiver's log says why")
        return {"next_offsets": flush.next_offsets, "rows": flush.rows, "dead_letters": flush.dead_letters}

    # The parts of a turn ---------------------------------------------------------------------------------------

    def _resume(self, stop: threading.Event) -> None:
        """The output says where to go on. Waits for a log or lake that is away."""
        while not stop.is_set():
            try:
                bounds = self._source.bounds()
                for place in self._source.places:
                    stream = self._streams[place.topic]
                    archived = stream.table.next_offset(place)
                    offset = self._first_wanted(place, archived, bounds[place])
                    self._buffers[place] = _Buffer(stream, offset, committed=archived, expected=archived)
                self._source.start({place: buffer.next_offset for place, buffer in self._buffers.items()})
            except (LogUnavailable, StoreUnavailable) as exc:
                self._log.warning("cannot resume yet", error=str(exc))
                stop.wait(_RETRY_S)
            else:
                self._write_at = time.monotonic() + self._commit_s
                self._ready.set("log", holds=True)
                self._ready.set("lake", holds=True)
                return

    def _first_wanted(self, place: Place, archived: int, log: Bounds) -> int:
        """Where to go on: after what is archived; at the log's first record where nothing is.

        An offset past the log's end is the broker's to refuse (OffsetGone at the first poll): the embedded one answers
        the end of its last batch's first record, so its answer proves nothing.
        """
        if 0 < archived < log.first and not self._accept_loss:
            raise RecordsGone(
                f"{place}: archived up to offset {archived}, but the log begins at {log.first}: retention removed what "
                "lies between; to go on without it, start once with MILLRACE_ACCEPT_LOSS=true"
            )
        return max(archived, log.first)

    def _read(self, stop: threading.Event) -> None:
        try:
            batches = self._source.poll(_POLL_S)
        except LogUnavailable as exc:
            self._log.warning("log unavailable", error=str(exc))
            self._ready.set("log", holds=False)
            stop.wait(_RETRY_S)
            return
        self._ready.set("log", holds=True)
        if batches:
            fp("archiver.polled")
        for batch in batches:
            self._take(batch)

    def _take(self, batch: Batch) -> None:
        buffer = self._buffers[batch.place]
        # What a retried read brings again is in the buffer already.
        records = [record for record in batch.records if record.offset >= buffer.next_offset]
        buffer.waiting.extend(records)
        lost = [each for each in batch.lost if each.offset >= buffer.next_offset]
        buffer.bad.extend(lost)
        buffer.nbytes += sum(map(_size, records)) + sum(map(_size, lost))
        buffer.next_offset = max(buffer.next_offset, batch.next_offset)
        if len(buffer.waiting) >= _TOGETHER:
            _decode(batch.place, buffer)

    def _buffered(self) -> int:
        return sum(buffer.nbytes for buffer in self._buffers.values())

    def _is_due(self) -> bool:
        if time.monotonic() >= self._write_at:
            return True
        return not self._retrying and (self._buffered() >= self._buffer_bytes or self._flush_is_complete())

    def _write(self) -> None:
        """Dead letters, then one commit a table. What fails for now is tried again in a second."""
        for place, buffer in self._buffers.items():
            _decode(place, buffer)
        try:
            self._send_dead_letters()
            for stream in self._streams.values():
                self._commit(stream)
        except (DeadLettersUnavailable, StoreUnavailable) as exc:
            self._log.warning("not archived, will try again", error=str(exc), kind=type(exc).__name__)
            self._metrics.failures.labels(type(exc).__name__).inc()
            self._retrying = True
        else:
            self._retrying = False
        self._ready.set("lake", not self._retrying)
        self._write_at = time.monotonic() + (_RETRY_S if self._retrying else self._commit_s)

    def _send_dead_letters(self) -> None:
        letters = [(place, each) for place, buffer in self._buffers.items() for each in buffer.bad]
        if not letters:
            return
        fp("archiver.before_dead_letters")
        self._dead_letters.publish(letters)  # acknowledged first: a repeat is harmless, a loss is not
        fp("archiver.dead_letters_sent")
        reasons = Counter(each.reason_name for _, each in letters)
        for reason, count in reasons.items():
            self._metrics.dead_letters.labels(reason).inc(count)
        # Neither detail nor key: they hold user ids, which no log shows.
        self._log.warning("dead letters", reasons=dict(reasons), first=f"{letters[0][0]} offset {letters[0][1].offset}")
        for buffer in self._buffers.values():
            buffer.bad.clear()
        for flush in self._flushing:
            flush.dead_letters += len(letters)

    def _commit(self, stream: Stream) -> None:
        """Rows and positions of all the topic's partitions that have moved."""
        moved = {
            place: buffer
            for place, buffer in self._buffers.items()
            if buffer.stream is stream and buffer.next_offset > buffer.committed
        }
        if not moved:
            return
        empty = stream.decode(0, []).rows
        parts = [
            Part(place, pa.concat_tables([empty, *buffer.rows]), buffer.next_offset, buffer.expected)
            for place, buffer in moved.items()
        ]
        fp("archiver.before_commit")
        try:
            with self._metrics.commit_seconds.labels(stream.topic).time():
                written = stream.table.append(parts)
                fp("archiver.committed")
        except StoreUnavailable:
            for buffer in moved.values():
                buffer.expected = None  # it may have been written: the table drops what it has
            raise
        for buffer in moved.values():
            buffer.rows.clear()
            buffer.nbytes = 0
            buffer.committed = buffer.expected = buffer.next_offset
        self._metrics.rows.labels(stream.topic).inc(written)
        self._log.info("archived", topic=stream.topic, rows=written, partitions=len(parts))
        for flush in self._flushing:
            flush.rows[stream.topic] = flush.rows.get(stream.topic, 0) + written

    # Flushes ---------------------------------------------------------------------------------------------------

    def _take_flushes(self) -> None:
        if self._flushes.empty():
            return
        try:
            ends = {place: bounds.end for place, bounds in self._source.bounds().items()}
        except LogUnavailable:
            return  # asked again next turn
        while not self._flushes.empty():
            flush = self._flushes.get_nowait()
            flush.ends = ends
            self._flushing.append(flush)

    def _flush_is_complete(self) -> bool:
        """Everything that a waiting flush asked for has been read."""
        if not self._flushing:
            return False
        positions = self._source.positions()
        return any(_reached(positions, flush.ends or {}) for flush in self._flushing)

    def _end_flushes(self) -> None:
        """Answer those whose records are all in the lake."""
        if not self._flushing or any(b.bad or b.next_offset > b.committed for b in self._buffers.values()):
            return
        positions = self._source.positions()
        for flush in list(self._flushing):
            if _reached(positions, flush.ends or {}):
                for place, buffer in self._buffers.items():
                    # Offsets without records behind the last one count as archived.
                    reached = max(buffer.committed, positions[place])
                    flush.next_offsets.setdefault(place.topic, {})[str(place.partition)] = reached
                self._flushing.remove(flush)
                flush.done.set()

    def _measure(self) -> None:
        if time.monotonic() < self._lag_at:
            return
        self._lag_at = time.monotonic() + _LAG_EVERY_S
        behind = dict.fromkeys(self._streams, 0)
        for place, lag in self._source.lags().items():
            behind[place.topic] += lag
        for topic, lag in behind.items():
            self._metrics.lag.labels(topic).set(lag)
        self._metrics.buffered.set(self._buffered())
        self._watch()

    def _watch(self) -> None:
        """Places that stand although the log goes on are assigned again; Stalled the third time."""
        if self._buffered() >= self._buffer_bytes:
            return  # nothing is asked for: the lake does not take what is there
        positions = self._source.positions()
        if stalled := self._watchdog.stalled(time.monotonic(), positions, self._ends):
            self._log.warning("reading has stalled: assigning again", places=[str(place) for place in stalled])
            self._metrics.stalls.inc(len(stalled))
            self._source.start(positions)

    def _ends(self) -> Mapping[Place, int] | None:
        try:
            return {place: bounds.end for place, bounds in self._source.bounds().items()}
        except LogUnavailable:
            return None


def _size(record: LogRecord | BadRecord) -> int:
    return len(record.value or b"")


def _decode(place: Place, buffer: _Buffer) -> None:
    """What waits becomes rows and bad records."""
    if not buffer.waiting:
        return
    rows, bad = buffer.stream.decode(place.partition, buffer.waiting)
    if len(rows):
        buffer.rows.append(rows)
    buffer.bad.extend(bad)
    buffer.nbytes += rows.nbytes + sum(len(each.value or b"") for each in bad) - sum(map(_size, buffer.waiting))
    buffer.waiting.clear()


def _reached(positions: Mapping[Place, int], ends: Mapping[Place, int]) -> bool:
    return all(positions[place] >= end for place, end in ends.items())
