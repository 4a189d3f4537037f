"""Names and keys of the topics. Their partitions and retention are declared in `infra/kafka/topics.yaml`."""

import re
import struct
from typing import Final, Literal, get_args

Kind = Literal["interactions", "impressions", "items", "users", "item-features"]

KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
DECISIONS: Final = "decisions"
DEAD_LETTERS: Final = "dead-letters"

_USECASE = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")  # a Kafka name has at most 249 characters, without dots here
_ID_KEY = struct.Struct(">Q")
_ITEM_FEATURES_KEY = struct.Struct(">QI")
_MARKER = struct.Struct(">IQ")


def topic(usecase: str, kind: Kind) -> str:
    """Name of a use case's topic, e.g. `movies.interactions`.

    Raises:
        ValueError: the use case's name cannot be part of a topic's, or the kind is none of `KINDS`.
    """
    if not _USECASE.fullmatch(usecase):
        raise ValueError(f"usecase: {usecase!r} cannot name topics; use lower-case letters, digits, '-' and '_'")
    if kind not in KINDS:
        raise ValueError(f"kind: {kind!r} is no topic of a use case; use one of {', '.join(KINDS)}")
    return f"{usecase}.{kind}"


def id_key(record_id: int) -> bytes:
    """Key of a record that belongs to one id: 8 bytes, big-endian. ValueError outside 0 to 2**64 - 1."""
    try:
        return _ID_KEY.pack(record_id)
    except struct.error as exc:
        raise ValueError(f"id: {record_id} is no unsigned 64-bit number") from exc


def parse_id_key(key: bytes | None) -> int:
    """The id in a key made by `id_key`. ValueError for anything that is not 8 bytes."""
    if key is None or len(key) != _ID_KEY.size:
        raise ValueError(f"key: {'absent' if key is None else f'{len(key)} bytes'}; an id key has {_ID_KEY.size} bytes")
    (record_id,) = _ID_KEY.unpack(key)
    return int(record_id)


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
