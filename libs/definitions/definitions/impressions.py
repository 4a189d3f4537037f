"""Impressions whose arrays over the candidates stay the bytes that they are on the wire, for who reads many of them.

protobuf makes a Python object of each number that is asked for, 84 us for 100 candidates. A packed array is its
numbers' bytes, and on the wire `bytes` looks like it: a second type, made of the contract's own, declares it so.
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.unknown_fields import UnknownFieldSet
from millrace.events.v1 import events_pb2 as pb

PackedImpression = Any
"""`pb.Impression` in every field but ARRAYS, each of which holds its bytes: none, or one packed array."""

ARRAYS: Final[dict[str, npt.DTypeLike]] = {
    "item_ids": "<u8",
    "scores": "<f4",
    "propensities": "<f4",
    "positions": np.uint32,  # varints
    "unknown": np.bool_,
}
"""The fields that stay bytes, and what their numbers are."""

_FIXED: Final = {"item_ids": 8, "scores": 4, "propensities": 4}  # bytes of a number
_NUMBERS: Final = frozenset(pb.Impression.DESCRIPTOR.fields_by_name[name].number for name in ARRAYS)
_GOES_ON: Final = bytes(range(0x80, 0x100))  # a varint's bytes but its last


def _message_type() -> Any:
    pool = DescriptorPool()

    def add(file: FileDescriptor) -> None:
        for dependency in file.dependencies:
            add(dependency)
        told = FileDescriptorProto()
        file.CopyToProto(told)
        for message in told.message_type:
            for field in message.field:
                if message.name == pb.Impression.DESCRIPTOR.name and field.name in ARRAYS:
                    field.type = FieldDescriptorProto.TYPE_BYTES
        pool.Add(told)

    add(pb.DESCRIPTOR)
    return GetMessageClass(pool.FindMessageTypeByName(pb.Impression.DESCRIPTOR.full_name))


_Packed: Final = _message_type()


def read_packed(value: bytes) -> PackedImpression:
    """What `pb.Impression` reads. DecodeError where that raises it."""
    message = _Packed.FromString(value)
    if _is_usual(message):
        return message
    # Arrays in several pieces, not packed, or broken: protobuf itself reads and writes them, or refuses.
    return _Packed.FromString(pb.Impression.FromString(value).SerializeToString())


def packed(message: pb.Impression) -> PackedImpression:
    """The same impression."""
    return read_packed(message.SerializeToString())


def length(message: PackedImpression, name: str) -> int:
    """How many numbers one of ARRAYS has."""
    if not (pieces := getattr(message, name)):
        return 0
    piece: bytes = pieces[0]
    size = _FIXED.get(name)
    return len(piece.translate(None, _GOES_ON)) if size is None else len(piece) // size


def numbers(messages: Sequence[PackedImpression], name: str) -> npt.NDArray[Any]:
    """One of ARRAYS of all messages, one after the other."""
    joined = np.frombuffer(b"".join([piece for each in messages for piece in getattr(each, name)]), np.uint8)
    if name in _FIXED:
        return joined.view(ARRAYS[name])
    return _varints(joined).astype(ARRAYS[name])


def _is_usual(message: PackedImpression) -> bool:
    for name in ARRAYS:
        pieces = getattr(message, name)
        if len(pieces) > 1:
            return False
        if pieces and (len(pieces[0]) % _FIXED[name] if name in _FIXED else not pieces[0].isascii()):
            return False
    unknown = UnknownFieldSet(message)
    return not any(unknown[at].field_number in _NUMBERS for at in range(len(unknown)))


def _varints(joined: npt.NDArray[np.uint8]) -> npt.NDArray[np.unsignedinteger[Any]]:
    """Whole varints of at most 32 bits: the low seven bits of each byte count, the first ones least."""
    if not (joined >= 0x80).any():
        return joined
    starts = np.flatnonzero(np.concatenate([[True], joined[:-1] < 0x80]))
    within = np.arange(len(joined)) - np.repeat(starts, np.diff(np.append(starts, len(joined))))
    return np.add.reduceat((joined & 0x7F).astype(np.uint64) << (7 * within).astype(np.uint64), starts)
