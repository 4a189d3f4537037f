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


def item_features_topic(usecase: str, revision: int) -> str:
    """Name of the topic of item partials under a revision: `movies.item-features`, from the second on with its number.

    Revisions write side by side, and none reads what another has written. ValueError as `topic`, or for a revision
    below 1.
    """
    if revision < 1:
        raise ValueError(f"revision: {revision}; revisions count from 1")
    first = topic(usecase, "item-features")
    return first if revision == 1 else f"{first}.{revision}"


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
