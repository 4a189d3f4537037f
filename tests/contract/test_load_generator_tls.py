"""The generator's HTTP/2 through TLS with both certificates, and a token, against gRPC's own server."""

import select
import time
from concurrent import futures
from pathlib import Path

import grpc
import pytest
from loadtest.access import Access
from loadtest.errors import BadInput
from loadtest.wire import Answer, Connection
from servicekit.security import development

pytestmark = pytest.mark.real


def test_calls_get_through_mutual_tls_with_a_token(tmp_path: Path) -> None:
    """Many large calls are answered; the server sees the token; without a certificate the door stays shut."""
    files = development.Files(tmp_path / "certs")
    development.make(files, ["localhost", "127.0.0.1"])
    own = files.client("product/shop")
    (tmp_path / "token").write_text("secret\n")
    seen: set[str] = set()

    def echo(request: bytes, context: grpc.ServicerContext) -> bytes:
        seen.update(str(value) for key, value in context.invocation_metadata() if key == "authorization")
        return request

    handler = grpc.unary_unary_rpc_method_handler(echo)
    server = grpc.server(
        futures.ThreadPoolExecutor(2), handlers=[grpc.method_handlers_generic_handler("t.S", {"Echo": handler})]
    )
    credentials = grpc.ssl_server_credentials(
        [(files.server_key.read_bytes(), files.server.read_bytes())], files.ca.read_bytes(), require_client_auth=True
    )
    target = f"127.0.0.1:{server.add_secure_port('127.0.0.1:0', credentials)}"
    server.start()
    try:
        access = Access(files.ca, own, own.with_suffix(".key"), tmp_path / "token").checked()
        found: list[Answer] = []
        connection = Connection(target, "/t.S/Echo", access, lambda _, answer: found.append(answer))
        for number in range(50):
            connection.call(number, bytes([number]) * 20_000, 5_000_000)
        ends = time.monotonic() + 20
        while len(found) < 50 and time.monotonic() < ends:
            select.select([connection], [connection] if connection.wants_to_write else [], [], 0.05)
            connection.flush()
            connection.read()
        connection.close()
    finally:
        server.stop(None)

    assert {"OK"} == {answer.code for answer in found}
    assert 50 == len({answer.message for answer in found})
    assert {"Bearer secret"} == seen


def test_half_an_identity_is_bad_input(tmp_path: Path) -> None:
    """A certificate without its key, or without the CA that turns TLS on; a file that is not there."""
    path = tmp_path / "some.pem"
    path.write_text("no PEM")

    for wrong in (Access(certificate=path), Access(certificate=path, key=path), Access(ca=tmp_path / "none.pem")):
        with pytest.raises(BadInput):
            wrong.checked()
    with pytest.raises(BadInput, match="PEM"):
        Access(ca=path).context()
