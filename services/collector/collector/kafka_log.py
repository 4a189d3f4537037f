"""The log on Kafka: one idempotent producer, its acknowledgements bridged to the event loop without blocking it."""

import asyncio
import contextlib
import functools
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import structlog
from servicekit import errors as kit_errors
from servicekit import kafka

from collector.collecting import Place, Record
from collector.errors import LogDown, Overloaded
from collector.metrics import Metrics

log: structlog.stdlib.BoundLogger = structlog.get_logger("collector.kafka_log")

STALLED_S: Final = 3.0  # a batch unsettled for longer means a broker that is away, whatever its caller's deadline


class KafkaLog:
    """Appends to Kafka with acks=all. `append` and `probe` belong to one event loop.

    At most `max_in_flight` records wait for the broker: the client library itself would buffer without bound.
    """

    def __init__(
        self,
        bootstrap: str,
        metrics: Metrics,
        *,
        linger_ms: int,
        delivery_timeout_s: float,
        max_in_flight: int,
        connect_s: float,
        on_state: Callable[[bool], None],
        make_producer: Callable[..., Any] = kafka.make_producer,
    ) -> None:
        """Raises LogUnavailable where no broker answers. `on_state` is told whether the broker takes records."""
        self._make = functools.partial(
            make_producer, bootstrap, linger_ms=linger_ms, delivery_timeout_s=delivery_timeout_s
        )
        self._bootstrap = bootstrap
        self._metrics = metrics
        self._max_in_flight = max_in_flight
        self._on_state = on_state
        self._in_flight = 0
        self._unsettled: dict[_Batch, None] = {}  # oldest first; no set: those have no order
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        # One thread: sending is CPU work and may block for metadata, and records keep the order of their requests.
        self._sender = ThreadPoolExecutor(1, thread_name_prefix="produce")
        self._prober = ThreadPoolExecutor(1, thread_name_prefix="probe")
        self._producer: Any = self._make(connect_s=connect_s)
        self._is_up = True
        on_state(True)  # noqa: FBT003  the callback's one argument
        metrics.in_flight(lambda: float(self._in_flight))

    async def append(self, topic: str, records: Sequence[Record], budget_s: float, *, wait: bool) -> Sequence[Place]:
        """As `Log.append`. While the broker is known to be away it refuses at once: what it queued would land late."""
        if not self._is_up:
            raise LogDown("the log is away; nothing was sent")
        began = time.monotonic()
        await self._take(len(records), budget_s, wait=wait)
        loop = asyncio.get_running_loop()
        batch = _Batch(len(records), loop, self._settle)
        self._unsettled[batch] = None
        ends = began + budget_s
        self._sender.submit(self._send, topic, records, batch, ends)
        try:
            async with asyncio.timeout(max(0.0, ends - time.monotonic())):
                failure = await asyncio.shield(batch.settled)
        except TimeoutError:
            self.watch()
            self._metrics.log_failed()
            raise LogDown(f"the log did not acknowledge within {budget_s:.3f} s; send them again as they are") from None
        if failure is not None:
            self._metrics.log_failed()
            raise LogDown(
                f"the log did not take the records: {failure}; send again with the same event_ids"
            ) from failure
        self._metrics.appended(time.monotonic() - began)
        return batch.places()

    def watch(self) -> None:
        """Note that the broker is away where a batch waits for too long, also one that its caller has given up."""
        oldest = next(iter(self._unsettled), None)
        if oldest is not None and oldest.age_s() > STALLED_S:
            self._note(is_up=False)

    async def probe(self, topic: str) -> bool:
        """Ask the broker for `topic`'s end; notes and returns whether it answered."""
        ask = functools.partial(kafka.end_offsets, self._bootstrap, topic, connect_s=2.0)
        try:
            await asyncio.get_running_loop().run_in_executor(self._prober, ask)
        except kit_errors.LogError:
            return False
        self._note(is_up=True)
        return True

    @property
    def is_up(self) -> bool:
        """Whether the broker took the last batch or answered the last probe."""
        return self._is_up

    def close(self, timeout_s: float) -> None:
        """Send what is buffered, waiting up to `timeout_s`; blocks."""
        self._sender.shutdown(wait=True, cancel_futures=True)
        self._prober.shutdown(wait=False, cancel_futures=True)
        if self._producer is None:
            return
        try:
            with kafka.translated("flushing the producer"):
                self._producer.flush(timeout=timeout_s)
        except kit_errors.LogError as exc:
            log.warning("records left unsent; their callers were told UNAVAILABLE", error=str(exc))
        self._producer.close(timeout=0)

    async def _take(self, count: int, budget_s: float, *, wait: bool) -> None:
        """Reserve room for `count` records, in the order of asking; a batch larger than all the room passes alone."""
        if not self._waiting and self._fits(count):
            self._in_flight += count
            return
        if not wait:
            raise Overloaded(f"{self._in_flight} records wait for the log; at most {self._max_in_flight} may")
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((count, turn))
        try:
            async with asyncio.timeout(budget_s):
                await turn
        except BaseException as exc:
            if turn.done() and not turn.cancelled():  # admitted in the moment of giving up
                self._release(count)
            turn.cancel()
            if isinstance(exc, TimeoutError):
                raise Overloaded(f"no room within {budget_s:.3f} s; {self._in_flight} records wait") from None
            raise

    def _fits(self, count: int) -> bool:
        return self._in_flight == 0 or self._in_flight + count <= self._max_in_flight

    def _release(self, count: int) -> None:
        self._in_flight -= count
        while self._waiting:
            wanted, turn = self._waiting[0]
            if not turn.done():
                if not self._fits(wanted):
                    return
                self._in_flight += wanted
                turn.set_result(None)
            self._waiting.popleft()

    def _send(self, topic: str, records: Sequence[Record], batch: "_Batch", ends: float) -> None:
        """In the sender's thread. Whatever happens, each record ends as placed or failed."""
        sent = 0
        try:
            if time.monotonic() >= ends:
                raise kit_errors.LogUnavailable("the deadline passed before the records were sent")
            with kafka.translated(f"sending to {topic}"):
                if self._producer is None:
                    self._producer = self._make(connect_s=2.0)
                batch.producer = self._producer
                for record in records:
                    future = self._producer.send(topic, value=record.value, key=record.key)
                    future.add_callback(batch.place, sent)
                    future.add_errback(batch.fail)
                    sent += 1
        except Exception as exc:  # noqa: BLE001  nobody awaits this thread's result: the batch carries the error
            batch.fail(exc, len(records) - sent)

    def _settle(self, batch: "_Batch") -> None:
        """In the event loop, once all records of a batch are placed or failed."""
        del self._unsettled[batch]
        self._release(batch.size)
        if (failure := batch.failure) is None:
            self._note(is_up=True)
        else:
            error = failure if isinstance(failure, kit_errors.LogError) else kafka.translate(failure, "producing")
            log.warning("batch failed", records=batch.size, error=str(error))
            if isinstance(error, kit_errors.LogUnavailable | kit_errors.UnknownTopic):
                self._note(is_up=False)
            else:
                self._sender.submit(self._replace, batch.producer)
        batch.settled.set_result(failure)

    def _replace(self, broken: Any) -> None:
        """In the sender's thread: an idempotent producer that lost its sequence can send nothing more."""
        if broken is not None and broken is self._producer:
            self._producer = None  # the next batch makes one
            broken.close(timeout=0.5)

    def _note(self, *, is_up: bool) -> None:
        if is_up != self._is_up:
            self._is_up = is_up
            self._on_state(is_up)


class _Batch:
    """Records that are answered together. Filled by the producer's threads, settled once in the event loop."""

    def __init__(self, size: int, loop: asyncio.AbstractEventLoop, on_settled: Callable[["_Batch"], None]) -> None:
        self.size = size
        self.failure: Exception | None = None
        self.producer: Any = None
        self.settled: asyncio.Future[Exception | None] = loop.create_future()
        self._loop = loop
        self._on_settled = on_settled
        self._began = time.monotonic()
        self._lock = threading.Lock()
        self._left = size
        self._places: list[Place | None] = [None] * size

    def place(self, index: int, metadata: Any) -> None:
        """The broker has record `index`."""
        if metadata.offset < 0:  # a duplicate whose place the broker forgot: on the log, but nobody knows where
            self.fail(kit_errors.LogUnavailable("acknowledged without an offset"))
            return
        self._places[index] = Place(metadata.partition, metadata.offset)
        self._finish(1)

    def fail(self, error: Exception, count: int = 1) -> None:
        """`count` records were given up."""
        self.failure = self.failure or error
        self._finish(count)

    def places(self) -> list[Place]:
        """All places; only of a batch without failure."""
        return [place for place in self._places if place is not None]

    def age_s(self) -> float:
        """Seconds since the batch was made."""
        return time.monotonic() - self._began

    def _finish(self, count: int) -> None:
        with self._lock:
            self._left -= count
            if self._left:
                return
        with contextlib.suppress(RuntimeError):  # the loop has closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._on_settled, self)
