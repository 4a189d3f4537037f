"""One HTTP/2 connection with unary gRPC calls on it, and nothing else: 15 % of what grpcio's clients cost a call.

The generator shares its cores with what it measures. grpcio took 340 to 580 us of processor a call, this takes 70 to
160 (docs/adr/0045-the-load-generator-speaks-http2-itself.md). RFC 9113 (HTTP/2), RFC 7541 (HPACK, by the `hpack`
library) and gRPC over HTTP/2 as the gRPC project specifies it.
"""

import socket
import ssl
import struct
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final
from urllib.parse import unquote

from hpack import Decoder, Encoder, HPACKError

from loadtest.access import Access

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM, END_HEADERS, PADDED, PRIORITY, ACK = 0x1, 0x4, 0x8, 0x20, 0x1
HEADER_TABLE_SIZE, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE = 1, 3, 4
WINDOW: Final = 2**31 - 1  # ours: nobody ever waits to send us an answer
_FIRST_WINDOW: Final = 65_535
_REFILL: Final = 2**30
MAX_FRAME: Final = 16_384
MAX_MESSAGE: Final = _FIRST_WINDOW - 5  # what a stream may take before the peer has said more
_RECEIVE: Final = 1 << 18
_CANCEL, _REFUSED = 8, 7
_HEAD: Final = struct.Struct(">I")
_MAX_STREAM: Final = 2**31 - 1
STATUS: Final = (  # by number
    "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
    "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
    "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
)  # fmt: skip
_OF_HTTP: Final = {"400": "INTERNAL", "401": "UNAUTHENTICATED", "403": "PERMISSION_DENIED", "404": "UNIMPLEMENTED"}
_OF_RESET: Final = {7: "UNAVAILABLE", 8: "CANCELLED", 11: "RESOURCE_EXHAUSTED", 12: "PERMISSION_DENIED"}
PUSH_BACK: Final = "grpc-retry-pushback-ms"


@dataclass(frozen=True, slots=True)
class Answer:
    """How a call ended: a gRPC status by name, the message's bytes (empty unless OK), and the trailers."""

    code: str
    message: bytes = b""
    detail: str = ""
    trailers: Mapping[str, str] | None = None
    untouched: bool = False  # the server says that it has not looked at the call

    @property
    def pushed_back(self) -> bool:
        """Whether the server said when to come again."""
        return self.trailers is not None and PUSH_BACK in self.trailers


class _Stream:
    """One call under way."""

    __slots__ = ("body", "call", "headers")

    def __init__(self, call: Any) -> None:
        self.call = call
        self.body = b""
        self.headers: Mapping[str, str] = {}


class Connection:
    """A connection to one server. `ended(call, answer)` is told of each call's end, in `read` or `close`.

    Not thread-safe. Raises OSError where the connection cannot be made.
    """

    def __init__(
        self, target: str, path: str, access: Access, ended: Callable[[Any, Answer], None], *, timeout_s: float = 3.0
    ) -> None:
        host, _, port = target.rpartition(":")
        self._ended = ended
        self._streams: dict[int, _Stream] = {}
        self._next = 1
        self._in = b""
        self._out = bytearray()
        self._block: tuple[int, int, bytes] | None = None  # stream, flags and bytes of headers that go on
        self._window = _FIRST_WINDOW
        self._held: deque[tuple[int, bytes]] = deque()  # messages that wait for the peer's window
        self._received = 0
        self.most_streams = _MAX_STREAM
        self.retiring = False  # the peer wants no new calls here
        self.broken = ""
        self._headers = _request_headers(path, host, access)
        raw = socket.create_connection((host.strip("[]"), int(port)), timeout=timeout_s)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        context = access.context()
        try:
            self._socket = raw if context is None else context.wrap_socket(raw, server_hostname=access.name or host)
        except OSError:
            raw.close()
            raise
        settings = struct.pack(">HIHI", HEADER_TABLE_SIZE, 0, INITIAL_WINDOW_SIZE, WINDOW)
        self._put(PREFACE + _frame(SETTINGS, 0, 0, settings))
        self._put(_frame(WINDOW_UPDATE, 0, 0, _HEAD.pack(WINDOW - _FIRST_WINDOW)))
        self._socket.setblocking(False)  # noqa: FBT003 - the standard library's signature

    def fileno(self) -> int:
        """For `select`."""
        return self._socket.fileno()

    @property
    def calls(self) -> int:
        """Calls under way."""
        return len(self._streams)

    @property
    def open(self) -> bool:
        """Whether another call may begin here."""
        return not self.broken and not self.retiring and self.calls < self.most_streams and self._next < _MAX_STREAM

    @property
    def wants_to_write(self) -> bool:
        """Whether bytes wait for the socket."""
        return bool(self._out)

    def call(self, call: Any, message: bytes, timeout_us: int) -> int:
        """Begin a call; returns the number by which `cancel` knows it. `timeout_us` goes to the server."""
        number = self._next
        self._next += 2
        self._streams[number] = _Stream(call)
        # fixed width, so that nothing is encoded by number: literal without indexing, 9 bytes
        headers = self._headers + b"\x09%08du" % min(timeout_us, 99_999_999)
        body = b"\x00" + _HEAD.pack(len(message)) + message
        self._put(_frame(HEADERS, END_HEADERS, number, headers), flush=False)
        if self._held or len(body) > self._window:
            self._held.append((number, body))
        else:
            self._data(number, body)
        self.flush()
        return number

    def cancel(self, number: int) -> None:
        """Nobody waits for this call any more; its end is not told."""
        if self._streams.pop(number, None) is not None:
            self._put(_frame(RST_STREAM, 0, number, _HEAD.pack(_CANCEL)))

    def read(self) -> None:
        """Take what has arrived, and tell of the calls that ended."""
        while not self.broken:
            try:
                data = self._socket.recv(_RECEIVE)
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                break
            except OSError as exc:
                self._break(str(exc))
                return
            if not data:
                self._break("the server closed the connection")
                return
            self._in = self._in + data if self._in else data
            self._take()
            if len(data) < _RECEIVE and not isinstance(self._socket, ssl.SSLSocket):
                break
        self.flush()

    def flush(self) -> None:
        """Write what waits, as far as the socket takes it."""
        if not self._out or self.broken:
            return
        try:
            del self._out[: self._socket.send(self._out)]
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return
        except OSError as exc:
            self._break(str(exc))

    def close(self) -> None:
        """End the connection; calls under way end as UNAVAILABLE."""
        self._break("closed")

    def _take(self) -> None:
        data, at, end = self._in, 0, len(self._in)
        while end - at >= 9 and not self.broken:
            size = int.from_bytes(data[at : at + 3], "big")
            if end - at < 9 + size:
                break
            number = int.from_bytes(data[at + 5 : at + 9], "big") & _MAX_STREAM
            self._frame(data[at + 3], data[at + 4], number, data[at + 9 : at + 9 + size])
            at += 9 + size
        self._in = data[at:]

    def _frame(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        if kind == DATA:
            self._body(flags, number, payload)
        elif kind == HEADERS:
            payload = _unpadded(flags, payload)[5 if flags & PRIORITY else 0 :]
            self._header_block(flags, number, payload)
        elif kind == CONTINUATION and self._block is not None:
            _, first_flags, before = self._block
            self._header_block(first_flags | flags & END_HEADERS, number, before + payload)
        elif kind == RST_STREAM:
            reason = _HEAD.unpack(payload)[0]
            code = _OF_RESET.get(reason, "INTERNAL")
            self._end(number, Answer(code, detail="the server reset the stream", untouched=reason == _REFUSED))
        elif kind == SETTINGS and not flags & ACK:
            self._settings(payload)
        elif kind == PING and not flags & ACK:
            self._put(_frame(PING, ACK, 0, payload))
        elif kind == GOAWAY:
            self._go_away(_HEAD.unpack(payload[:4])[0] & _MAX_STREAM)
        elif kind == WINDOW_UPDATE and number == 0:
            self._window += _HEAD.unpack(payload)[0]
            while self._held and len(self._held[0][1]) <= self._window:
                self._data(*self._held.popleft())

    def _body(self, flags: int, number: int, payload: bytes) -> None:
        self._received += len(payload)
        if self._received >= _REFILL:
            self._put(_frame(WINDOW_UPDATE, 0, 0, _HEAD.pack(self._received)))
            self._received = 0
        stream = self._streams.get(number)
        if stream is None:
            return
        payload = _unpadded(flags, payload)
        stream.body = stream.body + payload if stream.body else payload
        if flags & END_STREAM:
            self._end(number, Answer("INTERNAL", detail="the answer has no status"))

    def _header_block(self, flags: int, number: int, block: bytes) -> None:
        if not flags & END_HEADERS:
            self._block = (number, flags, block)
            return
        self._block = None
        stream = self._streams.get(number)
        if stream is None:
            return
        headers = _decoded(block)
        if not flags & END_STREAM:
            stream.headers = headers
            return
        if (status := headers.get("grpc-status")) is None:
            http = headers.get(":status") or stream.headers.get(":status", "")
            self._end(number, Answer(_OF_HTTP.get(http, "UNAVAILABLE"), detail=f"HTTP status {http}"))
            return
        code = STATUS[int(status)] if status.isdecimal() and int(status) < len(STATUS) else "UNKNOWN"
        if code == "OK":
            body = stream.body
            if len(body) < 5 or body[0] or len(body) != 5 + _HEAD.unpack(body[1:5])[0]:
                self._end(number, Answer("INTERNAL", detail="the answer is not one plain message"))
                return
            self._end(number, Answer(code, body[5:], trailers=headers))
            return
        self._end(number, Answer(code, detail=unquote(headers.get("grpc-message", "")), trailers=headers))

    def _settings(self, payload: bytes) -> None:
        for name, value in struct.iter_unpack(">HI", payload):
            if name == MAX_CONCURRENT_STREAMS:
                self.most_streams = value
        self._put(_frame(SETTINGS, ACK, 0, b""))

    def _go_away(self, last: int) -> None:
        """Calls up to `last` are still answered; the server has not looked at later ones."""
        self.retiring = True
        for number in [number for number in self._streams if number > last]:
            self._end(number, Answer("UNAVAILABLE", detail="the server is going away", untouched=True))

    def _end(self, number: int, answer: Answer) -> None:
        if (stream := self._streams.pop(number, None)) is not None:
            self._ended(stream.call, answer)

    def _break(self, why: str) -> None:
        if self.broken:
            return
        self.broken = why
        self._socket.close()
        for number in list(self._streams):
            self._end(number, Answer("UNAVAILABLE", detail=why))

    def _data(self, number: int, body: bytes) -> None:
        self._window -= len(body)
        parts = [body[at : at + MAX_FRAME] for at in range(0, len(body), MAX_FRAME)]
        for part in parts[:-1]:
            self._put(_frame(DATA, 0, number, part), flush=False)
        self._put(_frame(DATA, END_STREAM, number, parts[-1]), flush=False)

    def _put(self, data: bytes, *, flush: bool = True) -> None:
        self._out += data
        if flush:
            self.flush()


def _frame(kind: int, flags: int, number: int, payload: bytes) -> bytes:
    return _HEAD.pack(len(payload) << 8 | kind) + bytes((flags,)) + _HEAD.pack(number) + payload


def _unpadded(flags: int, payload: bytes) -> bytes:
    return payload[1 : len(payload) - payload[0]] if flags & PADDED else payload


def _request_headers(path: str, host: str, access: Access) -> bytes:
    """Headers of every call but for the value of grpc-timeout, which ends the block. Without the dynamic table."""
    scheme = "http" if access.context() is None else "https"
    fields: Sequence[tuple[str, str]] = [
        (":method", "POST"), (":scheme", scheme), (":path", path), (":authority", access.name or host),
        ("te", "trailers"), ("content-type", "application/grpc"), *access.metadata(),
    ]  # fmt: skip
    encoder = Encoder()
    block: bytes = encoder.encode([(name, value, True) for name, value in fields], huffman=False)
    name = b"grpc-timeout"
    return block + b"\x00" + bytes((len(name),)) + name


@lru_cache(maxsize=4096)
def _decoded(block: bytes) -> Mapping[str, str]:
    """A header block's fields. The peer may not use a dynamic table, so equal bytes are equal headers."""
    try:
        return {str(name): str(value) for name, value in Decoder().decode(block)}
    except (HPACKError, UnicodeDecodeError):
        return {"grpc-status": "13", "grpc-message": "the headers cannot be read"}
