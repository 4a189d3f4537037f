"""Broken bytes in a closed segment of real Kafka: a dead letter a batch, and everything else is archived."""

import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from chaos.world import NAME, Worker, World
from crc32c import crc32c
from definitions.records import reason_name
from millrace.events.v1 import events_pb2 as pb
from servicekit.kafka import make_producer
from servicekit.topics import DEAD_LETTERS, id_key
from stores.offline import Lake

pytestmark = pytest.mark.chaos

PARTITION = 1
_BASE, _LENGTH, _CRC, _ATTRIBUTES, _LAST_DELTA = 0, 8, 17, 21, 23  # of a record batch, magic 2
_HEADER = 61
_CODEC = 0x07
_UNKNOWN_CODEC = 0x07


class OnDisk(NamedTuple):
    """One record batch of a segment file."""

    at: int
    size: int
    first: int
    last: int


def batches(raw: bytes) -> Iterator[OnDisk]:
    """https://kafka.apache.org/documentation/#recordbatch"""
    at = 0
    while at + _HEADER <= len(raw):
        (base,) = struct.unpack_from(">q", raw, at + _BASE)
        (length,) = struct.unpack_from(">i", raw, at + _LENGTH)
        (delta,) = struct.unpack_from(">i", raw, at + _LAST_DELTA)
        yield OnDisk(at, 12 + length, base, base + delta)
        at += 12 + length


def bad_records() -> list[tuple[bytes, bytes]]:
    """Keys and values that pass every broker and that no reading can use."""
    good = {"event_id": 1, "user_id": 7, "item_id": 3, "event_time_us": 1_700_000_000_000_000}
    key = id_key(7)
    return [
        (key, pb.Interaction(**good).SerializeToString()[:-2]),  # truncated
        (key, pb.Interaction(**good | {"event_time_us": 2**62}).SerializeToString()),  # in a far future
        (key, pb.Interaction(**good | {"event_time_us": 4_000_000_000_000_000}).SerializeToString()),  # ahead of Kafka
        (key, pb.Interaction(**good | {"event_time_us": -1}).SerializeToString()),  # before 1970
        (id_key(8), pb.Interaction(**good).SerializeToString()),  # another user's key
        (b"", pb.Interaction(**good).SerializeToString()),
        (key, b"\xff" * 1_000_000),  # as large as the topic takes
    ]


def publish(world: World, first_id: int) -> None:
    """Good events in many small batches, then bad ones, all in one partition."""
    producer = make_producer(world.kafka, batch_bytes=2_000)
    topic = world.topic("interactions")
    for event_id in range(first_id, first_id + 400):
        event = pb.Interaction(
            event_id=event_id, user_id=7, item_id=3, event_time_us=1_700_000_000_000_000 + event_id, value=1
        )
        producer.send(topic, key=id_key(7), value=event.SerializeToString(), partition=PARTITION)
        if event_id % 20 == 0:
            producer.flush(timeout=30)
    for key, value in bad_records():
        producer.send(topic, key=key, value=value, partition=PARTITION)
        producer.flush(timeout=30)
    producer.close(timeout=5)


def break_two(segment: Path) -> list[tuple[int, int, str]]:
    """A flipped byte in one batch, a codec that does not exist in another; their offsets and what is wrong."""
    raw = bytearray(segment.read_bytes())
    found = list(batches(bytes(raw)))
    flipped, recoded = found[3], found[9]
    raw[flipped.at + flipped.size - 5] ^= 0x40
    raw[recoded.at + _ATTRIBUTES + 1] = raw[recoded.at + _ATTRIBUTES + 1] & ~_CODEC | _UNKNOWN_CODEC
    checked = bytes(raw[recoded.at + _ATTRIBUTES : recoded.at + recoded.size])
    struct.pack_into(">I", raw, recoded.at + _CRC, crc32c(checked))
    segment.write_bytes(bytes(raw))
    return [(flipped.first, flipped.last, "checksum"), (recoded.first, recoded.last, "codec")]


def test_a_broken_batch_is_one_dead_letter_and_the_partition_moves_on(tmp_path: Path) -> None:
    """Archived and dead are the log's records exactly, a broken batch's by the range that its letter names."""
    with World(tmp_path, seed=1, segment_bytes="1048576") as world:
        for each in range(3):  # each ends with a megabyte: the first segments are closed
            publish(world, 1 + each * 400)
        end = world.ends("interactions")[PARTITION]
        world.stop_kafka()
        folder = world.home.data / "kafka" / f"{NAME}.interactions-{PARTITION}"
        segments = sorted(folder.glob("*.log"))
        assert len(segments) >= 2
        broken = break_two(segments[0])
        world.start_kafka()

        archiver = Worker(world, "archiver")
        archiver.await_ready()
        answer = archiver.flush()
        assert archiver.stop() == 0
        letters = [
            pb.DeadLetter.FromString(record.value)
            for records in world.records(DEAD_LETTERS).values()
            for record in records
        ]

    assert answer["next_offsets"][f"{NAME}.interactions"][str(PARTITION)] == end
    dead: list[int] = []
    corrupt = []
    for letter in letters:
        if reason_name(letter.reason) == "corrupt_batch":
            match = re.match(r"offsets (\d+) to (\d+) are lost: (.*)", letter.detail)
            assert match is not None
            first, last = int(match[1]), int(match[2])
            assert (letter.topic, letter.partition, letter.offset) == (f"{NAME}.interactions", PARTITION, first)
            corrupt.append((first, last, "codec" if "codec" in match[3] else "checksum"))
            dead += range(first, last + 1)
        else:
            dead.append(letter.offset)
    assert sorted(corrupt) == sorted(broken)
    rows = Lake(tmp_path / "lake", NAME).scan("interactions").select("offset").collect()["offset"].to_list()
    assert sorted([*rows, *dead]) == list(range(end))
    reasons = {reason_name(letter.reason) for letter in letters}
    assert reasons == {"corrupt_batch", "malformed", "invalid_value", "future_time", "wrong_key"}
