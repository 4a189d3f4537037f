"""The generator's own HTTP/2, against gRPC's server and against one that speaks byte by byte."""

import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import grpc
import pytest
from hpack import Encoder
from loadtest.access import Access
from loadtest.wire import GOAWAY, HEADERS, PREFACE, RST_STREAM, SETTINGS, Answer, Connection

PATH = "/test.Service/Echo"
END = 0x5  # END_STREAM and END_HEADERS


def echo(request: bytes, context: grpc.ServicerContext) -> bytes:
    if request.startswith(b"refuse"):
        context.set_trailing_metadata((("grpc-retry-pushback-ms", "200"),))
        context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "später, 5 % left")
    if request.startswith(b"deadline"):
        return str(context.time_remaining()).encode()
    return request


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """gRPC's own."""
    handlers = {"Echo": grpc.unary_unary_rpc_method_handler(echo)}
    made = grpc.server(
        futures.ThreadPoolExecutor(2), handlers=[grpc.method_handlers_generic_handler("test.Service", handlers)]
    )
    port = made.add_insecure_port("127.0.0.1:0")
    made.start()
    yield f"127.0.0.1:{port}"
    made.stop(None)


def answers_of(connection: Connection, into: list[tuple[Any, Answer]], count: int, timeout_s: float = 10) -> None:
    ends = time.monotonic() + timeout_s
    while len(into) < count:
        assert time.monotonic() < ends, f"{len(into)} of {count} answers"
        select.select([connection], [connection] if connection.wants_to_write else [], [], 0.1)
        connection.flush()
        connection.read()


def test_calls_are_answered_by_grpcs_own_server(server: str) -> None:
    """Many at once, each with its own answer; more bytes than the first window and than one frame."""
    found: list[tuple[Any, Answer]] = []
    connection = Connection(server, PATH, Access(), lambda call, answer: found.append((call, answer)))
    messages = [bytes([number]) * 20_000 for number in range(100)]
    for number, message in enumerate(messages):
        connection.call(number, message, 5_000_000)

    answers_of(connection, found, len(messages))
    connection.close()

    assert {call: answer.message for call, answer in found} == dict(enumerate(messages))
    assert {answer.code for _, answer in found} == {"OK"}


def test_a_refusal_has_its_code_words_and_push_back(server: str) -> None:
    """What shedding means: RESOURCE_EXHAUSTED, and when to come again. Also the second time, from memory."""
    found: list[tuple[Any, Answer]] = []
    connection = Connection(server, PATH, Access(), lambda call, answer: found.append((call, answer)))
    for _ in range(2):
        connection.call(None, b"refuse", 1_000_000)
    connection.call(None, b"fine", 1_000_000)
    answers_of(connection, found, 3)
    connection.close()

    refused = [answer for _, answer in found if answer.code != "OK"]
    assert [("RESOURCE_EXHAUSTED", "später, 5 % left", True)] * 2 == [
        (answer.code, answer.detail, answer.pushed_back) for answer in refused
    ]
    assert not refused[0].untouched


def test_the_server_learns_the_deadline(server: str) -> None:
    """The time left goes along, to the microsecond."""
    found: list[tuple[Any, Answer]] = []
    connection = Connection(server, PATH, Access(), lambda call, answer: found.append((call, answer)))
    connection.call(None, b"deadline", 2_345_678)
    answers_of(connection, found, 1)
    connection.close()

    assert 1.3 < float(found[0][1].message) < 2.35


def test_a_connection_that_breaks_ends_its_calls() -> None:
    """As UNAVAILABLE, once each."""
    found: list[tuple[Any, Answer]] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:
        connection = Connection(
            f"127.0.0.1:{listening.getsockname()[1]}", PATH, Access(), lambda call, answer: found.append((call, answer))
        )
        connection.call("a", b"", 1_000_000)
        peer, _ = listening.accept()
        peer.close()
        answers_of(connection, found, 1)

    assert [("a", "UNAVAILABLE")] == [(call, answer.code) for call, answer in found]
    assert not connection.open


def frame(kind: int, flags: int, number: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", number) + payload


@pytest.fixture
def speaking() -> Iterator[Callable[[bytes], tuple[Connection, list[tuple[Any, Answer]]]]]:
    """A peer that sends given bytes, one at a time, to a connection with two calls under way."""
    threads = []
    listening = socket.create_server(("127.0.0.1", 0))

    def start(said: bytes) -> tuple[Connection, list[tuple[Any, Answer]]]:
        found: list[tuple[Any, Answer]] = []
        connection = Connection(
            f"127.0.0.1:{listening.getsockname()[1]}", PATH, Access(), lambda call, answer: found.append((call, answer))
        )
        for call in ("first", "second"):
            connection.call(call, b"", 1_000_000)
        peer, _ = listening.accept()
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        assert peer.recv(len(PREFACE), socket.MSG_WAITALL) == PREFACE

        def speak() -> None:
            for byte in said:
                peer.send(bytes([byte]))

        threads.append((threading.Thread(target=speak), peer))
        threads[-1][0].start()
        return connection, found

    yield start
    for thread, peer in threads:
        thread.join()
        peer.close()
    listening.close()


def test_bytes_may_come_one_by_one(speaking: Any) -> None:
    """Headers in two frames, a compressed text, a padded body."""
    head = Encoder().encode([(":status", "200")])
    tail = Encoder().encode([("grpc-status", "0"), ("grpc-message", "")])
    said = (
        frame(SETTINGS, 0, 0, b"") + frame(HEADERS, 0x4, 1, head) + frame(0, 0x8, 1, b"\x03\0\0\0\0\x02hi___")
        + frame(HEADERS, 0x1, 1, tail[:2]) + frame(9, 0x4, 1, tail[2:])
        + frame(HEADERS, END, 3, Encoder().encode([(":status", "503")]))
    )  # fmt: skip
    connection, found = speaking(said)
    answers_of(connection, found, 2)

    connection.close()
    assert [("first", "OK", b"hi"), ("second", "UNAVAILABLE", b"")] == [(c, a.code, a.message) for c, a in found]


def test_a_server_that_goes_away_answers_what_it_has_begun(speaking: Any) -> None:
    """Later calls it has not looked at: they may be sent again elsewhere. No new ones come here."""
    said = frame(GOAWAY, 0, 0, struct.pack(">II", 1, 0)) + frame(RST_STREAM, 0, 1, struct.pack(">I", 8))
    connection, found = speaking(said)
    answers_of(connection, found, 2)

    ends = [(call, answer.code, answer.untouched) for call, answer in found]
    assert [("second", "UNAVAILABLE", True), ("first", "CANCELLED", False)] == ends
    assert not connection.open
    connection.close()
