"""Kafka's compression codecs, each bounded: a batch of a megabyte must not become gigabytes."""

import struct
import zlib
from collections.abc import Callable, Mapping
from typing import Final

import lz4.frame
import snappy
import zstandard

MOST_BYTES: Final = 64 << 20
"""What one record batch may come to: 64 times the largest that producers may send."""

_XERIAL: Final = b"\x82SNAPPY\x00"  # the Java library's framing: 16 bytes, then blocks of (int32 size, raw snappy)
_XERIAL_BYTES: Final = 16


class BadPayload(Exception):
    """The payload is not what its codec says, or decompresses to more than MOST_BYTES."""


def decompress(codec: int, payload: bytes) -> bytes:
    """The records of a batch, uncompressed; `codec` is one of CODECS.

    Raises:
        BadPayload: for whatever the codec's library says against it.
    """
    name, read = CODECS[codec]
    try:
        found = read(payload)
    except Exception as exc:  # each library has errors of its own, not all of them documented
        raise BadPayload(f"{name}: {exc}") from exc
    if len(found) > MOST_BYTES:
        raise BadPayload(f"{name}: more than {MOST_BYTES >> 20} MiB uncompressed")
    return found


def _gzip(payload: bytes) -> bytes:
    found, parts = 0, []
    while payload:  # members follow one another
        member = zlib.decompressobj(wbits=31)
        parts.append(member.decompress(payload, MOST_BYTES + 1 - found))
        found += len(parts[-1])
        if found > MOST_BYTES:
            break
        if not member.eof:
            raise EOFError("cut short")
        payload = member.unused_data
    return b"".join(parts)


def _snappy(payload: bytes) -> bytes:
    if not payload.startswith(_XERIAL) or len(payload) <= _XERIAL_BYTES:
        return _snappy_block(payload)
    found, parts, at = 0, [], _XERIAL_BYTES
    while at < len(payload) and found <= MOST_BYTES:
        (size,) = struct.unpack_from(">i", payload, at)
        if size < 0 or at + 4 + size > len(payload):
            raise EOFError("cut short")
        parts.append(_snappy_block(payload[at + 4 : at + 4 + size]))
        found += len(parts[-1])
        at += 4 + size
    return b"".join(parts)


def _snappy_block(block: bytes) -> bytes:
    size = 0
    for index, byte in enumerate(block[:5]):  # its length comes first, as a varint
        size |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            break
    if size > MOST_BYTES:
        raise ValueError(f"{size} bytes uncompressed")
    return bytes(snappy.uncompress(block))


def _lz4(payload: bytes) -> bytes:
    frame = lz4.frame.LZ4FrameDecompressor()
    found = frame.decompress(payload, max_length=MOST_BYTES + 1)
    if not frame.eof and len(found) <= MOST_BYTES:
        raise EOFError("cut short")
    return bytes(found)


def _zstd(payload: bytes) -> bytes:
    with zstandard.ZstdDecompressor().stream_reader(payload, read_across_frames=True) as reader:
        return reader.read(MOST_BYTES + 1)


CODECS: Final[Mapping[int, tuple[str, Callable[[bytes], bytes]]]] = {
    1: ("gzip", _gzip),
    2: ("snappy", _snappy),
    3: ("lz4", _lz4),
    4: ("zstd", _zstd),
}
"""Codec of a batch's attributes -> its name and how to read it. 0 is none."""
