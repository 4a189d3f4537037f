"""Real servers for tests: each fixture starts its own on free ports, in a temporary home, and stops it at the end.

Downloads are shared with the checkout's `.millrace/dist`. What this machine lacks skips a test on a laptop and fails it
where `CI` is set.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from local_stack import process
from local_stack.component import Component
from local_stack.components.cassandra import cassandra as cassandra_component
from local_stack.components.kafka import kafka as kafka_component
from local_stack.components.kafka import new_cluster_id
from local_stack.components.tansu import tansu as tansu_component
from local_stack.components.triton import lacking as triton_lacking
from local_stack.components.triton import shared_memory_prefix
from local_stack.components.triton import triton as triton_component
from local_stack.components.valkey import REMEDY as VALKEY_REMEDY
from local_stack.components.valkey import find_valkey
from local_stack.components.valkey import valkey as valkey_component
from local_stack.errors import MissingProgram
from local_stack.harness import NativeStack, free_offset
from local_stack.home import Home, checkout_root
from local_stack.java import Java, find_java
from local_stack.java import lacking as java_lacking
from local_stack.ports import Ports


def unavailable(reason: str) -> None:
    """Skip on a laptop; fail in CI, where everything must be there."""
    (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)


def running(component: Component, home: Home) -> Iterator[Component]:
    """Start, wait until it works, and stop at the end of the session."""
    try:
        with process.running(component, home, os.environ):
            yield component
    except MissingProgram as exc:
        unavailable(str(exc))


@pytest.fixture(scope="session")
def server_home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Home of the servers that tests start alone."""
    return Home(tmp_path_factory.mktemp("servers"), downloads=checkout_root() / ".millrace" / "dist")


@pytest.fixture(scope="session")
def server_ports() -> Ports:
    """Free ports of the servers that tests start alone."""
    return Ports.free()


@pytest.fixture(scope="session")
def java() -> Java:
    """Java 17."""
    found = find_java(os.environ)
    if (reason := java_lacking(found, os.environ)) is not None or found is None:
        unavailable(str(reason))
        raise AssertionError  # unreachable: `unavailable` raises
    return found


@pytest.fixture(scope="session")
def kafka(server_home: Home, server_ports: Ports, java: Java) -> Iterator[str]:
    """`host:port` of an Apache Kafka without topics (they are not created by use)."""
    for _ in running(kafka_component(server_home, server_ports, java, new_cluster_id()), server_home):
        yield f"127.0.0.1:{server_ports.kafka}"


@pytest.fixture(scope="session")
def embedded_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`host:port` of the embedded Kafka-protocol broker, which keeps everything in memory."""
    ports = Ports.free()
    try:
        component = tansu_component(ports)
    except MissingProgram as exc:
        unavailable(str(exc))
    for _ in running(component, Home(tmp_path_factory.mktemp("embedded"))):
        yield f"127.0.0.1:{ports.kafka}"


@pytest.fixture(scope="session")
def cassandra(server_home: Home, server_ports: Ports, java: Java) -> Iterator[str]:
    """`host:port` of an Apache Cassandra without a keyspace of ours."""
    for _ in running(cassandra_component(server_home, server_ports, java), server_home):
        yield f"127.0.0.1:{server_ports.cassandra}"


@pytest.fixture(scope="session")
def valkey(server_home: Home, server_ports: Ports) -> Iterator[str]:
    """`host:port` of an empty Valkey, or Redis where only that is installed."""
    program = find_valkey(os.environ)
    if program is None:
        unavailable(VALKEY_REMEDY)
        raise AssertionError  # unreachable: `unavailable` raises
    for _ in running(valkey_component(server_home, server_ports, program), server_home):
        yield f"127.0.0.1:{server_ports.valkey}"


@pytest.fixture(scope="session")
def triton_repository(server_home: Home) -> Path:
    """The model repository that `triton` serves: write a model there, then ask the server to load it."""
    return server_home.root / "models"


@pytest.fixture(scope="session")
def triton(server_home: Home, server_ports: Ports, triton_repository: Path) -> Iterator[str]:
    """`host:port` (gRPC) of a Triton with explicit model control over `triton_repository`; HTTP: `triton_http`."""
    if (reason := triton_lacking()) is not None:
        unavailable(reason)
    prefix = shared_memory_prefix(server_ports.triton_grpc)
    for _ in running(triton_component(server_home, server_ports, triton_repository, prefix=prefix), server_home):
        yield f"127.0.0.1:{server_ports.triton_grpc}"


@pytest.fixture(scope="session")
def triton_http(triton: str, server_ports: Ports) -> str:
    """`host:port` of the same Triton's HTTP endpoint."""
    return f"127.0.0.1:{server_ports.triton_http}"


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory, java: Java) -> Iterator[NativeStack]:
    """The whole real profile, our services included, ready. Tests share it: take users and items of your own.

    It serves `movies`, and under the name `loop` the same from a file of its own, which is `test_loop`'s alone.
    """
    del java  # only that it is here
    home = tmp_path_factory.mktemp("stack")
    movies = (checkout_root() / "usecases" / "movies.yaml").read_text()
    loop = home / "loop.yaml"
    loop.write_text(movies.replace("usecase: movies", "usecase: loop"))
    with free_offset() as offset:
        started = NativeStack(home, offset, usecases=("movies", str(loop)))
        try:
            started.millrace("up", "--profile", "real")
            yield started
        finally:
            started.millrace("down")
