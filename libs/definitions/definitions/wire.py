"""Protobuf's wire format for scanners: what they all need. https://protobuf.dev/programming-guides/encoding/.

The parts of a scanner take addresses: with an array they would count its references up and down for each field,
atomically, which costs more than reading it.
"""

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from numba.core import types
from numba.extending import intrinsic

from definitions.compiled import inlined

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int32]
Longs = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint32]
Flags = npt.NDArray[np.bool_]


def _loader(stored: Any, kind: Any) -> Any:
    @intrinsic
    def load(typingctx: Any, address: Any) -> Any:  # noqa: ARG001  numba's interface
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ARG001
            place = builder.inttoptr(arguments[0], context.get_value_type(stored).as_pointer())
            value = builder.load(place)
            value.align = 1
            return value if stored is kind else builder.zext(value, context.get_value_type(kind))

        return kind(types.int64), generate

    return load


# The number at an address, little-endian as the machine is; a byte as int64.
load_byte = cast("Callable[[int], int]", _loader(types.uint8, types.int64))
load_i64 = cast("Callable[[int], np.int64]", _loader(types.int64, types.int64))
load_u32 = cast("Callable[[int], np.uint32]", _loader(types.uint32, types.uint32))


@inlined
def varint(at: int, end: int) -> tuple[int, int]:
    """The 64 bits of a varint at an address and where it ends; -1 where `end` cuts it or it is longer than 64 bits."""
    if end - at < 2:  # else the next byte may be read before it is known to be wanted
        return _long_varint(at, end)
    bits = load_byte(at)
    if bits < 0x80:
        return bits, at + 1
    second = load_byte(at + 1)
    if second < 0x80:
        return (bits & 0x7F) | (second << 7), at + 2
    return _long_varint(at, end)


@inlined
def _long_varint(at: int, end: int) -> tuple[int, int]:
    bits, shift = 0, 0
    while at < end and shift <= 63:
        byte = load_byte(at)
        at += 1
        if shift == 63 and byte > 1:
            break
        bits |= (byte & 0x7F) << shift
        if byte < 0x80:
            return bits, at
        shift += 7
    return 0, -1


@inlined
def field_end(at: int, end: int) -> int:
    """Where the unknown field ends whose tag is at an address; -1 where it is cut, a group, or not surely unknown."""
    is_long = load_byte(at) >= 0x80
    tag, at = varint(at, end)
    if at < 0 or tag < 8 or tag >> 32 or (is_long and tag < 0x80):  # a known tag, in two bytes
        return -1
    kind = tag & 7
    if kind == 0:
        _, at = varint(at, end)
        return at
    if kind == 1:
        return at + 8 if end - at >= 8 else -1
    if kind == 5:
        return at + 4 if end - at >= 4 else -1
    if kind == 2:
        size, at = varint(at, end)
        return at + size if at >= 0 and 0 <= size <= end - at else -1
    return -1
