"""Protobuf's wire format for scanners: what they all need. https://protobuf.dev/programming-guides/encoding/."""

from typing import Any

import numpy as np
import numpy.typing as npt

from definitions.compiled import inlined

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int32]
Longs = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint32]
Flags = npt.NDArray[np.bool_]


@inlined
def varint(data: Bytes, at: int, end: int) -> tuple[Any, int]:
    """A varint's 64 bits and where it ends; -1 where it is cut by `end` or longer than 64 bits."""
    if at >= end:
        return np.uint64(0), -1
    byte = data[at]
    if byte < 0x80:
        return np.uint64(byte), at + 1
    bits = np.uint64(byte & 0x7F)
    shift = np.uint64(7)
    at += 1
    while at < end:
        byte = data[at]
        at += 1
        if shift == np.uint64(63) and byte > 1:
            break
        bits |= np.uint64(byte & 0x7F) << shift
        if byte < 0x80:
            return bits, at
        shift += np.uint64(7)
    return np.uint64(0), -1


@inlined
def skip_field(data: Bytes, at: int, end: int) -> int:
    """Where the unknown field ends whose tag is at byte `at`; -1 where it is cut, a group, or not surely unknown."""
    is_long = data[at] >= 0x80
    tag, at = varint(data, at, end)
    if at < 0 or tag < 8 or tag >> np.uint64(32) or (is_long and tag < 0x80):  # a known tag, in two bytes
        return -1
    kind = tag & np.uint64(7)
    if kind == 0:
        _, at = varint(data, at, end)
        return at
    if kind == 1:
        return at + 8 if end - at >= 8 else -1
    if kind == 5:
        return at + 4 if end - at >= 4 else -1
    if kind == 2:
        size, at = varint(data, at, end)
        return at + int(size) if at >= 0 and size <= np.uint64(end - at) else -1
    return -1
