"""The one place that knows kafka-python: clients with our settings, and its errors translated into ours.

Partitions are assigned by hand and offsets live with the output (never in consumer groups), so auto-commit is off.
"""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import kafka.errors as foreign
import structlog
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.producer.transaction_manager import TransactionState

from servicekit import errors

log: structlog.stdlib.BoundLogger = structlog.get_logger("servicekit.kafka")

CONNECT_S: Final = 30.0
MAX_REQUEST_BYTES: Final = 1_048_576  # the brokers' default message.max.bytes is 1,048,588
MAX_POLL_RECORDS: Final = 5_000

# Seen on all clients: a broker that was away is found again within a second, not the default 30.
_RECONNECT: Final[Mapping[str, Any]] = {
    "reconnect_backoff_ms": 50,
    "reconnect_backoff_max_ms": 1_000,
    "retry_backoff_ms": 100,
}

Handler = Callable[[int, int, bytes | None, bytes | None], None]

# Most specific first.
_TRANSLATION: Final[Sequence[tuple[tuple[type[BaseException], ...], type[errors.LogError]]]] = (
    ((foreign.UnknownTopicOrPartitionError, foreign.InvalidTopicError), errors.UnknownTopic),
    ((foreign.MessageSizeTooLargeError, foreign.RecordListTooLargeError), errors.RecordTooLarge),
    ((foreign.OffsetOutOfRangeError, foreign.NoOffsetForPartitionError, foreign.LogTruncationError), errors.OffsetGone),
    ((foreign.CorruptRecordError,), errors.CorruptLog),
    (
        (
            foreign.OutOfOrderSequenceNumberError,
            foreign.UnknownProducerIdError,
            foreign.InvalidProducerEpochError,
            foreign.ProducerFencedError,
            foreign.IllegalStateError,
        ),
        errors.ProducerBroken,
    ),
    ((foreign.RetriableError, foreign.BrokerNotAvailableError, OSError), errors.LogUnavailable),
    ((foreign.KafkaError,), errors.LogRefused),
)


def translate(exc: BaseException, what: str) -> errors.LogError:
    """Our error for kafka-python's, to be raised `from exc`; `what` says what was being done."""
    for theirs, ours in _TRANSLATION:
        if isinstance(exc, theirs):
            return ours(f"{what}: {type(exc).__name__}: {exc}")
    return errors.LogRefused(f"{what}: {type(exc).__name__}: {exc}")


@contextlib.contextmanager
def translated(what: str) -> Iterator[None]:
    """Raises our errors for kafka-python's: `with translated("reading movies.items"): consumer.poll()`."""
    try:
        yield
    except (foreign.KafkaError, OSError) as exc:
        raise translate(exc, what) from exc


def make_producer(
    bootstrap: str,
    *,
    linger_ms: int = 5,
    acks: str | int = "all",
    max_request_size: int = MAX_REQUEST_BYTES,
    delivery_timeout_s: float = 30.0,
    batch_bytes: int = 131_072,
    connect_s: float = CONNECT_S,
) -> KafkaProducer:
    """An idempotent producer, connected. A send fails for good after `delivery_timeout_s`: then the outcome is unknown.

    Records batch for `linger_ms`: the column decoders downstream live by records per batch.

    Raises:
        LogUnavailable: no broker answered within `connect_s`.
    """
    with _connecting(bootstrap, connect_s):
        producer = _made(
            KafkaProducer,
            bootstrap_servers=_servers(bootstrap),
            acks=acks,
            enable_idempotence=acks in ("all", -1),
            linger_ms=linger_ms,
            batch_size=batch_bytes,
            max_request_size=max_request_size,
            allow_auto_create_topics=False,  # topics are declared once, with their partitions and retention
            delivery_timeout_ms=int(delivery_timeout_s * 1000),
            request_timeout_ms=max(1, int(delivery_timeout_s * 1000) - linger_ms),
            max_block_ms=int(min(delivery_timeout_s, 10.0) * 1000),
            bootstrap_timeout_ms=int(connect_s * 1000),
            metrics_enabled=False,  # ours are in Prometheus; these cost CPU on each send
            **_RECONNECT,
        )
    _ask_for_a_new_id_after_a_reset(producer)
    return producer


def make_consumer(
    bootstrap: str,
    *,
    max_poll_records: int = MAX_POLL_RECORDS,
    fetch_max_wait_ms: int = 100,
    connect_s: float = CONNECT_S,
    **more: Any,
) -> KafkaConsumer:
    """A connected consumer without a group: assign and seek it with `assign`. An offset that is gone raises at `poll`.

    `fetch_max_wait_ms` is how long the broker holds a fetch that finds nothing. Kafka answers it as soon as a record
    comes; the embedded broker looks again at half of it (500, 100, 20 ms: a record is seen after 254, 54, 14 ms, an
    idle consumer costs 1, 5, 8 % of a core), so a loop that must be fresh asks for less.

    Raises:
        LogUnavailable: no broker answered within `connect_s`.
    """
    settings: dict[str, Any] = {
        "bootstrap_servers": _servers(bootstrap),
        "group_id": None,
        "enable_auto_commit": False,
        "auto_offset_reset": "none",
        "allow_auto_create_topics": False,
        "max_poll_records": max_poll_records,
        "max_partition_fetch_bytes": 4 * MAX_REQUEST_BYTES,
        "fetch_max_wait_ms": fetch_max_wait_ms,
        "bootstrap_timeout_ms": int(connect_s * 1000),
        "metrics_enabled": False,
        **_RECONNECT,
        **more,
    }
    with _connecting(bootstrap, connect_s):
        consumer = _made(KafkaConsumer, **settings)
        try:
            consumer.bootstrap(timeout_ms=int(connect_s * 1000))
        except BaseException:
            consumer.close(autocommit=False)
            raise
        return consumer


@contextlib.contextmanager
def opened_consumer(bootstrap: str, *, connect_s: float = CONNECT_S) -> Iterator[KafkaConsumer]:
    """A consumer of `make_consumer` for a `with` block; closed without committing."""
    consumer = make_consumer(bootstrap, connect_s=connect_s)
    try:
        yield consumer
    finally:
        consumer.close(autocommit=False, timeout_ms=1_000)


def assign(consumer: KafkaConsumer, topic: str, offsets: Mapping[int, int]) -> None:
    """Read exactly these partitions of `topic`, each from its offset.

    Raises:
        OffsetGone: retention removed an offset, or the log ends before it, as another log does. (Checked here because
            the embedded broker never says so.)
        LogError: kafka-python's error, translated.
    """
    first, ends = _offsets(consumer, topic, list(offsets))
    for partition, offset in offsets.items():
        if not first[partition] <= offset <= ends[partition]:
            raise errors.OffsetGone(
                f"{topic}, partition {partition}: offset {offset} is not on the log, which has {first[partition]} to "
                f"{ends[partition]}; rebuild the state that names it"
            )
    with translated(f"assigning {topic}"):
        consumer.assign([TopicPartition(topic, partition) for partition in offsets])
        for partition, offset in offsets.items():
            consumer.seek(TopicPartition(topic, partition), offset)


def log_id(bootstrap: str, *, connect_s: float = CONNECT_S) -> str:
    """Identity of the log: Kafka's cluster id. Another id means that old offsets say nothing about this log.

    Raises:
        LogUnavailable: no broker answered within `connect_s`.
        LogRefused: the broker has no cluster id.
    """
    with _connecting(bootstrap, connect_s):
        admin = _made(
            KafkaAdminClient, bootstrap_servers=_servers(bootstrap), bootstrap_timeout_ms=int(connect_s * 1000)
        )
        try:
            cluster = admin.describe_cluster()
        finally:
            admin.close()
    if not (found := cluster.get("cluster_id")):
        raise errors.LogRefused(f"the broker at {bootstrap} names no cluster id; set MILLRACE_LOG_ID")
    return str(found)


def partitions_of(bootstrap: str, topic: str, *, connect_s: float = CONNECT_S) -> int:
    """How many partitions `topic` has. Waits up to `connect_s` for broker and topic.

    Raises:
        LogUnavailable: no broker answered in time.
        UnknownTopic: the topic did not appear in time.
    """
    with opened_consumer(bootstrap, connect_s=connect_s) as consumer:
        return len(_partitions(consumer, topic, connect_s))


def end_offsets(bootstrap: str, topic: str, *, connect_s: float = CONNECT_S) -> dict[int, int]:
    """1 + the newest offset of each partition of `topic` (0 where it is empty).

    Raises:
        LogUnavailable: no broker answered in time.
        UnknownTopic: the topic did not appear in time.
    """
    with opened_consumer(bootstrap, connect_s=connect_s) as consumer:
        return _offsets(consumer, topic, _partitions(consumer, topic, connect_s))[1]


def first_offsets(bootstrap: str, topic: str, *, connect_s: float = CONNECT_S) -> dict[int, int]:
    """The oldest offset that each partition of `topic` still has. Errors as `end_offsets`."""
    with opened_consumer(bootstrap, connect_s=connect_s) as consumer:
        return _offsets(consumer, topic, _partitions(consumer, topic, connect_s))[0]


class TopicReader:
    """Reads a topic from its beginning, then tails it: `handler(partition, offset, key, value)` for each record.

    The handler runs in the reader's own thread, in offset order within a partition; value None is a tombstone. A
    broker that goes away is waited for. Anything that a retry cannot mend (the handler raised, the offset is gone)
    ends the thread: `failed` holds the error and `on_failure` is called with it.
    """

    def __init__(
        self,
        bootstrap: str,
        topic: str,
        handler: Handler,
        *,
        partitions: Sequence[int] | None = None,
        on_failure: Callable[[Exception], None] | None = None,
        poll_s: float = 0.2,
        connect_s: float = 5.0,
    ) -> None:
        self._thread = threading.Thread(target=self._run, name=f"read {topic}", daemon=True)
        self._bootstrap = bootstrap
        self._topic = topic
        self._handler = handler
        self._partitions = partitions
        self._on_failure = on_failure
        self._poll_ms = int(poll_s * 1000)
        self._connect_s = connect_s
        self._stopping = threading.Event()
        self.caught_up = threading.Event()
        self.positions: dict[int, int] = {}  # next offset of each partition
        self.failed: Exception | None = None

    def start(self) -> None:
        """Begin to read, from the beginning of the topic."""
        self._thread.start()

    def _run(self) -> None:
        backoff_s = 0.1
        while not self._stopping.is_set():
            try:
                self._read()
            except errors.LogUnavailable as exc:
                log.warning("topic unavailable", topic=self._topic, retry_in_s=backoff_s, error=str(exc))
                self._stopping.wait(backoff_s)
                backoff_s = min(2 * backoff_s, 2.0)
            except Exception as exc:  # the thread's owner must learn of it, whatever it is
                log.exception("topic reader failed", topic=self._topic)
                self.failed = exc
                if self._on_failure is not None:
                    self._on_failure(exc)
                return

    def stop(self, timeout_s: float = 5.0) -> None:
        """End the thread, waiting up to `timeout_s` for it. Idempotent."""
        self._stopping.set()
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join(timeout_s)

    def wait_caught_up(self, timeout_s: float) -> None:
        """Wait until all records that were there at the start are handled.

        Raises:
            HandlerFailed: the reader stopped on an error.
            LogUnavailable: `timeout_s` passed.
        """
        ends = time.monotonic() + timeout_s
        while not self.caught_up.wait(0.05):
            if self.failed is not None:
                raise errors.HandlerFailed(f"{self._topic}: {self.failed}") from self.failed
            if time.monotonic() > ends:
                raise errors.LogUnavailable(f"{self._topic}: not read to its end within {timeout_s} s")

    def _read(self) -> None:
        with opened_consumer(self._bootstrap, connect_s=self._connect_s) as consumer:
            partitions = _partitions(consumer, self._topic, self._connect_s)
            if self._partitions is not None:
                partitions = sorted(self._partitions)
            first, ends = _offsets(consumer, self._topic, partitions)
            self.positions = first | self.positions
            assign(consumer, self._topic, self.positions)
            while not self._stopping.is_set():
                self._note_progress(consumer, ends)
                with translated(f"reading {self._topic}"):
                    polled = consumer.poll(timeout_ms=self._poll_ms)
                for partition, records in polled.items():
                    for record in records:
                        self._handler(partition.partition, record.offset, record.key, record.value)
                        self.positions[partition.partition] = record.offset + 1

    def _note_progress(self, consumer: KafkaConsumer, ends: Mapping[int, int]) -> None:
        if self.caught_up.is_set():
            return
        with translated(f"reading {self._topic}"):
            for partition, end in ends.items():
                # The consumer's own position: compaction may have removed the offsets just below the end.
                position = consumer.position(TopicPartition(self._topic, partition), timeout_ms=1_000)
                if max(position or 0, self.positions[partition]) < end:
                    return
        self.caught_up.set()


def _servers(bootstrap: str) -> list[str]:
    return [server.strip() for server in bootstrap.split(",")]


def _made(kind: Any, **settings: Any) -> Any:
    """A client of `kind`. Where its constructor fails, kafka-python leaves a thread and sockets open: close them."""
    transports: list[Any] = []

    def transport(**more: Any) -> Any:
        transports.append(kind.DEFAULT_CONFIG["kafka_client"](**more))
        return transports[-1]

    try:
        return kind(kafka_client=transport, **settings)
    except BaseException:
        for left_open in transports:
            left_open.close()
        raise


def _ask_for_a_new_id_after_a_reset(producer: KafkaProducer) -> None:
    """Mend kafka-python 3.0.12: an idempotent producer whose sent batch expired forgets its id, stays READY, and so
    never asks for another: from then on its records are neither sent nor failed (Kafka 4.3.1 killed for 8 s, delivery
    timeout 2 s: no record passed in the 50 s after its return; so mended, all did).
    """
    manager = producer._transaction_manager
    if manager is None:
        return
    forget = manager.reset_producer_id

    def forget_and_ask_again() -> None:
        with manager._lock:
            forget()
            if manager._current_state is TransactionState.READY:  # else a request for an id is under way
                manager._current_state = TransactionState.UNINITIALIZED

    manager.reset_producer_id = forget_and_ask_again


@contextlib.contextmanager
def _connecting(bootstrap: str, connect_s: float) -> Iterator[None]:
    try:
        _await_listener(bootstrap, connect_s)
        yield
    except (foreign.KafkaTimeoutError, foreign.KafkaConnectionError, OSError) as exc:
        raise errors.LogUnavailable(
            f"no Kafka broker answers at {bootstrap}; start it (`millrace up`) or correct MILLRACE_KAFKA"
        ) from exc
    except foreign.KafkaError as exc:
        raise translate(exc, f"connecting to {bootstrap}") from exc


def _await_listener(bootstrap: str, timeout_s: float) -> None:
    """Wait until one of the brokers takes a connection; the last OSError where none does.

    kafka-python 3.0.12 can wait too, but each refused try leaves a socket to the garbage collector and three log lines.
    """
    ends = time.monotonic() + timeout_s
    pause_s = 0.02
    while True:
        for server in _servers(bootstrap):
            host, _, port = server.rpartition(":")
            try:
                socket.create_connection((host.strip("[]"), int(port)), max(0.05, ends - time.monotonic())).close()
                return
            except OSError as exc:
                refused = exc
        if time.monotonic() + pause_s > ends:
            raise refused
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, 0.5)


def _partitions(consumer: KafkaConsumer, topic: str, wait_s: float) -> list[int]:
    ends = time.monotonic() + wait_s
    while True:
        with translated(f"asking for the partitions of {topic}"):
            if found := consumer.partitions_for_topic(topic):
                return sorted(found)
        if time.monotonic() > ends:
            raise errors.UnknownTopic(
                f"{topic}: no such topic; declare it in infra/kafka/topics.yaml, then run `millrace up`"
            )
        time.sleep(0.2)


def _offsets(consumer: KafkaConsumer, topic: str, partitions: Sequence[int]) -> tuple[dict[int, int], dict[int, int]]:
    """(first, end) offset of each partition."""
    asked = [TopicPartition(topic, partition) for partition in partitions]
    with translated(f"asking for the offsets of {topic}"):
        first = consumer.beginning_offsets(asked, timeout_ms=10_000)
        ends = consumer.end_offsets(asked, timeout_ms=10_000)
    return {tp.partition: first[tp] for tp in asked}, {tp.partition: ends[tp] for tp in asked}
