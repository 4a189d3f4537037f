"""Calls over our own HTTP/2 connection, answered by a real grpc.aio server."""

import asyncio
from collections.abc import AsyncIterator

import grpc
import grpc.aio
import pytest
from gateway.http2 import INTERNAL, OK, UNAVAILABLE, Connection, Reply, request_headers

METHOD = "/echo.Echo/Say"


async def echo(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
    if request.startswith(b"fail"):
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "n\u00f6 \u2013 100 %")
    if request.startswith(b"slow"):
        await asyncio.sleep(0.05)
    return request


class Echo:
    """The server, and how to connect to it."""

    def __init__(self) -> None:
        self.server = grpc.aio.server(options=[("grpc.max_receive_message_length", -1)])
        handler = grpc.unary_unary_rpc_method_handler(echo)
        self.server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("echo.Echo", {"Say": handler}),))
        self.port = self.server.add_insecure_port("127.0.0.1:0")

    async def connect(self) -> Connection:
        headers = request_headers(METHOD, f"127.0.0.1:{self.port}")
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(lambda: Connection(headers), "127.0.0.1", self.port)
        return connection


def call(connection: Connection, *parts: bytes | memoryview) -> "asyncio.Future[Reply]":
    """The reply to come."""
    reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
    connection.call(parts, reply.set_result)
    return reply


@pytest.fixture
async def served() -> AsyncIterator[Echo]:
    served = Echo()
    await served.server.start()
    yield served
    await served.server.stop(None)


async def test_messages_of_any_size_come_back_whole(served: Echo) -> None:
    """From nothing to far more than the peer's windows; those that wait for a window keep their bytes and order."""
    connection = await served.connect()
    sizes = [0, 1, 16_379, 16_384, 65_530, 65_531, 300_000, 2_000_000, 5]
    sent = [bytes([size % 251]) * size for size in sizes]
    replies = await asyncio.gather(*(call(connection, each[: len(each) // 2], each[len(each) // 2 :]) for each in sent))
    assert [(OK, each) for each in sent] == [(reply.status, reply.message) for reply in replies]
    connection.drop("done")


async def test_what_the_server_says_is_read(served: Echo) -> None:
    """Status and message of an error, as they were sent."""
    connection = await served.connect()
    reply = await call(connection, b"fail")
    assert (grpc.StatusCode.FAILED_PRECONDITION.value[0], "n\u00f6 \u2013 100 %") == (reply.status, reply.detail)
    connection.drop("done")


async def test_a_server_that_goes_away_ends_what_it_has(served: Echo) -> None:
    """It answers the calls that it has taken, and takes no new ones."""
    connection = await served.connect()
    await call(connection, b"first")
    running = call(connection, b"slow")
    await asyncio.sleep(0.01)
    stopping = asyncio.create_task(served.server.stop(5.0))
    assert OK == (await running).status
    await stopping
    assert not connection.takes_calls


async def test_a_lost_connection_ends_its_calls(served: Echo) -> None:
    """Each is told once, as UNAVAILABLE."""
    connection = await served.connect()
    replies = [call(connection, b"slow") for _ in range(3)]
    connection.drop("pulled")
    assert [(UNAVAILABLE, "pulled")] * 3 == [(r.status, r.detail) for r in await asyncio.gather(*replies)]
    assert 0 == connection.calls


@pytest.mark.parametrize(
    "junk", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x00\x00\x01\x01\x05\x00\x00\x00\x01\xff", b"\x00" * 64]
)
async def test_what_is_no_http2_is_an_error(junk: bytes) -> None:
    """Bytes of another protocol end the connection or the call; nothing is raised into the loop."""
    failed: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failed.append(context))

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(junk)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    headers = request_headers(METHOD, "x")
    _, connection = await asyncio.get_running_loop().create_connection(lambda: Connection(headers), "127.0.0.1", port)
    assert (await call(connection, b"hello")).status in (UNAVAILABLE, INTERNAL)
    assert [] == failed
    server.close()
