"""The records of `items` and `item-features`: their keys and markers, and how they reach a snapshot."""

import struct
from collections import Counter
from collections.abc import Iterable
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from definitions.errors import LayoutMismatch
from definitions.item_snapshot import ItemSnapshot
from definitions.records import LogRecord, decode_items

_ITEM_FEATURES_KEY = struct.Struct(">QI")
_MARKER = struct.Struct(">IQ")
_EPOCH = struct.Struct(">I")

Ids = npt.NDArray[np.uint64]
Bytes = npt.NDArray[np.uint8]
Outcome = Literal["applied", "marked", "bad", "layout", "stale"]


class Record(Protocol):
    """What is read of a log record."""

    @property
    def offset(self) -> int:
        """Its place in its partition."""

    @property
    def key(self) -> bytes | None:
        """None: it has none."""

    @property
    def value(self) -> bytes | None:
        """None: a tombstone."""


class ItemFeed:
    """Feeds a snapshot with log records, batch by batch, from one thread a topic.

    Every reader of the two topics goes through here, so that a batch job knows what a gateway knows. A record that
    cannot be used is skipped; the outcomes say so, for the caller to count.
    """

    def __init__(self, snapshot: ItemSnapshot) -> None:
        self._snapshot = snapshot
        self._epochs: dict[int, int] = {}

    def take_items(self, partition: int, records: Iterable[Record]) -> Counter[Outcome]:
        """Records of `items`: put, or removed. What the archiver would make dead letters is `bad`."""
        good, bad = decode_items(partition, [LogRecord(r.offset, -1, r.key, r.value) for r in records])
        self._snapshot.put_items([item for _, item in good])
        return Counter({"applied": len(good), "bad": len(bad)})

    def take_features(self, records: Iterable[Record]) -> Counter[Outcome]:
        """Records of `item-features`: partial aggregates, and the markers that make those before them valid.

        What a writer that lost its lease still sent, partial or marker, is `stale`: it knows less than what is there.
        A partial of another layout is `layout`.
        """
        outcomes: Counter[Outcome] = Counter()
        held: dict[int, _Held] = {}
        for record in records:
            try:
                item_id, origin = parse_item_features_key(record.key)
                if not item_id:
                    epoch, reached = parse_marker_value(record.value)
                elif record.value is None:
                    held.setdefault(origin, _Held()).add(item_id, None)
                    continue
                else:
                    epoch, partial = parse_partial_value(record.value)
            except ValueError:
                outcomes["bad"] += 1
                continue
            if epoch < self._epochs.get(origin, 0):
                outcomes["stale"] += 1
            else:
                self._epochs[origin] = epoch
                if item_id:
                    held.setdefault(origin, _Held()).add(item_id, partial)
                    continue
                self._apply(origin, held.pop(origin, _Held()), outcomes)
                self._snapshot.mark(origin, reached)
                outcomes["marked"] += 1
        for origin, partials in held.items():
            self._apply(origin, partials, outcomes)
        return +outcomes

    def _apply(self, origin: int, held: "_Held", outcomes: Counter[Outcome]) -> None:
        errors = self._snapshot.apply_many(origin, held.item_ids, held.partials)
        mismatches = sum(isinstance(error, LayoutMismatch) for error in errors.values())
        outcomes["layout"] += mismatches
        outcomes["bad"] += len(errors) - mismatches
        outcomes["applied"] += len(held.item_ids) - len(errors)


class _Held:
    """Partials of one origin on their way into the snapshot; None is a tombstone."""

    def __init__(self) -> None:
        self.item_ids: list[int] = []
        self.partials: list[bytes | None] = []

    def add(self, item_id: int, partial: bytes | None) -> None:
        self.item_ids.append(item_id)
        self.partials.append(partial)


def item_features_key(item_id: int, partition: int) -> bytes:
    """Key on `item-features`: item id, then partition of origin, 12 bytes big-endian. Item 0 is the marker."""
    try:
        return _ITEM_FEATURES_KEY.pack(item_id, partition)
    except struct.error as exc:
        raise ValueError(f"item_id, partition: {item_id}, {partition} are no unsigned 64- and 32-bit numbers") from exc


def item_features_keys(item_ids: Ids, partition: int) -> Bytes:
    """`item_features_key` of each, uint8 (n, 12)."""
    keys = np.empty((len(item_ids), _ITEM_FEATURES_KEY.size), np.uint8)
    keys[:, :8] = item_ids.astype(">u8").view(np.uint8).reshape(len(item_ids), 8)
    keys[:, 8:] = np.frombuffer(item_features_key(0, partition)[8:], np.uint8)
    return keys


def parse_item_features_key(key: bytes | None) -> tuple[int, int]:
    """(item id, partition of origin) of a key made by `item_features_key`. ValueError for anything else."""
    if key is None or len(key) != _ITEM_FEATURES_KEY.size:
        length = "absent" if key is None else f"{len(key)} bytes"
        raise ValueError(f"key: {length}; a key of item-features has {_ITEM_FEATURES_KEY.size} bytes")
    item_id, partition = _ITEM_FEATURES_KEY.unpack(key)
    return int(item_id), int(partition)


def marker_value(epoch: int, offset: int) -> bytes:
    """Value of a marker on `item-features`: its origin's state below `offset` has been written, by this epoch."""
    try:
        return _MARKER.pack(epoch, offset)
    except struct.error as exc:
        raise ValueError(f"epoch, offset: {epoch}, {offset} are no unsigned 32- and 64-bit numbers") from exc


def parse_marker_value(value: bytes | None) -> tuple[int, int]:
    """(epoch, offset) of a value made by `marker_value`. ValueError for anything else."""
    if value is None or len(value) != _MARKER.size:
        length = "absent" if value is None else f"{len(value)} bytes"
        raise ValueError(f"marker: {length}; a marker of item-features has {_MARKER.size} bytes")
    epoch, offset = _MARKER.unpack(value)
    return int(epoch), int(offset)


def partial_value(epoch: int, partial: bytes) -> bytes:
    """Value of a partial on `item-features`: the epoch of its writer, then the packed aggregates.

    The log takes what a writer without a lease still sends, so each record says who wrote it.
    """
    try:
        return _EPOCH.pack(epoch) + partial
    except struct.error as exc:
        raise ValueError(f"epoch: {epoch} is no unsigned 32-bit number") from exc


def parse_partial_value(value: bytes) -> tuple[int, bytes]:
    """(epoch, packed aggregates) of a value made by `partial_value`. ValueError for one without an epoch."""
    if len(value) < _EPOCH.size:
        raise ValueError(f"partial: {len(value)} bytes; a partial of item-features begins with its writer's epoch")
    (epoch,) = _EPOCH.unpack_from(value)
    return int(epoch), value[_EPOCH.size :]
