"""The gateway's read of Valkey: GETs over one connection of the event loop, sent at once, answered in order.

redis-py's asyncio client takes four times the processor time for a read: a pool, a parser and a timeout context each.
"""

import asyncio
from collections import deque
from typing import Final, cast

from stores.errors import StoreTimeout, StoreUnavailable

_CONNECT_S: Final = 2.0
_SILENT_S: Final = 1.0  # a connection that has not answered for so long is given up: its peer may be gone for good
_BULK, _ERROR = b"$-"


class Wire(asyncio.Protocol):
    """One connection. `lost` says why it can no longer be used."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._transport: asyncio.Transport
        self._waiting: deque[asyncio.Future[bytes | None]] = deque()
        self._rest = b""
        self._since = 0.0  # when it was last heard of, or first asked
        self.lost: str | None = None

    def __len__(self) -> int:
        """Requests that are not answered yet, those given up included."""
        return len(self._waiting)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The loop's: it may be written to."""
        self._transport = cast("asyncio.Transport", transport)

    def send(self, command: bytes) -> "asyncio.Future[bytes | None]":
        """Ask. The answer is a bulk string, None for nil, or StoreUnavailable; a future that is done misses it."""
        if not self._waiting:
            self._since = self._loop.time()
        future = self._loop.create_future()
        self._waiting.append(future)
        self._transport.write(command)
        return future

    def is_silent(self, now: float) -> bool:
        """Whether an answer has been due for too long; `now` by the loop's clock."""
        return bool(self._waiting) and now - self._since > _SILENT_S

    def data_received(self, data: bytes) -> None:
        """The loop's: any part of any number of answers."""
        self._since = self._loop.time()
        if self._rest:
            data = self._rest + data
        at, size = 0, len(data)
        while at < size and (end := data.find(b"\r\n", at)) >= 0:
            kind = data[at]
            if kind == _ERROR:
                self._answer(None, StoreUnavailable(f"valkey: {data[at + 1 : end].decode(errors='replace')}"))
                at = end + 2
                continue
            length = data[at + 1 : end]
            if kind != _BULK or not self._waiting or not (length.isdigit() or length == b"-1"):
                self.drop(f"no answer to GET: {data[at : at + 40]!r}")
                return
            if length == b"-1":
                self._answer(None)
                at = end + 2
                continue
            first = end + 2
            stop = first + int(length)
            if stop + 2 > size:
                break
            self._answer(data[first:stop])
            at = stop + 2
        self._rest = data[at:]

    def _answer(self, row: bytes | None, error: StoreUnavailable | None = None) -> None:
        future = self._waiting.popleft() if self._waiting else None
        if future is None or future.done():
            return
        if error is None:
            future.set_result(row)
        else:
            future.set_exception(error)

    def drop(self, why: str) -> None:
        """Close at once; what is unanswered is StoreUnavailable."""
        self.lost = self.lost or why
        self._transport.abort()
        while self._waiting:
            self._answer(None, StoreUnavailable(f"valkey: {self.lost}"))

    def connection_lost(self, exc: Exception | None) -> None:
        """The loop's: the peer went away, or `drop`."""
        self.drop(f"connection lost: {exc or 'closed by the server'}")


class Gets:
    """GETs to one server, connected on the first; a lost connection is opened again by the next."""

    def __init__(self, host: str, port: int, max_waiting: int) -> None:
        self._host, self._port = host, port
        self._max_waiting = max_waiting
        self._wire: Wire | None = None
        self._connecting: asyncio.Task[Wire] | None = None
        self._closed = False

    async def get(self, key: bytes, timeout_s: float) -> bytes | None:
        """The value; None if there is none. StoreTimeout, StoreUnavailable."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        deadline, wire = now + timeout_s, self._wire
        if wire is not None and wire.is_silent(now):
            wire.drop(f"no answer for {_SILENT_S} s")
        if wire is None or wire.lost is not None:
            wire = await self._connected(loop, deadline)
        if len(wire) >= self._max_waiting:
            raise StoreUnavailable(f"valkey: {self._max_waiting} reads are waiting already")
        answer = wire.send(b"*2\r\n$3\r\nGET\r\n$%d\r\n%b\r\n" % (len(key), key))
        timer = loop.call_at(deadline, _expire, answer, timeout_s)
        try:
            return await answer
        finally:
            timer.cancel()

    async def close(self) -> None:
        """Close the connection; later calls are StoreUnavailable."""
        self._closed = True
        if self._connecting is not None:
            await asyncio.wait([self._connecting])
        if self._wire is not None:
            self._wire.drop("the reader is closed")

    async def _connected(self, loop: asyncio.AbstractEventLoop, deadline: float) -> Wire:
        """A new connection, opened once for all who wait for it."""
        if self._closed:
            raise StoreUnavailable("the reader is closed")
        if self._connecting is None:
            self._connecting = loop.create_task(self._connect(loop))
            self._connecting.add_done_callback(self._noted)
        try:
            async with asyncio.timeout_at(deadline):
                return await asyncio.shield(self._connecting)
        except TimeoutError as exc:
            raise StoreTimeout("valkey: no connection in time") from exc

    async def _connect(self, loop: asyncio.AbstractEventLoop) -> Wire:
        try:
            async with asyncio.timeout(_CONNECT_S):
                _, self._wire = await loop.create_connection(lambda: Wire(loop), self._host, self._port)
        except OSError as exc:  # TimeoutError too
            raise StoreUnavailable(f"valkey: {exc or 'no connection in time'}") from exc
        return self._wire

    def _noted(self, task: "asyncio.Task[Wire]") -> None:
        self._connecting = None
        if not task.cancelled():
            task.exception()  # those who waited have it, if they still do


def _expire(answer: "asyncio.Future[bytes | None]", timeout_s: float) -> None:
    if not answer.done():
        answer.set_exception(StoreTimeout(f"valkey: no answer in {timeout_s * 1e3:.1f} ms"))
