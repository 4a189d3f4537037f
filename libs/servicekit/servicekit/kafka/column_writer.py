"""Sends many records of one partition as ready-made batches: for the producers of busy topics.

kafka-python makes Python objects of each record: 20 us a send. Here numba writes the records of a batch, and its
producer takes them as one: it adds ids and sequence numbers, compresses, sends, repeats and gives up as ever. It hangs
on the producer's private parts, so only known versions are written this way.
"""

import functools
import time
from collections.abc import Callable
from typing import Any, Final

import kafka.errors as foreign
import numpy as np
from kafka import KafkaProducer, TopicPartition
from kafka.producer.producer_batch import ProducerBatch
from kafka.record.memory_records import MemoryRecordsBuilder

from servicekit.kafka import batches as layout
from servicekit.kafka.transport import KNOWN_VERSIONS, VERSION

_BATCH_BYTES: Final = 512 << 10  # of records; brokers take 1 MiB unless told otherwise
_FORMAT: Final = 2

OnError = Callable[[BaseException], object]


def send_columns(
    producer: KafkaProducer,
    name: TopicPartition,
    keys: layout.Bytes,
    prefix: bytes,
    data: layout.Bytes,
    bounds: layout.Longs,
    on_error: OnError,
) -> None:
    """Hand n records to a producer of `make_producer`, in order; they are on their way when it returns.

    Args:
        producer: whose `flush` waits for them too.
        name: where they go.
        keys: uint8 (n, size).
        prefix: what each value begins with.
        data: uint8 (bytes,), the rest of value i between `bounds[i]` and `bounds[i + 1]`, int64 (n + 1,). One value is
            no longer than 256 KiB.
        on_error: is told by the producer's thread why a batch has failed for good.

    Raises:
        KafkaError: the topic's partitions are not known in time, or the producer is closed.
    """
    if not len(keys):
        return
    if VERSION not in KNOWN_VERSIONS:
        for number, key in enumerate(keys):
            value = prefix + data[bounds[number] : bounds[number + 1]].tobytes()
            producer.send(name.topic, value, key.tobytes(), partition=name.partition).add_errback(on_error)
        return
    if producer._metadata.partitions_for_topic(name.topic) is None:
        producer._wait_on_metadata(name.topic, producer.config["max_block_ms"])
    head, out, done = np.frombuffer(prefix, np.uint8), np.empty(_BATCH_BYTES, np.uint8), 0
    while done < len(keys):
        begun = done
        done, size = layout.write_records(keys, head, data, bounds, begun, out)
        if done == begun:
            raise ValueError(f"record {begun}: {int(bounds[begun + 1] - bounds[begun])} bytes do not fit a batch")
        _append(producer, name, out[:size].data, done - begun, on_error)
    producer._sender.wakeup()


def _append(producer: Any, name: TopicPartition, records: memoryview, count: int, on_error: OnError) -> None:
    """What `RecordAccumulator.append` does for one record that begins a batch, for all of a batch."""
    accumulator = producer._accumulator
    built = MemoryRecordsBuilder(_FORMAT, accumulator.config["compression_attrs"], 0)  # of size 0: it takes no more
    content = built._builder
    content._buffer += records
    content._first_timestamp = content._max_timestamp = time.time_ns() // 1_000_000
    content._num_records, content._last_offset, built._next_offset = count, count - 1, count
    batch = ProducerBatch(name, built)
    batch.produce_future.add_both(functools.partial(_settled, on_error))
    accumulator._appends_in_progress.increment()
    try:
        with accumulator._tp_lock(name):
            if accumulator._closed:
                raise foreign.IllegalStateError("the producer is closed")
            accumulator._batches[name].append(batch)
            accumulator._incomplete.add(batch)
    finally:
        accumulator._appends_in_progress.decrement()


def _settled(on_error: OnError, outcome: Any) -> None:
    """The producer has an answer for a batch: (offset, time, None or what gives each record's error), or an error."""
    if isinstance(outcome, BaseException):
        on_error(outcome)
    elif outcome[2] is not None:
        on_error(outcome[2](0))
