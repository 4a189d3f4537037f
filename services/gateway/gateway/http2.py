"""Unary gRPC calls over one HTTP/2 connection of the event loop, and nothing else: no task, no thread, no deadline.

grpc.aio took 136 to 340 us of processor for a call to Triton, this 35 to 83 (docs/adr/0038). RFC 9113
(HTTP/2), RFC 7541 (HPACK, by the `hpack` library), gRPC's PROTOCOL-HTTP2.
"""

import asyncio
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, cast
from urllib.parse import unquote

from hpack import Decoder, Encoder, HPACKError

_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE, _CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
_END_STREAM, _END_HEADERS, _PADDED, _PRIORITY, _ACK = 0x1, 0x4, 0x8, 0x20, 0x1
_TABLE_SIZE, _MAX_STREAMS, _STREAM_WINDOW, _MAX_FRAME = 1, 3, 4, 5
_FIRST_WINDOW: Final = 65_535
_WINDOW: Final = 2**31 - 1  # ours: the peer never waits to send an answer
_REFILL: Final = 2**30
_LAST_STREAM: Final = 2**31 - 1
_WORD, _HEAD, _DATA_HEAD = struct.Struct(">I"), struct.Struct(">HBBBI"), struct.Struct(">BI")
Part = bytes | memoryview

OK, UNKNOWN, INTERNAL, UNAVAILABLE = 0, 2, 13, 14


@dataclass(frozen=True, slots=True)
class Reply:
    """How a call ended: gRPC's number of the status, the message's bytes (OK only), what the server said (else)."""

    status: int
    message: bytes = b""
    detail: str = ""


class _Stream:
    """One call under way. `unsent`: of its body; `window`: how much of it the peer takes now."""

    __slots__ = ("body", "ended", "unsent", "window")

    def __init__(self, ended: Callable[[Reply], None], window: int) -> None:
        self.ended = ended
        self.window = window
        self.unsent = memoryview(b"")
        self.body = b""


class Connection(asyncio.Protocol):
    """One connection, made by `loop.create_connection`. `lost` says why it can no longer be used."""

    def __init__(self, headers: bytes) -> None:
        """`headers`: `request_headers` of every call."""
        self._headers = headers
        self._transport: asyncio.Transport
        self._streams: dict[int, _Stream] = {}
        self._blocked: dict[int, _Stream] = {}  # with an unsent rest, in order
        self._next = 1
        self._rest = b""
        self._block: tuple[int, int, bytes] | None = None  # stream, flags and bytes of headers that go on
        self._window = self._first_window = _FIRST_WINDOW
        self._frame_bytes = 16_384
        self._most = _LAST_STREAM
        self._received = 0
        self._heard = False
        self._retiring = False  # the peer wants no new calls here
        self.lost: str | None = None

    @property
    def takes_calls(self) -> bool:
        """Whether a call may begin here."""
        return (
            self.lost is None and not self._retiring and len(self._streams) < self._most and self._next < _LAST_STREAM
        )

    @property
    def calls(self) -> int:
        """Calls under way."""
        return len(self._streams)

    def call(self, parts: Sequence[Part], ended: Callable[[Reply], None]) -> None:
        """Send the message that `parts` make up; `ended` is told once, from the loop, whatever happens."""
        number = self._next
        self._next += 2
        stream = self._streams[number] = _Stream(ended, self._first_window)
        size = sum(map(len, parts))
        begin = _HEAD.pack(len(self._headers) >> 8, len(self._headers) & 255, _HEADERS, _END_HEADERS, number)
        if 5 + size > min(self._frame_bytes, stream.window, self._window) or self._blocked:
            stream.unsent = memoryview(b"".join((_DATA_HEAD.pack(0, size), *parts)))
            self._blocked[number] = stream
            self._transport.write(begin + self._headers)
            self._pump()
            return
        stream.window -= 5 + size
        self._window -= 5 + size
        data = _HEAD.pack((5 + size) >> 8, (5 + size) & 255, _DATA, _END_STREAM, number)
        self._transport.write(b"".join((begin, self._headers, data, _DATA_HEAD.pack(0, size), *parts)))

    def ping(self) -> None:
        """Ask for a sign of life; `heard` tells whether one came since."""
        self._heard = False
        self._transport.write(_frame(_PING, 0, 0, b"millrace"))

    @property
    def heard(self) -> bool:
        """Whether anything came since the last `ping`."""
        return self._heard

    def drop(self, why: str) -> None:
        """Close at once; calls under way end as UNAVAILABLE."""
        if self.lost is None:
            self.lost = why
            self._transport.abort()
            self._end_all(self._streams, why)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The loop's: preface, and settings that let the peer send whatever it has, without a table of headers."""
        self._transport = cast("asyncio.Transport", transport)
        settings = struct.pack(">HIHI", _TABLE_SIZE, 0, _STREAM_WINDOW, _WINDOW)
        more = _frame(_WINDOW_UPDATE, 0, 0, _WORD.pack(_WINDOW - _FIRST_WINDOW))
        self._transport.write(_PREFACE + _frame(_SETTINGS, 0, 0, settings) + more)

    def connection_lost(self, exc: Exception | None) -> None:
        """The loop's: the peer went away, or `drop`."""
        self.drop(f"connection lost: {exc or 'closed by the server'}")

    def data_received(self, data: bytes) -> None:
        """The loop's: any part of any number of frames."""
        self._heard = True
        if self._rest:
            data = self._rest + data
        at, end = 0, len(data)
        try:
            while end - at >= 9:
                high, low, kind, flags, number = _HEAD.unpack_from(data, at)
                after = at + 9 + (high << 8 | low)
                if after > end:
                    break
                self._take(kind, flags, number & _LAST_STREAM, data[at + 9 : after])
                at = after
        except (struct.error, IndexError, HPACKError) as exc:
            self.drop(f"no HTTP/2: {exc}")
        self._rest = data[at:]

    def _take(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        match kind:
            case 0:  # DATA
                self._take_data(flags, number, payload)
            case 1:  # HEADERS
                self._take_headers(flags, number, _unpadded(flags, payload)[5 if flags & _PRIORITY else 0 :])
            case 9 if self._block is not None:  # CONTINUATION
                self._take_headers(self._block[1] | flags & _END_HEADERS, number, self._block[2] + payload)
            case 3:  # RST_STREAM
                (reason,) = _WORD.unpack(payload)
                self._end(number, Reply(UNAVAILABLE, detail=f"stream reset: {reason}"))
            case 4 if not flags & _ACK:  # SETTINGS
                self._take_settings(payload)
            case 6 if not flags & _ACK:  # PING
                self._transport.write(_frame(_PING, _ACK, 0, payload))
            case 7:  # GOAWAY: streams above the last were never looked at
                self._retiring = True
                last = _WORD.unpack_from(payload)[0] & _LAST_STREAM
                self._end_all([n for n in self._streams if n > last], "the server is going away")
                if not self._streams:
                    self.drop("the server is going away")
            case 8:  # WINDOW_UPDATE
                (more,) = _WORD.unpack(payload)
                if number == 0:
                    self._window += more
                elif (stream := self._streams.get(number)) is not None:
                    stream.window += more
                self._pump()

    def _take_data(self, flags: int, number: int, payload: bytes) -> None:
        self._received += len(payload)
        if self._received >= _REFILL:
            self._transport.write(_frame(_WINDOW_UPDATE, 0, 0, _WORD.pack(self._received)))
            self._received = 0
        if (stream := self._streams.get(number)) is not None:
            body = _unpadded(flags, payload)
            stream.body = stream.body + body if stream.body else body
            if flags & _END_STREAM:
                self._end(number, Reply(INTERNAL, detail="the answer has no status"))

    def _take_headers(self, flags: int, number: int, block: bytes) -> None:
        if not flags & _END_HEADERS:
            self._block = (number, flags, block)
            return
        self._block = None
        if flags & _END_STREAM and (stream := self._streams.get(number)) is not None:
            status, detail = _trailers(block)
            body = stream.body
            if status == OK and (len(body) < 5 or _DATA_HEAD.unpack_from(body) != (0, len(body) - 5)):
                status, detail = INTERNAL, "the answer is not one uncompressed message"
            self._end(number, Reply(status, body[5:] if status == OK else b"", detail))

    def _take_settings(self, payload: bytes) -> None:
        for name, value in struct.iter_unpack(">HI", payload):
            if name == _MAX_STREAMS:
                self._most = value
            elif name == _MAX_FRAME:
                self._frame_bytes = value
            elif name == _STREAM_WINDOW:
                for stream in self._streams.values():
                    stream.window += value - self._first_window
                self._first_window = value
        self._transport.write(_frame(_SETTINGS, _ACK, 0, b""))
        self._pump()

    def _pump(self) -> None:
        """Send of what is blocked as much as the peer takes, call by call."""
        for number, stream in list(self._blocked.items()):
            while stream.unsent and (fits := min(stream.window, self._window, self._frame_bytes)) > 0:
                part, stream.unsent = stream.unsent[:fits], stream.unsent[fits:]
                stream.window -= len(part)
                self._window -= len(part)
                self._transport.write(_frame(_DATA, 0 if stream.unsent else _END_STREAM, number, part))
            if not stream.unsent:
                del self._blocked[number]

    def _end(self, number: int, reply: Reply) -> None:
        if (stream := self._streams.pop(number, None)) is not None:
            self._blocked.pop(number, None)
            stream.ended(reply)
            if self._retiring and not self._streams:
                self.drop("the server is going away")

    def _end_all(self, numbers: "Sequence[int] | dict[int, _Stream]", why: str) -> None:
        for number in list(numbers):
            self._end(number, Reply(UNAVAILABLE, detail=why))


def request_headers(method: str, authority: str) -> bytes:
    """The header block of a call to `/package.Service/Method`; it needs no table, so it is the same for every call."""
    fields = (
        (":method", "POST"),
        (":scheme", "http"),
        (":path", method),
        (":authority", authority),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
    )
    return Encoder().encode([(name, value, True) for name, value in fields], huffman=True)


def _frame(kind: int, flags: int, number: int, payload: Part) -> bytes:
    return b"".join((_HEAD.pack(len(payload) >> 8, len(payload) & 255, kind, flags, number), payload))


def _unpadded(flags: int, payload: bytes) -> bytes:
    return payload[1 : len(payload) - payload[0]] if flags & _PADDED else payload


@lru_cache(maxsize=256)
def _trailers(block: bytes) -> tuple[int, str]:
    """gRPC's status and message. The peer has no table of headers, so equal bytes are equal headers."""
    fields = {str(name): str(value) for name, value in Decoder().decode(block)}
    status = fields.get("grpc-status", "")
    if not status.isdecimal():
        return UNKNOWN, f"HTTP status {fields.get(':status', 'unknown')}"
    return int(status), unquote(fields.get("grpc-message", ""))
