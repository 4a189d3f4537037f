"""The column reader gives what kafka-python's own consumer gives, from brokers; and a broken segment costs itself."""

import itertools
import struct
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from crc32c import crc32c
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from local_stack.home import Home
from local_stack.topics import Topic, create_topics
from servicekit import kafka
from servicekit.kafka import column_reader, column_writer
from servicekit.kafka.column_reader import ColumnReader, Item
from servicekit.kafka.column_writer import send_columns
from servicekit.kafka.columns import CorruptBatch, RecordColumns
from servicekit.topics import id_key

DEADLINE_S = 20.0
HEADER_BYTES = 61

Record = tuple[int, int, bytes | None, bytes | None]  # offset, milliseconds, key, value

_numbers = itertools.count(time.time_ns() // 1_000_000)


@pytest.fixture(params=["embedded", pytest.param("real", marks=pytest.mark.real)])
def broker(request: pytest.FixtureRequest) -> str:
    name = "kafka" if request.param == "real" else "embedded_kafka"
    return str(request.getfixturevalue(name))


def new_topic(broker: str, settings: Mapping[str, str] | None = None) -> str:
    """A topic of one partition, of this test alone."""
    name = f"columns{next(_numbers)}"
    create_topics(broker, [Topic(name, 1, dict(settings or {}))])
    return name


def send(broker: str, topic: str, values: Sequence[bytes | None], **settings: Any) -> None:
    """Records in as few batches as they fit into; keys count from 1."""
    producer = KafkaProducer(bootstrap_servers=broker, linger_ms=200, acks="all", **settings)
    sent = [
        producer.send(topic, key=id_key(n) if n % 5 or value is None else None, value=value)
        for n, value in enumerate(values, start=1)
    ]
    producer.flush(timeout=DEADLINE_S)
    for each in sent:
        each.get(DEADLINE_S)
    producer.close(timeout=5)


def read(broker: str, topic: str, offset: int, end: int, **settings: Any) -> tuple[list[Item], list[Record]]:
    """Everything up to the end, as columns and as kafka-python's own records."""
    columns: list[Item] = []
    with_columns = kafka.make_consumer(broker, **settings)
    kafka.assign(with_columns, topic, {0: offset})
    reader = ColumnReader(with_columns)
    read_to(with_columns, end, lambda: columns.extend(each for found in reader.poll(0.1).values() for each in found))
    stock: list[Record] = []
    consumer = kafka.make_consumer(broker, **settings)
    kafka.assign(consumer, topic, {0: offset})
    if not any(isinstance(each, CorruptBatch) for each in columns):
        read_to(consumer, end, lambda: stock.extend(polled(consumer)))
    for each in (with_columns, consumer):
        each.close(autocommit=False)
    return columns, stock


def polled(consumer: KafkaConsumer) -> list[Record]:
    found = consumer.poll(timeout_ms=100).values()
    return [(each.offset, each.timestamp, each.key, each.value) for records in found for each in records]


def read_to(consumer: KafkaConsumer, end: int, poll: Any) -> None:
    """Poll until the consumer's position is the end."""
    (name,) = consumer.assignment()
    until = time.monotonic() + DEADLINE_S
    while consumer.position(name) < end:
        poll()
        assert time.monotonic() < until, "waited in vain"


def rows(items: Sequence[Item]) -> list[Record]:
    """The records of all columns, one by one."""
    return [
        (
            int(each.offset[n]),
            int(each.timestamp_us[n]) // 1000,
            part(each, int(each.key_start[n]), int(each.key_size[n])),
            part(each, int(each.value_start[n]), int(each.value_size[n])),
        )
        for each in items
        if isinstance(each, RecordColumns)
        for n in range(len(each))
    ]


def part(columns: RecordColumns, start: int, size: int) -> bytes | None:
    return None if size < 0 else columns.buffer[start : start + size].tobytes()


VALUES = [None if n % 7 == 0 else b"%d" % n * (n % 40) for n in range(300)]


def test_columns_are_the_records_of_every_batch(broker: str) -> None:
    """Batches of one, of many, and of one again; from the beginning and from within a batch."""
    topic = new_topic(broker)
    for some in (VALUES[:1], VALUES, VALUES[:1]):
        send(broker, topic, some)
    for offset in (0, 1, 150, 300, 301):
        columns, stock = read(broker, topic, offset, 302)

        assert stock == rows(columns)
        assert 302 - offset == len(stock)


@pytest.mark.parametrize("known", [column_writer.KNOWN_VERSIONS, ()], ids=["batches", "records"])
def test_columns_sent_are_the_records_of_their_keys_and_values(
    broker: str, monkeypatch: pytest.MonkeyPatch, known: tuple[str, ...]
) -> None:
    """More than one batch holds, in order, before what is sent one by one afterwards; also by an unknown version."""
    monkeypatch.setattr(column_writer, "KNOWN_VERSIONS", known)
    topic = new_topic(broker)
    producer = kafka.make_producer(broker)
    values = [bytes([n % 251]) * (n % 700) for n in range(3_000)]
    keys = np.arange(3_000, dtype=">u4").view(np.uint8).reshape(-1, 4)
    bounds = np.cumsum([0, *map(len, values)])
    failed: list[BaseException] = []
    name = TopicPartition(topic, 0)

    send_columns(producer, name, keys, b"own ", np.frombuffer(b"".join(values), np.uint8).copy(), bounds, failed.append)
    producer.send(topic, b"the last", b"", partition=0)
    producer.flush(timeout=DEADLINE_S)
    producer.close(timeout=5)

    _, stock = read(broker, topic, 0, 3_001)
    sent = [(struct.pack(">I", n), b"own " + value) for n, value in enumerate(values)]
    assert [*sent, (b"", b"the last")] == [(key, value) for _, _, key, value in stock]
    assert all(abs(ms / 1000 - time.time()) < 600 for _, ms, _, _ in stock)
    assert [] == failed


@pytest.mark.real
def test_columns_that_never_arrive_are_told(kafka_broker: str) -> None:
    """A send is no success before the broker says so."""
    topic = new_topic(kafka_broker, {"max.message.bytes": "200"})
    producer = kafka.make_producer(kafka_broker, delivery_timeout_s=5.0)
    failed: list[BaseException] = []
    keys, bounds = np.zeros((1, 4), np.uint8), np.array([0, 1_000])
    send_columns(producer, TopicPartition(topic, 0), keys, b"", np.zeros(1_000, np.uint8), bounds, failed.append)
    producer.flush(timeout=DEADLINE_S)
    producer.close(timeout=5)

    assert ["MessageSizeTooLargeError"] == [type(each).__name__ for each in failed]


def test_a_version_that_is_not_known_is_read_record_by_record(broker: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slowly, and told; never wrongly."""
    monkeypatch.setattr(column_reader, "KNOWN_VERSIONS", ())
    topic = new_topic(broker)
    send(broker, topic, VALUES)
    told: list[str] = []
    consumer = kafka.make_consumer(broker)
    kafka.assign(consumer, topic, {0: 0})
    ColumnReader(consumer, on_fallback=told.append)
    consumer.close(autocommit=False)

    columns, stock = read(broker, topic, 5, 300)

    assert stock == rows(columns)
    assert ["unknown_version"] == told


@pytest.mark.real
@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
def test_every_codec_and_the_brokers_timestamps_are_read(kafka_broker: str, codec: str) -> None:
    """With LogAppendTime all records of a batch have its time."""
    topic = new_topic(kafka_broker, {"message.timestamp.type": "LogAppendTime"})
    send(kafka_broker, topic, VALUES, compression_type=codec)

    columns, stock = read(kafka_broker, topic, 20, 300)

    assert stock == rows(columns)
    assert 280 == len(stock)
    assert len({ms for _, ms, _, _ in stock}) < 10


@pytest.mark.real
def test_transactions_are_read_as_asked(kafka_broker: str) -> None:
    """One aborted, one committed, and one plain record behind them."""
    topic = new_topic(kafka_broker)
    producer = KafkaProducer(bootstrap_servers=kafka_broker, transactional_id=topic, acks="all", linger_ms=50)
    producer.init_transactions()
    for commits in (False, True):
        producer.begin_transaction()
        for n in range(20):
            producer.send(topic, key=id_key(n), value=b"committed" if commits else b"aborted")
        producer.flush(timeout=DEADLINE_S)
        producer.commit_transaction() if commits else producer.abort_transaction()
    producer.close(timeout=5)
    send(kafka_broker, topic, [b"plain"])
    for level, least in (("read_committed", 21), ("read_uncommitted", 41)):
        columns, stock = read(kafka_broker, topic, 0, 43, isolation_level=level)

        assert stock == rows(columns)
        assert least == len(stock)


@pytest.mark.real
def test_a_corrupted_segment_costs_its_batches_and_nothing_else(kafka_broker: str, server_home: Home) -> None:
    """A flipped byte, and a codec that nobody knows under a right checksum: two values that say what is lost."""
    topic = new_topic(kafka_broker)
    for _ in range(4):
        send(kafka_broker, topic, VALUES[1:6])
    segment = server_home.data / "kafka" / f"{topic}-0" / f"{0:020}.log"
    raw = bytearray(segment.read_bytes())
    starts = [0]
    while starts[-1] < len(raw):
        starts.append(starts[-1] + 12 + struct.unpack_from(">i", raw, starts[-1] + 8)[0])
    assert 5 == len(starts)
    raw[starts[1] + HEADER_BYTES + 9] ^= 0x40
    raw[starts[2] + 22] |= 7
    struct.pack_into(">I", raw, starts[2] + 17, crc32c(bytes(raw[starts[2] + 21 : starts[3]])))
    with segment.open("r+b") as file:
        file.write(raw)

    columns, _ = read(kafka_broker, topic, 0, 20)

    lost = [each for each in columns if isinstance(each, CorruptBatch)]
    assert [("checksum", 5, 9), ("codec", 10, 14)] == [(e.problem, e.first_offset, e.last_offset) for e in lost]
    assert [bytes(raw[starts[n] : starts[n + 1]]) for n in (1, 2)] == [each.raw for each in lost]
    assert [*range(5), *range(15, 20)] == [offset for offset, *_ in rows(columns)]


@pytest.fixture
def kafka_broker(request: pytest.FixtureRequest) -> str:
    """The session's Apache Kafka, by a name that leaves `kafka` to the module."""
    return str(request.getfixturevalue("kafka"))
