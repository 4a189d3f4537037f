"""kafka-python's clients, made with our settings."""

import contextlib
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import kafka.errors as foreign
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition

from servicekit import errors
from servicekit.kafka import transport
from servicekit.kafka.boundary import translate, translated
from servicekit.kafka.producer import MendedProducer

CONNECT_S: Final = 30.0
MAX_REQUEST_BYTES: Final = 1_048_576  # the brokers' default message.max.bytes is 1,048,588
_ASK_MS: Final = 10_000
_PROBE_S: Final = 2.0
MAX_POLL_RECORDS: Final = 5_000

# Seen on all clients: a broker that was away is found again within a second, not the default 30.
_RECONNECT: Final[Mapping[str, Any]] = {
    "reconnect_backoff_ms": 50,
    "reconnect_backoff_max_ms": 1_000,
    "retry_backoff_ms": 100,
}


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
        return _made(
            MendedProducer,
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
    transport.install()
    with _connecting(bootstrap, connect_s):
        consumer = _made(KafkaConsumer, **settings)
        try:
            consumer.bootstrap(timeout_ms=int(connect_s * 1000))
        except BaseException:
            consumer.close(autocommit=False)
            raise
        return consumer


@contextlib.contextmanager
def opened_consumer(
    bootstrap: str, *, connect_s: float = CONNECT_S, fetch_max_wait_ms: int = 100
) -> Iterator[KafkaConsumer]:
    """A consumer of `make_consumer` for a `with` block; closed without committing."""
    consumer = make_consumer(bootstrap, connect_s=connect_s, fetch_max_wait_ms=fetch_max_wait_ms)
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
    first, ends = offsets_on(consumer, topic, list(offsets))
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
        return len(partitions(consumer, topic, connect_s))


def end_offsets(bootstrap: str, topic: str, *, connect_s: float = CONNECT_S) -> dict[int, int]:
    """1 + the newest offset of each partition of `topic` (0 where it is empty).

    Raises:
        LogUnavailable: no broker answered in time.
        UnknownTopic: the topic did not appear in time.
    """
    with opened_consumer(bootstrap, connect_s=connect_s) as consumer:
        return offsets_on(consumer, topic, partitions(consumer, topic, connect_s))[1]


def first_offsets(bootstrap: str, topic: str, *, connect_s: float = CONNECT_S) -> dict[int, int]:
    """The oldest offset that each partition of `topic` still has. Errors as `end_offsets`."""
    with opened_consumer(bootstrap, connect_s=connect_s) as consumer:
        return offsets_on(consumer, topic, partitions(consumer, topic, connect_s))[0]


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


def partitions(consumer: KafkaConsumer, topic: str, wait_s: float) -> list[int]:
    """The partitions of `topic`, sorted; UnknownTopic where it does not appear within `wait_s`."""
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


def offsets_on(consumer: KafkaConsumer, topic: str, partitions: Sequence[int]) -> tuple[dict[int, int], dict[int, int]]:
    """(first, end) offset of each partition; as `bounds_of` for one topic."""
    found = bounds_of(consumer, [TopicPartition(topic, partition) for partition in partitions])
    return (
        {tp.partition: first for tp, (first, _) in found.items()},
        {tp.partition: end for tp, (_, end) in found.items()},
    )


def bounds_of(consumer: KafkaConsumer, names: Sequence[TopicPartition]) -> dict[TopicPartition, tuple[int, int]]:
    """(first, end) offset of each partition; end is 1 + the newest offset. A consumer without assignment gets one.

    What the broker lists as the end is not enough: the embedded one (Tansu) answers with 1 + the *first* offset of the
    newest batch. What a fetch answers is right, so the end is the larger of the two.

    Raises:
        LogError: kafka-python's error, translated.
    """
    with translated("asking for offsets"):
        first = consumer.beginning_offsets(names, timeout_ms=_ASK_MS)
        listed = consumer.end_offsets(names, timeout_ms=_ASK_MS)
        if not consumer.assignment():
            consumer.assign(names)
            for name in names:  # at a record, where there is one: a fetch from the end would wait for the next
                consumer.seek(name, max(first[name], listed[name] - 1))
            until = time.monotonic() + _PROBE_S
            asked = [name for name in names if listed[name] > 0]
            while any(consumer.highwater(name) is None for name in asked) and time.monotonic() < until:
                consumer.poll(timeout_ms=20)
        assigned = consumer.assignment()
        fetched = {name: consumer.highwater(name) or 0 if name in assigned else 0 for name in names}
    return {name: (first[name], max(listed[name], fetched[name])) for name in names}
