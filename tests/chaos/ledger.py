"""The oracle: what was tried and what was acknowledged, on disk outside of whatever is killed.

An id holds its producer and sequence, and the id (with the run's seed) holds the whole record: what a row must say is
computed, never remembered. Outcomes: acknowledged (there exactly once), unknown (at most once).
"""

import os
import struct
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from millrace.events.v1 import events_pb2 as pb
from servicekit.topics import Kind, id_key

USERS: Final = 400
ITEMS: Final = 120
BASE_US: Final = 1_700_000_000_000_000
_ATTEMPT: Final = struct.Struct("<QB")
_ACK: Final = struct.Struct("<QBIQ")
_SEQUENCE_BITS: Final = 40
KINDS: Final[tuple[Kind, ...]] = ("interactions", "users")


class Ack(NamedTuple):
    """A record that the log has taken: its id, topic, partition and offset."""

    record_id: int
    kind: Kind
    partition: int
    offset: int


@dataclass
class Ledger:
    """The two logs, appended in batches, each synced before the call returns. Threads may share it."""

    folder: Path
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._attempts = (self.folder / "attempts").open("ab")
        self._acks = (self.folder / "acks").open("ab")

    def attempt(self, records: Iterable[tuple[int, Kind]]) -> None:
        """Before they are sent: whatever the log holds later is one of these."""
        blob = b"".join(_ATTEMPT.pack(record_id, KINDS.index(kind)) for record_id, kind in records)
        with self._lock:
            _append(self._attempts, blob)

    def acknowledge(self, acks: Iterable[Ack]) -> None:
        """After the log has answered for them."""
        blob = b"".join(_ACK.pack(ack.record_id, KINDS.index(ack.kind), ack.partition, ack.offset) for ack in acks)
        with self._lock:
            _append(self._acks, blob)

    def attempts(self) -> set[tuple[int, Kind]]:
        """Every id that was ever sent, from disk."""
        raw = (self.folder / "attempts").read_bytes()
        return {(record_id, KINDS[kind]) for record_id, kind in _ATTEMPT.iter_unpack(raw)}

    def acks(self) -> list[Ack]:
        """Every acknowledgement, from disk."""
        raw = (self.folder / "acks").read_bytes()
        return [Ack(record_id, KINDS[kind], *place) for record_id, kind, *place in _ACK.iter_unpack(raw)]

    def close(self) -> None:
        """Give the files back."""
        self._attempts.close()
        self._acks.close()


def _append(file: object, blob: bytes) -> None:
    file.write(blob)  # type: ignore[attr-defined]
    file.flush()  # type: ignore[attr-defined]
    os.fsync(file.fileno())  # type: ignore[attr-defined]


def record_id(producer: int, sequence: int) -> int:
    """Ids of different producers never meet; 0 is none."""
    return producer << _SEQUENCE_BITS | sequence


def is_garbage(record: int) -> bool:
    """Whether the record of this id is one that no reading can use: each 97th."""
    return _mixed(record, 5) % 97 == 0


def event(seed: int, record: int) -> pb.Interaction:
    """The interaction that an id stands for: late and tied times, every action, users and items that meet again."""
    drawn = _mixed(record, seed)
    sequence = record & ((1 << _SEQUENCE_BITS) - 1)
    days = (drawn >> 50) % 10 + 1  # each day is a file of a commit: a kill between two of them is not a rare one
    late_us = (0, 0, 0, 0, 0, 1_000_000, 90_000_000, days * 86_400_000_000)[drawn >> 8 & 7]
    return pb.Interaction(
        event_id=record,
        user_id=drawn % USERS + 1,
        item_id=(drawn >> 20) % ITEMS + 1,
        action=(drawn >> 30) % 3,
        value=(drawn >> 34) % 5 + 1,
        event_time_us=BASE_US + sequence // 3 * 40_000 - late_us,
        category=(drawn >> 40) % 6,
    )


def record_bytes(seed: int, record: int, kind: Kind) -> tuple[bytes, bytes]:
    """(key, value) as they are sent."""
    if kind == "users":
        user = pb.User(id=_mixed(record, seed) % USERS + 1)
        user.attributes["age"].number = _mixed(record, seed + 1) % 70 + 15
        return id_key(user.id), user.SerializeToString()
    sent = event(seed, record)
    if is_garbage(record):
        return id_key(sent.user_id), b"\xff" + record.to_bytes(8, "little")
    return id_key(sent.user_id), sent.SerializeToString()


def _mixed(record: int, seed: int) -> int:
    """splitmix64: https://prng.di.unimi.it/splitmix64.c"""
    mixed = (record + (seed + 1) * 0x9E3779B97F4A7C15) & (2**64 - 1)
    mixed = ((mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
    mixed = ((mixed ^ mixed >> 27) * 0x94D049BB133111EB) & (2**64 - 1)
    return mixed ^ mixed >> 31
