"""The records of `items` and `item-features`: their keys and markers, and how they reach a snapshot."""

import struct
from typing import Literal

from definitions.errors import DefinitionsError, LayoutMismatch
from definitions.item_snapshot import ItemSnapshot
from definitions.records import LogRecord, decode_items

_ITEM_FEATURES_KEY = struct.Struct(">QI")
_MARKER = struct.Struct(">IQ")
_EPOCH = struct.Struct(">I")

Outcome = Literal["applied", "marked", "bad", "layout", "stale"]


class ItemFeed:
    """Feeds a snapshot with log records, one at a time, from one thread a topic.

    Every reader of the two topics goes through here, so that a batch job knows what a gateway knows. A record that
    cannot be used is skipped; the outcome says so, for the caller to count.
    """

    def __init__(self, snapshot: ItemSnapshot) -> None:
        self._snapshot = snapshot
        self._epochs: dict[int, int] = {}

    def take_item(self, partition: int, offset: int, key: bytes | None, value: bytes | None) -> Outcome:
        """A record of `items`: put, or removed. What the archiver would make a dead letter is `bad`."""
        good, bad = decode_items(partition, [LogRecord(offset, -1, key, value)])
        for _, item in good:
            self._snapshot.put_item(item)
        return "bad" if bad else "applied"

    def take_features(self, key: bytes | None, value: bytes | None) -> Outcome:
        """A record of `item-features`: a partial aggregate, or the marker that makes those before it valid.

        What a writer that lost its lease still sent, partial or marker, is `stale`: it knows less than what is there.
        A partial of another layout is `layout`.
        """
        try:
            item_id, origin = parse_item_features_key(key)
            newest = self._epochs.get(origin, 0)
            if not item_id:
                epoch, reached = parse_marker_value(value)
                if epoch < newest:
                    return "stale"
                self._snapshot.mark(origin, reached)
            elif value is None:
                self._snapshot.apply(origin, item_id, None)
                return "applied"
            else:
                epoch, partial = parse_partial_value(value)
                if epoch < newest:
                    return "stale"
                self._snapshot.apply(origin, item_id, partial)
        except LayoutMismatch:
            return "layout"
        except (ValueError, DefinitionsError):
            return "bad"
        self._epochs[origin] = epoch
        return "applied" if item_id else "marked"


def item_features_key(item_id: int, partition: int) -> bytes:
    """Key on `item-features`: item id, then partition of origin, 12 bytes big-endian. Item 0 is the marker."""
    try:
        return _ITEM_FEATURES_KEY.pack(item_id, partition)
    except struct.error as exc:
        raise ValueError(f"item_id, partition: {item_id}, {partition} are no unsigned 64- and 32-bit numbers") from exc


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
