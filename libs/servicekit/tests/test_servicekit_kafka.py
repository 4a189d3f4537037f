"""The Kafka boundary without a broker: errors and waiting. With brokers: `tests/contract/test_log.py`."""

import socket
import threading
import time

import pytest
from kafka import errors as foreign
from servicekit import errors
from servicekit.kafka import TopicReader, end_offsets, log_id, make_producer, partitions_of, translate, translated


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (foreign.KafkaTimeoutError(), errors.LogUnavailable),
        (foreign.KafkaConnectionError(), errors.LogUnavailable),
        (foreign.NotEnoughReplicasError(), errors.LogUnavailable),
        (ConnectionRefusedError(), errors.LogUnavailable),
        (foreign.UnknownTopicOrPartitionError(), errors.UnknownTopic),
        (foreign.MessageSizeTooLargeError(), errors.RecordTooLarge),
        (foreign.OffsetOutOfRangeError(), errors.OffsetGone),
        (foreign.NoOffsetForPartitionError(), errors.OffsetGone),
        (foreign.CorruptRecordError(), errors.CorruptLog),
        (foreign.OutOfOrderSequenceNumberError(), errors.ProducerBroken),
        (foreign.TopicAuthorizationFailedError(), errors.LogRefused),
        (RuntimeError("unheard of"), errors.LogRefused),
    ],
)
def test_each_error_tells_whether_a_retry_helps(theirs: Exception, ours: type[errors.LogError]) -> None:
    """The most specific of ours; retriable ones are LogUnavailable."""
    assert ours is type(translate(theirs, "reading"))


def test_a_translated_error_says_what_was_being_done() -> None:
    """And keeps its cause."""
    with pytest.raises(errors.OffsetGone, match="reading movies") as raised, translated("reading movies.items"):
        raise foreign.OffsetOutOfRangeError
    assert isinstance(raised.value.__cause__, foreign.OffsetOutOfRangeError)


@pytest.fixture
def nowhere() -> str:
    """An address where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as closed_at_once:
        return f"127.0.0.1:{closed_at_once.getsockname()[1]}"


@pytest.mark.parametrize(
    "ask",
    [
        lambda at: make_producer(at, connect_s=0.1),
        lambda at: log_id(at, connect_s=0.1),
        lambda at: partitions_of(at, "movies.items", connect_s=0.1),
        lambda at: end_offsets(at, "movies.items", connect_s=0.1),
    ],
)
def test_an_absent_broker_is_named_in_time(nowhere: str, ask: object) -> None:
    """The message says where, and what to do about it."""
    assert callable(ask)
    threads = threading.active_count()
    began = time.monotonic()

    with pytest.raises(errors.LogUnavailable, match=rf"{nowhere}.*MILLRACE_KAFKA"):
        ask(nowhere)

    assert time.monotonic() - began < 2.0
    assert threads == threading.active_count()


def test_a_reader_waits_for_a_broker_and_can_be_stopped_meanwhile(nowhere: str) -> None:
    """An absent broker is not a failure: the process stays alive and not ready."""
    reader = TopicReader(nowhere, "movies.items", lambda *_: None, connect_s=0.1)
    reader.start()

    with pytest.raises(errors.LogUnavailable, match="not read to its end"):
        reader.wait_caught_up(0.15)

    assert reader.failed is None
    reader.stop()
