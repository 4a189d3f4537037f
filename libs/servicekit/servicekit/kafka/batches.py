"""Kernels over the bytes of a fetch: where its record batches are, and what their records hold.

Formats: https://kafka.apache.org/documentation/#messageformat (record batches, magic 2). Every read is bounded by its
batch; nothing raises.
"""

from collections.abc import Callable
from typing import Any, Final, ParamSpec, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt
from numba.core import types
from numba.extending import intrinsic

P = ParamSpec("P")
R = TypeVar("R")

Bytes = npt.NDArray[np.uint8]
Longs = npt.NDArray[np.int64]
Ints = npt.NDArray[np.int32]

HEADER_BYTES: Final = 61
CRC_FROM: Final = 21  # the checksum covers everything from the attributes on
_OVERHEAD: Final = 12  # base offset and length, which the length does not count
LEAST_BYTES: Final = 17  # up to the magic byte
LEAST_RECORD: Final = 7  # a record has seven fields of at least a byte

# Columns of a table of batches, one row each.
START: Final = 0  # where its header begins
END: Final = 1
BASE: Final = 2  # offset of its first record
MAGIC: Final = 3
EPOCH: Final = 4
CRC: Final = 5
ATTRIBUTES: Final = 6
LAST_DELTA: Final = 7  # offset of its last record, less BASE; compaction leaves it as it was
FIRST_MS: Final = 8
MAX_MS: Final = 9
PRODUCER: Final = 10
COUNT: Final = 11
COLUMNS: Final = 12

CODEC: Final = 0x07
APPEND_TIME: Final = 0x08
TRANSACTIONAL: Final = 0x10
CONTROL: Final = 0x20

_MOST_MS: Final = 2**63 // 1000 - 1  # a time beyond it has no microseconds


def _kernel(function: Callable[P, R]) -> Callable[P, R]:
    """Compiled on the first call, kept beside the source or below NUMBA_CACHE_DIR; runs without the GIL."""
    return cast("Callable[P, R]", numba.njit(cache=True, nogil=True, error_model="numpy")(function))


def _inlined(function: Callable[P, R]) -> Callable[P, R]:
    """A part of kernels of this file."""
    return cast("Callable[P, R]", numba.njit(nogil=True, error_model="numpy")(function))


@intrinsic
def _load_byte(typingctx: Any, address: Any) -> Any:  # noqa: ARG001  numba's interface
    """The byte at an address, as int64.

    A part that took the array instead would count its references up and down, atomically: ten times the time of a walk.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ARG001
        place = builder.inttoptr(arguments[0], context.get_value_type(types.uint8).as_pointer())
        return builder.zext(builder.load(place), context.get_value_type(types.int64))

    return types.int64(types.int64), generate


_byte = cast("Callable[[int], int]", _load_byte)


@_inlined
def _big_endian(data: Bytes, at: int, size: int) -> Any:
    value = np.int64(0)
    for index in range(size):
        value = (value << 8) | np.int64(data[at + index])
    return value


@_inlined
def _int32(data: Bytes, at: int) -> Any:
    return np.int64(np.int32(np.uint32(_big_endian(data, at, 4))))


@_kernel
def batch_bytes(data: Bytes, at: int) -> int:
    """How many bytes the batch has that begins at byte `at`, by its own account."""
    return int(_OVERHEAD + _int32(data, at + 8))


@_kernel
def count_batches(data: Bytes) -> int:
    """How many whole batches lie in `data`, uint8 (bytes,); what follows them is cut, or no batch."""
    count, at = 0, 0
    while at + LEAST_BYTES <= len(data):
        length = _int32(data, at + 8)
        if length < LEAST_BYTES - _OVERHEAD or at + _OVERHEAD + length > len(data):
            break
        at += _OVERHEAD + length
        count += 1
    return count


@_kernel
def find_batches(data: Bytes, count: int) -> Longs:
    """Headers of the first `count` batches: int64 (count, COLUMNS). Of one too short for its header: 0 from CRC on."""
    table = np.zeros((count, COLUMNS), np.int64)
    at = 0
    for index in range(count):
        row = table[index]
        row[START] = at
        row[END] = at + _OVERHEAD + _int32(data, at + 8)
        row[BASE] = _big_endian(data, at, 8)
        row[EPOCH] = _int32(data, at + 12)
        row[MAGIC] = np.int64(np.int8(data[at + 16]))
        if row[END] - at >= HEADER_BYTES:
            row[CRC] = _big_endian(data, at + 17, 4)
            row[ATTRIBUTES] = _big_endian(data, at + 21, 2)
            row[LAST_DELTA] = _int32(data, at + 23)
            row[FIRST_MS] = _big_endian(data, at + 27, 8)
            row[MAX_MS] = _big_endian(data, at + 35, 8)
            row[PRODUCER] = _big_endian(data, at + 43, 8)
            row[COUNT] = _int32(data, at + 57)
        at = row[END]
    return table


@_inlined
def _varint(at: int, end: int) -> tuple[int, int]:
    """A zigzag varint at an address and where it ends; -1 where it is cut by `end` or longer than 64 bits."""
    if end - at < 2:  # else the next byte may be read before it is known to be wanted
        return _long_varint(at, end)
    bits = _byte(at)
    if bits < 0x80:
        return (bits >> 1) ^ -(bits & 1), at + 1
    second = _byte(at + 1)
    if second < 0x80:
        bits = (bits & 0x7F) | (second << 7)
        return (bits >> 1) ^ -(bits & 1), at + 2
    return _long_varint(at, end)


@_inlined
def _long_varint(at: int, end: int) -> tuple[int, int]:
    bits, shift = 0, 0
    while at < end and shift <= 63:
        byte = _byte(at)
        at += 1
        bits |= (byte & 0x7F) << shift
        if byte < 0x80:
            if shift == 63 and byte > 1:
                break
            return ((bits >> 1) & 0x7FFF_FFFF_FFFF_FFFF) ^ -(bits & 1), at
        shift += 7
    return 0, -1


@_inlined
def _headers_end(at: int, end: int) -> int:
    """Where a record's headers end; -1 where they are none. Header keys are not checked to be UTF-8."""
    count, at = _varint(at, end)
    if at < 0 or count < 0:
        return -1
    while count > 0:
        size, at = _varint(at, end)
        if at < 0 or size < 0 or size > end - at:
            return -1
        size, at = _varint(at + size, end)
        if at < 0 or size > end - at:
            return -1
        at += max(size, 0)
        count -= 1
    return at


@_kernel
def walk_records(
    data: Bytes,
    table: Longs,
    wanted: int,
    offset: Longs,
    timestamp_us: Longs,
    key_start: Ints,
    key_size: Ints,
    value_start: Ints,
    value_size: Ints,
) -> tuple[int, int]:
    """Write the records of consecutive batches into columns.

    A batch is refused as a whole if one of its records is not well formed, if they do not fill it, or if their offsets
    do not ascend within it: brokers store no such batch.

    Args:
        data: uint8 (bytes,), where the records lie uncompressed.
        table: int64 (batches, COLUMNS); START here is where a batch's first record begins.
        wanted: records below this offset are left out.
        offset, timestamp_us: int64 (n,), written; n at least the sum of COUNT.
        key_start, key_size, value_start, value_size: int32 (n,), written; size -1 = null.

    Returns:
        How many records were written, and how many batches they are of: below len(table) where the next is refused.
    """
    n = 0
    here = data.ctypes.data
    for index in range(len(table)):
        begun = n
        base, last_delta = table[index, BASE], table[index, LAST_DELTA]
        first_ms, max_ms = table[index, FIRST_MS], table[index, MAX_MS]
        stamped = table[index, ATTRIBUTES] & APPEND_TIME != 0
        at, end = here + table[index, START], here + table[index, END]
        before = base - 1
        for _ in range(table[index, COUNT]):
            length, at = _varint(at, end)
            if at < 0 or length < 0 or length > end - at:
                return begun, index
            record_end = at + length
            _, at = _varint(at, record_end)  # attributes: unused
            delta_ms, at = _varint(at, record_end) if at >= 0 else (0, -1)
            delta, at = _varint(at, record_end) if at >= 0 else (0, -1)
            keys, at = _varint(at, record_end) if at >= 0 else (0, -1)
            if at < 0 or keys > record_end - at:
                return begun, index
            key_at = at
            values, at = _varint(at + max(keys, 0), record_end)
            if at < 0 or values > record_end - at:
                return begun, index
            value_at = at
            if _headers_end(at + max(values, 0), record_end) != record_end:
                return begun, index
            at = record_end
            if delta > last_delta or base + delta <= before:
                return begun, index
            before = base + delta
            if before < wanted:
                continue
            stamp_ms = max_ms if stamped else first_ms + delta_ms
            offset[n] = before
            timestamp_us[n] = min(max(stamp_ms, -_MOST_MS), _MOST_MS) * 1000
            key_start[n], key_size[n] = key_at - here, max(keys, -1)
            value_start[n], value_size[n] = value_at - here, max(values, -1)
            n += 1
        if at != end:
            return begun, index
        wanted = max(wanted, base + last_delta + 1)
    return n, len(table)


@_inlined
def _put_varint(out: Bytes, at: int, value: int) -> int:
    """Write a number that is not negative, zigzag; where it ends."""
    bits = value << 1
    while bits >= 0x80:
        out[at] = (bits & 0x7F) | 0x80
        bits >>= 7
        at += 1
    out[at] = bits
    return at + 1


@_inlined
def _varint_bytes(value: int) -> int:
    bits, size = value >> 6, 1
    while bits:
        bits >>= 7
        size += 1
    return size


@_kernel
def write_records(keys: Bytes, prefix: Bytes, data: Bytes, bounds: Longs, first: int, out: Bytes) -> tuple[int, int]:
    """Write records of one batch, offsets from 0, no time of their own, no headers, until `out` is full.

    Args:
        keys: uint8 (n, size).
        prefix: uint8 (size,), what each value begins with.
        data: uint8 (bytes,), the rest of value i between `bounds[i]` and `bounds[i + 1]`, int64 (n + 1,).
        first: number of the first record.
        out: uint8 (bytes,), written.

    Returns:
        The number of the first record that does not fit, n if all do; and how many bytes were written.
    """
    at = 0
    for i in range(first, len(keys)):
        key_size, size = keys.shape[1], len(prefix) + bounds[i + 1] - bounds[i]
        body = (
            3 + _varint_bytes(i - first) + _varint_bytes(key_size) + key_size + _varint_bytes(size) + size
        )  # and a byte each for attributes, time and headers
        if at + _varint_bytes(body) + body > len(out):
            return i, at
        at = _put_varint(out, at, body)
        out[at] = out[at + 1] = 0
        at = _put_varint(out, at + 2, i - first)
        at = _put_varint(out, at, key_size)
        out[at : at + key_size] = keys[i]
        at = _put_varint(out, at + key_size, size)
        out[at : at + len(prefix)] = prefix
        at += len(prefix)
        out[at : at + bounds[i + 1] - bounds[i]] = data[bounds[i] : bounds[i + 1]]
        at += bounds[i + 1] - bounds[i]
        out[at] = 0
        at += 1
    return len(keys), at
