"""The bridge between the producer's threads and the event loop: bounded, never a false acknowledgement."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from collector.collecting import Place, Record
from collector.errors import LogDown, Overloaded
from collector.kafka_log import KafkaLog
from collector.metrics import Metrics
from kafka import errors as kafka_errors
from kafka.future import Future
from prometheus_client import CollectorRegistry

RECORDS = [Record(b"key", b"value")] * 3


@dataclass
class Producer:
    """A producer whose records wait until the test settles them, from another thread as the real one does."""

    waiting: list[Future] = field(default_factory=list)
    sent: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    refuses: Exception | None = None
    closed: bool = False

    def send(self, *_: object, **__: object) -> Future:
        if self.refuses is not None:
            raise self.refuses
        self.waiting.append(Future())
        self.sent.release()
        return self.waiting[-1]

    def flush(self, **_: object) -> None:
        if self.waiting:
            raise kafka_errors.KafkaTimeoutError("records wait")

    def close(self, **_: object) -> None:
        self.closed = True

    async def settle(self, count: int, outcome: Callable[[int], object]) -> None:
        """Wait for `count` records and settle each with a place, or with an error."""

        def work() -> None:
            for index in range(count):
                assert self.sent.acquire(timeout=5)
                result = outcome(index)
                future = self.waiting.pop(0)
                future.failure(result) if isinstance(result, Exception) else future.success(result)

        await asyncio.get_running_loop().run_in_executor(None, work)


def at(offset: int) -> Any:
    return SimpleNamespace(partition=1, offset=offset)


@dataclass
class Bench:
    """A log under test, its producers in the order of making, and what it said of the broker."""

    log: KafkaLog
    producers: list[Producer]
    states: list[bool]


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    producers: list[Producer] = []
    states: list[bool] = []

    def make(bootstrap: str, **settings: Any) -> Producer:
        producers.append(Producer())
        return producers[-1]

    log = KafkaLog(
        "nowhere:1",
        Metrics(CollectorRegistry()),
        linger_ms=5,
        delivery_timeout_s=1.0,
        max_in_flight=5,
        connect_s=1.0,
        on_state=states.append,
        make_producer=make,
    )
    yield Bench(log, producers, states)
    log.close(0.1)


async def test_places_come_in_the_order_of_the_records(bench: Bench) -> None:
    """Whatever the order of the acknowledgements' arrival within the batch."""
    appended = asyncio.ensure_future(bench.log.append("t", RECORDS, 5.0, wait=False))
    await bench.producers[0].settle(3, lambda index: at(10 + index))

    assert [Place(1, 10), Place(1, 11), Place(1, 12)] == await appended


async def test_one_lost_record_fails_its_batch(bench: Bench) -> None:
    """Two of three on the log is no acknowledgement of three."""
    appended = asyncio.ensure_future(bench.log.append("t", RECORDS, 5.0, wait=False))
    await bench.producers[0].settle(
        3, lambda index: kafka_errors.KafkaTimeoutError("late") if index == 1 else at(index)
    )

    with pytest.raises(LogDown, match="late"):
        await appended
    assert [True, False] == bench.states


async def test_an_acknowledgement_without_an_offset_is_none(bench: Bench) -> None:
    """Callers wait for offsets: a made-up one would let them read the past."""
    appended = asyncio.ensure_future(bench.log.append("t", RECORDS, 5.0, wait=False))
    await bench.producers[0].settle(3, lambda index: at(-1 if index == 2 else index))

    with pytest.raises(LogDown, match="without an offset"):
        await appended


async def test_a_late_acknowledgement_frees_its_room(bench: Bench) -> None:
    """The caller was told "unknown" at its deadline; the records count as in flight until the broker has spoken."""
    with pytest.raises(LogDown, match="acknowledge"):
        await bench.log.append("t", RECORDS, 0.02, wait=False)
    with pytest.raises(Overloaded, match="3 records"):
        await bench.log.append("t", RECORDS, 0.02, wait=False)

    waiting = asyncio.ensure_future(bench.log.append("t", RECORDS, 5.0, wait=True))
    await bench.producers[0].settle(6, at)

    assert 3 == len(await waiting)


async def test_who_waits_for_room_in_vain_is_told_within_its_budget(bench: Bench) -> None:
    """And leaves no reservation behind."""
    first = asyncio.ensure_future(bench.log.append("t", RECORDS, 5.0, wait=False))
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await bench.log.append("t", RECORDS, 0.02, wait=True)

    await bench.producers[0].settle(3, at)
    await first
    second = asyncio.ensure_future(bench.log.append("t", RECORDS, 5.0, wait=False))
    await bench.producers[0].settle(3, at)

    assert 3 == len(await second)


async def test_a_batch_larger_than_all_the_room_passes_alone(bench: Bench) -> None:
    """It must not wait for ever."""
    appended = asyncio.ensure_future(bench.log.append("t", RECORDS * 3, 5.0, wait=False))
    await bench.producers[0].settle(9, at)

    assert 9 == len(await appended)


async def test_a_producer_that_lost_its_sequence_is_replaced(bench: Bench) -> None:
    """The next batch goes through a new one; the broker itself is well."""
    broken = asyncio.ensure_future(bench.log.append("t", RECORDS, 5.0, wait=False))
    await bench.producers[0].settle(3, lambda _: kafka_errors.OutOfOrderSequenceNumberError())
    with pytest.raises(LogDown):
        await broken

    appended = asyncio.ensure_future(bench.log.append("t", RECORDS, 5.0, wait=False))
    while len(bench.producers) == 1:  # noqa: ASYNC110  the sender's thread makes it
        await asyncio.sleep(0.001)
    await bench.producers[1].settle(3, at)

    assert 3 == len(await appended)
    assert bench.producers[0].closed


async def test_a_send_that_raises_fails_the_batch(bench: Bench) -> None:
    """For example where the topic's metadata cannot be had."""
    bench.producers[0].refuses = kafka_errors.KafkaTimeoutError("no metadata")

    with pytest.raises(LogDown, match="no metadata"):
        await bench.log.append("t", RECORDS, 5.0, wait=False)


async def test_a_silent_broker_is_noticed_whatever_the_callers_deadlines(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each caller gives up long before the stall shows: what counts is the age of the oldest batch unsettled."""
    monkeypatch.setattr("collector.kafka_log.STALLED_S", 0.1)
    for _ in range(2):
        with pytest.raises(LogDown, match="acknowledge"):
            await bench.log.append("t", RECORDS[:1], 0.06, wait=False)

    assert [True, False] == bench.states


async def test_a_silent_broker_is_noticed_without_callers(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A watch between requests; once all is settled there is nothing to notice."""
    monkeypatch.setattr("collector.kafka_log.STALLED_S", 0.05)
    with pytest.raises(LogDown, match="acknowledge"):
        await bench.log.append("t", RECORDS, 0.01, wait=False)
    bench.log.watch()
    assert [True] == bench.states

    await asyncio.sleep(0.06)
    bench.log.watch()
    assert [True, False] == bench.states

    await bench.producers[0].settle(3, at)
    await asyncio.sleep(0.01)
    bench.log.watch()
    assert [True, False, True] == bench.states


async def test_a_late_success_brings_the_broker_back(bench: Bench) -> None:
    """Readiness follows what the broker does; while it is away callers are refused at once, not queued."""
    late = asyncio.ensure_future(bench.log.append("t", RECORDS, 5.0, wait=False))
    await asyncio.get_running_loop().run_in_executor(None, bench.producers[0].sent.acquire)
    bench.producers[0].sent.release()
    bench.producers[0].refuses = kafka_errors.KafkaTimeoutError("away")
    for _ in range(2):
        with pytest.raises(LogDown, match="away"):
            await bench.log.append("t", RECORDS[:1], 5.0, wait=False)
    assert [True, False] == bench.states

    await bench.producers[0].settle(3, at)
    await late

    assert [True, False, True] == bench.states
