"""The gateway's GETs, against a server that answers as the test says."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from stores.errors import StoreTimeout, StoreUnavailable
from stores.online.resp import Gets, Wire

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
REQUEST = b"*2\r\n$3\r\nGET\r\n$1\r\n%b\r\n"


class _Sink(asyncio.Transport):
    """A transport that goes nowhere."""

    aborted = False

    def write(self, data: bytes | bytearray | memoryview) -> None:  # type: ignore[type-arg, unused-ignore]
        """Nothing."""

    def abort(self) -> None:
        """Noted."""
        self.aborted = True


@pytest.fixture
async def gets_of() -> AsyncIterator[Callable[[Serve], Awaitable[Gets]]]:
    """Starts a server and gives a client of it."""
    servers, clients = [], []

    async def start(serve: Serve, max_waiting: int = 4) -> Gets:
        async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await serve(reader, writer)
            finally:
                writer.close()

        server = await asyncio.start_server(one, "127.0.0.1", 0)
        servers.append(server)
        clients.append(Gets("127.0.0.1", server.sockets[0].getsockname()[1], max_waiting))
        return clients[-1]

    yield start
    for client in clients:
        await client.close()
    for server in servers:
        server.close()


async def test_answers_are_read_however_they_are_cut() -> None:
    """Any bytes, nil and errors, in the order of the questions, from the first split to the last."""
    stream = b"$5\r\n\r\n$-1\r\n$-1\r\n$0\r\n\r\n-LOADING not yet\r\n$2\r\nok\r\n"
    for cut in range(len(stream)):
        wire = Wire(asyncio.get_running_loop())
        wire.connection_made(_Sink())
        answers = [wire.send(b"") for _ in range(5)]
        for part in (stream[:cut], stream[cut:]):
            if part:
                wire.data_received(part)
        assert [await answers[i] for i in (0, 1, 2, 4)] == [b"\r\n$-1", None, b"", b"ok"]
        with pytest.raises(StoreUnavailable, match="LOADING not yet"):
            await answers[3]
        assert (len(wire), wire.lost) == (0, None)


@pytest.mark.parametrize("stream", [b":1\r\n", b"$x\r\n", b"$-2\r\n", b"HTTP/1.1 400 Bad Request\r\n"])
async def test_what_is_no_answer_ends_the_connection(stream: bytes) -> None:
    """Out of step once, nothing after it can be trusted; everybody who waits hears it."""
    wire, sink = Wire(asyncio.get_running_loop()), _Sink()
    wire.connection_made(sink)
    answers = [wire.send(b"") for _ in range(2)]
    wire.data_received(stream)
    for answer in answers:
        with pytest.raises(StoreUnavailable, match="no answer to GET"):
            await answer
    assert sink.aborted
    assert wire.lost


async def test_a_late_answer_goes_to_nobody(gets_of: Callable[[Serve], Awaitable[Gets]]) -> None:
    """The next question gets its own answer, over the same connection."""
    asked = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(len(REQUEST) - 1)
        writer.write(b"$-1\r\n")
        asked.append(await reader.readexactly(len(REQUEST) - 1))
        asked.append(await reader.readexactly(len(REQUEST) - 1))
        writer.write(b"$1\r\nA\r\n$1\r\nB\r\n")
        await reader.read()

    gets = await gets_of(serve)
    assert await gets.get(b"c", 5.0) is None  # connected
    with pytest.raises(StoreTimeout, match=r"no answer in 5\.0 ms"):
        await gets.get(b"a", 0.005)
    assert await gets.get(b"b", 5.0) == b"B"
    assert asked == [REQUEST % b"a", REQUEST % b"b"]


async def test_a_lost_connection_is_opened_again(gets_of: Callable[[Serve], Awaitable[Gets]]) -> None:
    """Those who wait are told at once, the next read is served; many first reads share one connection."""
    connections = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        await reader.readexactly(3 * (len(REQUEST) - 1) if len(connections) == 1 else 1)
        if len(connections) > 1:
            writer.write(b"$-1\r\n")
            await reader.read()

    gets = await gets_of(serve)
    lost = await asyncio.gather(*(gets.get(b"k", 5.0) for _ in range(3)), return_exceptions=True)
    assert [type(error) for error in lost] == [StoreUnavailable] * 3
    assert await gets.get(b"k", 5.0) is None
    assert len(connections) == 2


async def test_more_reads_than_may_wait_are_refused(gets_of: Callable[[Serve], Awaitable[Gets]]) -> None:
    """A server that is stopped costs each read its time, and no more memory than so many; a closed client answers."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    gets = await gets_of(serve)
    errors = await asyncio.gather(*(gets.get(b"k", 0.05) for _ in range(6)), return_exceptions=True)
    assert sorted(type(error).__name__ for error in errors) == ["StoreTimeout"] * 4 + ["StoreUnavailable"] * 2
    await gets.close()
    with pytest.raises(StoreUnavailable, match="closed"):
        await gets.get(b"k", 1.0)


async def test_a_connection_that_stays_silent_is_given_up() -> None:
    """A peer that vanished without a word would otherwise be asked for ever."""
    wire = Wire(asyncio.get_running_loop())
    wire.connection_made(_Sink())
    now = asyncio.get_running_loop().time()
    assert not wire.is_silent(now + 9)  # nothing was asked
    wire.send(b"")
    assert not wire.is_silent(now + 0.5)
    assert wire.is_silent(now + 9)
    wire.data_received(b"$-1\r\n")
    assert not wire.is_silent(now + 9)
