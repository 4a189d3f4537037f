"""Asks a server whether it works, in its own protocol. Probes are data, so `status` can repeat what `up` waited for."""

import http.client
import json
import logging
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from local_stack.errors import Unreachable

Kind = Literal["kafka", "cassandra", "valkey", "triton", "http", "grpc"]
TIMEOUT_S = 2.0
GIVEN_S = 3.0  # a server that somebody else runs should be up; this allows for a busy machine


@dataclass(frozen=True)
class Probe:
    """How to ask: `kind` is the protocol, `target` the `host:port`, `detail` a path (http) or repository (triton)."""

    kind: Kind
    target: str
    detail: str = ""

    def ask(self) -> str | None:
        """None when the server works, else why not yet, in a few words."""
        host, port = split(self.target.split(",")[0])  # of several bootstrap addresses, the first
        try:
            return _ASK[self.kind](host, port, self.detail)
        except OSError as exc:
            return f"{self.target}: {exc.strerror or exc}"


def split(address: str) -> tuple[str, int]:
    """`host:port` taken apart; ValueError names what is wrong."""
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdigit():
        raise ValueError(f"{address!r} is not host:port")
    return host, int(port)


def wait(probe: Probe, deadline_s: float, *, alive: Callable[[], bool] = lambda: True) -> str | None:
    """Ask until the server works; None then, else the last reason: the deadline passed or `alive` said no."""
    deadline = time.monotonic() + deadline_s
    while (reason := probe.ask()) is not None:
        if not alive():
            return "it ended"
        if time.monotonic() > deadline:
            return reason
        time.sleep(0.05)
    return None


def must_answer(name: str, probe: Probe) -> None:
    """Raise Unreachable unless the server, which somebody else runs, works."""
    if (reason := wait(probe, GIVEN_S)) is not None:
        raise Unreachable(
            f"MILLRACE_{name.upper()}={probe.target} does not answer ({reason}): start it, or unset the variable"
        )


def _connected(host: str, port: int) -> None:
    socket.create_connection((host, port), timeout=TIMEOUT_S).close()


def _kafka(host: str, port: int, _detail: str) -> str | None:
    from kafka.admin import KafkaAdminClient
    from kafka.errors import KafkaError

    _connected(host, port)  # cheap, and keeps the client's own retries and warnings out of the wait
    logging.getLogger("kafka").setLevel(logging.CRITICAL)
    try:
        admin = KafkaAdminClient(bootstrap_servers=f"{host}:{port}", request_timeout_ms=3000, bootstrap_timeout_ms=2000)
        try:
            brokers = admin.describe_cluster()["brokers"]
        finally:
            admin.close()
    except KafkaError as exc:
        return f"{type(exc).__name__}: {exc}"
    return None if brokers else "no broker is registered yet"


def _cassandra(host: str, port: int, _detail: str) -> str | None:
    from local_stack.cql import CassandraError, session

    _connected(host, port)
    try:
        with session(host, port) as connected:
            row = connected.execute("SELECT key FROM system.local").one()
    except CassandraError as exc:
        return str(exc)
    return None if row is not None else "system.local is empty"


def _valkey(host: str, port: int, _detail: str) -> str | None:
    with socket.create_connection((host, port), timeout=TIMEOUT_S) as connection:
        connection.sendall(b"PING\r\n")
        answer = connection.recv(64)
    return (
        None if answer.startswith(b"+PONG") else answer.decode(errors="replace").strip()
    )  # -LOADING while it reads its file


def _triton(host: str, port: int, repository: str) -> str | None:
    """Live, and each deployed model ready: an empty repository is a good start."""
    if _get(host, port, "/v2/health/live")[0] != 200:
        return "not live"
    models = sorted(path.parent.name for path in Path(repository).glob("*/config.pbtxt")) if repository else []
    waiting = [name for name in models if _get(host, port, f"/v2/models/{name}/ready")[0] != 200]
    return f"model {', '.join(waiting)} is not ready" if waiting else None


def _http(host: str, port: int, path: str) -> str | None:
    status, body = _get(host, port, path)
    return None if status == 200 else f"{path} answers {status}: {_said(body)}"


def _said(body: bytes) -> str:
    """The body of a readiness answer in one short line."""
    text = body.decode(errors="replace").strip()
    try:
        answer: Any = json.loads(text)
    except ValueError:
        return text[:200]
    return json.dumps(answer)[:200]


def _open(host: str, port: int, _detail: str) -> str | None:
    """A Triton given by its gRPC port: that it listens is all that can be asked without a gRPC library."""
    _connected(host, port)
    return None


def _get(host: str, port: int, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    except http.client.HTTPException as exc:
        raise ConnectionError(f"{type(exc).__name__}: {exc}") from exc
    finally:
        connection.close()


_ASK: dict[Kind, Callable[[str, int, str], str | None]] = {
    "kafka": _kafka,
    "cassandra": _cassandra,
    "valkey": _valkey,
    "triton": _triton,
    "http": _http,
    "grpc": _open,
}
