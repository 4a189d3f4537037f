"""The server behind TLS on a real socket: handshakes, certificates' names, tokens, quotas, files that change."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from millrace.collector.v1 import collector_pb2 as pb
from millrace.collector.v1 import collector_pb2_grpc
from servicekit.grpc_server import GrpcServer
from servicekit.kit import Kit, start
from servicekit.security import development
from servicekit.security.development import Authority, Files, Pair, spiffe
from servicekit.security.settings import EdgeSettings
from servicekit.security.tls import handshake_failure
from servicekit.settings import load_settings

SERVICE = "millrace.collector.v1.CollectorService"
POLICY = """
rpcs:
  millrace.collector.v1.CollectorService/Publish:
    {services: [spiffe://millrace/operator], products: [spiffe://millrace/product/*], roles: [events.write]}
  millrace.collector.v1.CollectorService/PublishStream: {roles: [events.write]}
  grpc.health.v1.Health/Check: {open: true}
quotas:
  default: {rate: 0.001, burst: 3, streams: 1}
"""


class Servicer(collector_pb2_grpc.CollectorServiceServicer):
    """Answers with who calls."""

    async def Publish(self, request: pb.PublishRequest, context: Any) -> pb.PublishResponse:  # noqa: N802  gRPC's name
        if request.usecase == "erase":
            context.caller.require("erase")
        return pb.PublishResponse(rejected=[pb.Rejected(reason=context.caller.name)])

    async def PublishStream(self, requests: Any, context: Any) -> Any:  # noqa: N802
        async for request in requests:
            yield await self.Publish(request, context)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    made = Files(tmp_path_factory.mktemp("certs"))
    development.make(made, ["localhost", "127.0.0.1"])
    (made.root / "policy.yaml").write_text(POLICY)
    return made


def settings(files: Files, home: Path, **changed: Any) -> EdgeSettings:
    given = {
        "tls_certificate": files.server, "tls_key": files.server_key, "tls_client_ca": files.ca,
        "token_public_keys": files.token_public_keys, "policy": files.root / "policy.yaml",
    }  # fmt: skip
    return EdgeSettings(home=home, metrics_port=0, **{**given, **changed})


@asynccontextmanager
async def serving(files: Files, home: Path, **changed: Any) -> AsyncIterator[tuple[Kit, int]]:
    def register(server: grpc.aio.Server) -> list[str]:
        collector_pb2_grpc.add_CollectorServiceServicer_to_server(Servicer(), server)
        return [SERVICE]

    with start("edge", settings(files, home, **changed), signals=False) as kit:
        server = GrpcServer(kit, register, 0, routing_wait_s=0.0)
        await server.start()
        yield kit, server.port
        await server.drain(1.0)


def credentials(files: Files, pair: Pair | None) -> Any:
    own = (pair.key, pair.certificate) if pair else (None, None)
    return grpc.ssl_channel_credentials(files.ca.read_bytes(), *own)


async def code(port: int, with_credentials: Any, token: str | None = None, **request: Any) -> grpc.StatusCode:
    metadata = [("authorization", f"Bearer {token}")] if token is not None else []
    async with grpc.aio.secure_channel(f"127.0.0.1:{port}", with_credentials) as channel:
        stub = collector_pb2_grpc.CollectorServiceStub(channel)
        call = stub.Publish(pb.PublishRequest(**request), timeout=5, metadata=metadata)
        return await call.code()


def token(files: Files, *roles: str) -> str:
    return development.token(files, "shop", roles, now_s=time.time())


async def test_only_a_certificate_with_a_listed_name_calls(files: Files, tmp_path: Path) -> None:
    """Another CA's fails the handshake; the CA's own is refused by its name; a product's needs a token as well."""
    authority = Authority.read(files.ca)
    async with serving(files, tmp_path) as (kit, port):
        for pair, expected in (
            (authority.client([spiffe("operator")]), grpc.StatusCode.OK),
            (authority.client([spiffe("features")]), grpc.StatusCode.PERMISSION_DENIED),
            (authority.client([]), grpc.StatusCode.PERMISSION_DENIED),
            (authority.client([spiffe("product/shop")]), grpc.StatusCode.UNAUTHENTICATED),
            (Authority.new().client([spiffe("operator")]), grpc.StatusCode.UNAVAILABLE),
            (authority.client([spiffe("operator")], days=-1), grpc.StatusCode.UNAVAILABLE),
            (None, grpc.StatusCode.UNAVAILABLE),
        ):
            assert expected is await code(port, credentials(files, pair))
        product = credentials(files, authority.client([spiffe("product/shop")]))
        assert grpc.StatusCode.OK is await code(port, product, token(files, "events.write"))
        assert grpc.StatusCode.PERMISSION_DENIED is await code(port, product, token(files, "rank.read"))
        refused = {"method": "Publish", "reason": "certificate"}
        assert 2.0 == kit.registry.get_sample_value("edge_refused_total", refused)


async def test_without_client_certificates_the_token_decides(files: Files, tmp_path: Path) -> None:
    """TLS alone keeps the token secret; the role opens the RPC, and another role what its message asks for."""
    anybody = credentials(files, None)
    async with serving(files, tmp_path, tls_client_ca=None) as (_, port):
        assert grpc.StatusCode.UNAUTHENTICATED is await code(port, anybody)
        assert grpc.StatusCode.OK is await code(port, anybody, token(files, "events.write"))
        writer = token(files, "events.write")
        assert grpc.StatusCode.PERMISSION_DENIED is await code(port, anybody, writer, usecase="erase")


async def test_probes_need_no_token(files: Files, tmp_path: Path) -> None:
    """A load balancer asks for health over TLS, and knows nobody's token."""
    async with serving(files, tmp_path, tls_client_ca=None) as (kit, port):
        kit.ready.set("all", holds=True)
        async with grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials(files, None)) as channel:
            answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
    assert answer.status in (health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING)


async def test_a_caller_over_its_quota_learns_when_to_return(files: Files, tmp_path: Path) -> None:
    """RESOURCE_EXHAUSTED with push-back; another caller goes on."""
    operator = credentials(files, Authority.read(files.ca).client([spiffe("operator")]))
    async with (
        serving(files, tmp_path) as (_, port),
        grpc.aio.secure_channel(f"127.0.0.1:{port}", operator) as channel,
    ):
        stub = collector_pb2_grpc.CollectorServiceStub(channel)
        for _ in range(3):
            await stub.Publish(pb.PublishRequest(), timeout=5)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.Publish(pb.PublishRequest(), timeout=5)
        shop = {"metadata": [("authorization", f"Bearer {token(files, 'events.write')}")]}
        answer = await stub.Publish(pb.PublishRequest(), timeout=5, **shop)

    assert grpc.StatusCode.RESOURCE_EXHAUSTED is refused.value.code()
    assert 900_000 < int(dict(refused.value.trailing_metadata())["grpc-retry-pushback-ms"])
    assert "shop" == answer.rejected[0].reason


async def test_a_renewed_certificate_is_served_without_a_restart(files: Files, tmp_path: Path) -> None:
    """The next handshake has it; a half-written pair is left alone."""
    mine = Files(tmp_path / "certs")
    development.make(mine, ["127.0.0.1"])
    (mine.root / "policy.yaml").write_text(POLICY)
    former = mine.ca.read_bytes()
    async with serving(mine, tmp_path, tls_client_ca=None) as (_, port):
        renewed = Authority.new("next")
        renewed.server(["127.0.0.1"]).write(tmp_path / "next.pem")
        mine.server.write_bytes((tmp_path / "next.pem").read_bytes())  # its key is not there yet
        assert grpc.StatusCode.UNAUTHENTICATED is await code(port, grpc.ssl_channel_credentials(former))
        mine.server_key.write_bytes((tmp_path / "next.key").read_bytes())
        assert grpc.StatusCode.UNAUTHENTICATED is await code(
            port, grpc.ssl_channel_credentials(renewed.pair.certificate)
        )


def test_wrong_files_stop_the_start_and_are_named(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All of them at once; exit code 2."""
    (tmp_path / "broken.yaml").write_text("rpcs: {a/b: {open: maybe}}\n")
    for name, value in (
        ("HOME", tmp_path), ("TLS_CERTIFICATE", files.server), ("TLS_KEY", files.token_key),
        ("TOKEN_PUBLIC_KEYS", tmp_path / "nowhere"), ("POLICY", tmp_path / "broken.yaml"),
    ):  # fmt: skip
        monkeypatch.setenv(f"MILLRACE_{name}", str(value))
    with pytest.raises(SystemExit) as ended:
        load_settings(EdgeSettings)

    said = capsys.readouterr().err
    assert 2 == ended.value.code
    assert "MILLRACE_TOKEN_PUBLIC_KEYS: " in said
    assert "MILLRACE_POLICY: " in said
    monkeypatch.delenv("MILLRACE_TOKEN_PUBLIC_KEYS")
    monkeypatch.delenv("MILLRACE_POLICY")
    with pytest.raises(SystemExit):
        load_settings(EdgeSettings)
    assert "the key is another certificate's" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"env": "production", "bind": "0.0.0.0"}, "no plaintext"),  # noqa: S104
        ({"env": "production", "bind": "::", "tls_certificate": "c", "tls_key": "k"}, "anybody could call"),
        ({"bind": "0.0.0.0", "token_public_keys": "t"}, "in TLS only"),  # noqa: S104
        ({"tls_certificate": "c"}, "both or none"),
        ({"tls_client_ca": "c"}, "needs MILLRACE_TLS_CERTIFICATE"),
    ],
)
def test_open_doors_are_refused(given: dict[str, Any], named: str, tmp_path: Path) -> None:
    """What reaches beyond this machine proves who it is."""
    with pytest.raises(ValueError, match=named):
        EdgeSettings(home=tmp_path, **given)


@pytest.mark.parametrize("bind", ["127.0.0.1", "::1", "localhost"])
def test_on_this_machine_nothing_is_asked_for(bind: str, tmp_path: Path) -> None:
    """A laptop starts without a certificate, in production too."""
    assert not EdgeSettings(home=tmp_path, bind=bind, env="production").is_guarded


def test_lines_of_grpcs_log_are_told_apart() -> None:
    """A client without a certificate, one of another CA, one that speaks no TLS; all else is no handshake."""
    begin = (
        b"I0000 00:00:00.0 7 ssl_transport_security.cc:2563] Handshake failed with error SSL_ERROR_SSL: error:1:SSL "
    )
    lines = {
        b"routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED: unable to get local issuer": "certificate",
        b"routines:OPENSSL_internal:PEER_DID_NOT_RETURN_A_CERTIFICATE: Invalid": "no_certificate",
        b"routines:OPENSSL_internal:WRONG_VERSION_NUMBER: Invalid": "not_tls",
        b"routines:OPENSSL_internal:BAD_DECRYPT": "other",
        b"": "other",
    }
    assert list(lines.values()) == [handshake_failure(begin + line) for line in lines]
    assert handshake_failure(b"E0000 00:00:00 chttp2_server.cc:1] cannot listen") is None
