"""One suite for every broker: what `servicekit.kafka` promises of the log, on the embedded broker and on Kafka."""

import gc
import itertools
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kafka import KafkaProducer
from kafka.errors import KafkaTimeoutError
from local_stack import process
from local_stack.components.tansu import tansu
from local_stack.home import Home
from local_stack.ports import Ports
from local_stack.topics import create_topics, declared_topics
from servicekit import errors, kafka
from servicekit.topics import id_key, topic

TOPICS = Path(__file__).parents[2] / "infra" / "kafka" / "topics.yaml"
DEADLINE_S = 20.0

_numbers = itertools.count(time.time_ns() // 1_000_000)


@pytest.fixture(params=["embedded", pytest.param("real", marks=pytest.mark.real)])
def broker(request: pytest.FixtureRequest) -> str:
    name = "kafka" if request.param == "real" else "embedded_kafka"
    return str(request.getfixturevalue(name))


@pytest.fixture
def usecase(broker: str) -> str:
    """A use case of this test alone, with its declared topics."""
    name = f"log{next(_numbers)}"
    create_topics(broker, declared_topics(TOPICS, [name]))
    return name


@pytest.fixture
def producer(broker: str) -> KafkaProducer:
    made = kafka.make_producer(broker)
    yield made
    made.close(timeout=5)


def until(holds: Callable[[], bool]) -> None:
    """Wait for a condition, to a deadline."""
    ends = time.monotonic() + DEADLINE_S
    while not holds():
        assert time.monotonic() < ends, "waited in vain"
        time.sleep(0.002)


class Seen:
    """A handler that keeps what it is given."""

    def __init__(self) -> None:
        self.records: list[tuple[int, int, bytes | None, bytes | None]] = []

    def __call__(self, partition: int, offset: int, key: bytes | None, value: bytes | None) -> None:
        self.records.append((partition, offset, key, value))


def test_the_log_has_one_identity(broker: str) -> None:
    """Offsets are worth something only together with it."""
    assert kafka.log_id(broker)
    assert kafka.log_id(broker) == kafka.log_id(broker)


def test_topics_have_their_declared_partitions(broker: str, usecase: str) -> None:
    """`users` and `interactions` must agree: one worker owns both halves of a row."""
    assert 4 == kafka.partitions_of(broker, topic(usecase, "interactions"))
    assert 4 == kafka.partitions_of(broker, topic(usecase, "users"))
    assert 1 == kafka.partitions_of(broker, topic(usecase, "items"))


def test_a_topic_that_nobody_declared_is_an_error(broker: str) -> None:
    """It is never created by asking: its partitions and retention would be anybody's."""
    for _ in range(2):
        with pytest.raises(errors.UnknownTopic, match=r"nobody\.items.*topics\.yaml"):
            kafka.partitions_of(broker, "nobody.items", connect_s=0.3)


def test_the_end_counts_every_record_of_the_newest_batch(broker: str, usecase: str, producer: KafkaProducer) -> None:
    """Who waits for the end of the log must not stop within a batch."""
    name = topic(usecase, "interactions")
    for size in (1, 7, 1, 12):
        sent = [producer.send(name, key=id_key(1), value=b"v", partition=2) for _ in range(size)]
        producer.flush(timeout=DEADLINE_S)
        newest = sent[-1].get(timeout=DEADLINE_S).offset

        assert {0: 0, 1: 0, 2: newest + 1, 3: 0} == kafka.end_offsets(broker, name)


def test_acknowledged_records_lie_where_they_were_said_to(broker: str, usecase: str, producer: KafkaProducer) -> None:
    """Offsets run without gaps in each partition, and the same key has the same partition in both topics."""
    name = topic(usecase, "interactions")
    places = [producer.send(name, key=id_key(user), value=b"%d" % user).get(DEADLINE_S) for user in range(1, 41)]
    users = [producer.send(topic(usecase, "users"), key=id_key(u), value=b"u").get(DEADLINE_S) for u in range(1, 41)]

    seen = Seen()
    reader = kafka.TopicReader(broker, name, seen)
    reader.start()
    reader.wait_caught_up(DEADLINE_S)
    reader.stop()

    said = {(place.partition, place.offset): b"%d" % user for user, place in zip(range(1, 41), places, strict=True)}
    assert said == {(partition, offset): value for partition, offset, _, value in seen.records}
    assert kafka.end_offsets(broker, name) == reader.positions
    assert [place.partition for place in places] == [place.partition for place in users]
    assert len({place.partition for place in places}) > 1


def test_a_reader_of_an_empty_topic_has_caught_up(broker: str, usecase: str) -> None:
    """A fresh stack becomes ready."""
    reader = kafka.TopicReader(broker, topic(usecase, "items"), Seen())
    reader.start()

    reader.wait_caught_up(DEADLINE_S)
    reader.stop()

    assert {0: 0} == reader.positions


def test_a_reader_tails_within_a_second_and_sees_tombstones(broker: str, usecase: str, producer: KafkaProducer) -> None:
    """In order, each record once; a tombstone is a key without a value."""
    name = topic(usecase, "items")
    seen = Seen()
    reader = kafka.TopicReader(broker, name, seen)
    reader.start()
    reader.wait_caught_up(DEADLINE_S)

    producer.send(name, key=id_key(7), value=b"item")
    producer.send(name, key=id_key(7), value=None).get(DEADLINE_S)
    began = time.monotonic()
    until(lambda: len(seen.records) == 2)
    reader.stop()

    assert [(0, 0, id_key(7), b"item"), (0, 1, id_key(7), None)] == seen.records
    assert time.monotonic() - began < 1.0


def test_a_reader_takes_only_its_partitions(broker: str, usecase: str, producer: KafkaProducer) -> None:
    """A replica reads what it owns."""
    name = topic(usecase, "interactions")
    for partition in range(4):
        producer.send(name, key=id_key(1), value=b"x", partition=partition).get(DEADLINE_S)
    seen = Seen()
    reader = kafka.TopicReader(broker, name, seen, partitions=[1, 3])
    reader.start()
    reader.wait_caught_up(DEADLINE_S)
    reader.stop()

    assert [1, 3] == sorted(partition for partition, _, _, _ in seen.records)


def test_a_handler_that_raises_ends_its_reader_and_is_told(broker: str, usecase: str, producer: KafkaProducer) -> None:
    """A snapshot that stands still unseen would serve old data for ever."""
    name = topic(usecase, "items")
    producer.send(name, key=id_key(7), value=b"item").get(DEADLINE_S)
    told = threading.Event()

    def handler(*_: object) -> None:
        raise LookupError("cannot use it")

    reader = kafka.TopicReader(broker, name, handler, on_failure=lambda _: told.set())
    reader.start()

    assert told.wait(DEADLINE_S)
    with pytest.raises(errors.HandlerFailed, match="cannot use it"):
        reader.wait_caught_up(DEADLINE_S)


def test_an_offset_that_the_log_does_not_have_is_refused(broker: str, usecase: str, producer: KafkaProducer) -> None:
    """Silently starting elsewhere would lose records, or count them twice."""
    name = topic(usecase, "items")
    producer.send(name, key=id_key(7), value=b"item").get(DEADLINE_S)
    with kafka.opened_consumer(broker) as consumer:
        kafka.assign(consumer, name, {0: 1})
        with pytest.raises(errors.OffsetGone, match=r"offset 2 is not on the log"):
            kafka.assign(consumer, name, {0: 2})


@pytest.fixture
def mortal_broker(tmp_path: Path) -> Iterator[tuple[str, Callable[[], None]]]:
    """`host:port` of a broker of this test alone, and how to kill it."""
    ports = Ports.free()
    home = Home(tmp_path)
    home.make()
    run = process.start(tansu(ports), home, os.environ)
    process.await_ready(run, DEADLINE_S)

    def kill() -> None:
        os.killpg(run.pid, signal.SIGKILL)
        until(lambda: run.process() is None)

    yield f"127.0.0.1:{ports.kafka}", kill
    process.stop(run, home)


# kafka-python leaves the socket of a refused try to the garbage collector
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_record_fails_in_time_also_where_its_producer_waits_for_an_id(
    mortal_broker: tuple[str, Callable[[], None]],
) -> None:
    """Else a dead broker would go unnoticed, and what is sent to it would pile up. Closing ends the wait too."""
    address, kill = mortal_broker
    create_topics(address, declared_topics(TOPICS, ["mortal"]))
    producer = kafka.make_producer(address, delivery_timeout_s=1.0)
    producer.send(topic("mortal", "interactions"), value=b"v").get(DEADLINE_S)
    kill()
    producer._transaction_manager.reset_producer_id()  # as kafka-python does where a sent batch expires

    for _ in range(2):
        with pytest.raises(KafkaTimeoutError, match="expired"):
            producer.send(topic("mortal", "interactions"), value=b"v").get(5.0)
    waits = producer.send(topic("mortal", "interactions"), value=b"v")
    producer.close(timeout=0)
    until(lambda: waits.is_done)

    assert waits.failed()
    until(lambda: not producer._sender.is_alive())
    gc.collect()  # those sockets, within this test
