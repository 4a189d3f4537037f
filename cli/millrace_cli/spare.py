"""Servers of one command: on free ports and in folders of their own, which go with it.

Each raises EnvironmentAtFault where this machine lacks what it takes, or the server does not get ready.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from local_stack import process
from local_stack.component import Component
from local_stack.components.kafka import kafka as kafka_component
from local_stack.components.kafka import new_cluster_id
from local_stack.components.triton import lacking as triton_lacking
from local_stack.components.triton import shared_memory_prefix
from local_stack.components.triton import triton as triton_component
from local_stack.components.valkey import REMEDY as VALKEY_REMEDY
from local_stack.components.valkey import find_valkey
from local_stack.errors import StackError
from local_stack.harness import NativeStack, free_offset
from local_stack.home import Home, checkout_root
from local_stack.java import find_java
from local_stack.java import lacking as java_lacking
from local_stack.ports import Ports
from local_stack.probes import Probe
from local_stack.service import ServiceSpec, service, without_settings
from local_stack.topics import create_topics, declared_topics

from millrace_cli.errors import EnvironmentAtFault
from millrace_cli.settings import environ

if TYPE_CHECKING:
    from local_stack.process import RunFile
    from pipelines.progress import Progress

_NEEDED: Final = ("triton", "valkey", "cassandra")  # without one of them `up` goes on, and a bench would not be one


@contextmanager
def kafka(usecase: str) -> Iterator[tuple[str, Path]]:
    """`host:port` of a broker with the topics of a use case, and an empty folder beside its data."""
    java = find_java(inherited := environ())
    if java is None or (reason := java_lacking(java, inherited)) is not None:
        raise EnvironmentAtFault(f"Kafka needs Java: {reason if java else 'none is installed'}")
    with _home("kafka") as home:
        ports = Ports.free()
        with _ready(kafka_component(home, ports, java, new_cluster_id()), home):
            bootstrap = f"127.0.0.1:{ports.kafka}"
            create_topics(bootstrap, declared_topics(checkout_root() / "infra/kafka/topics.yaml", [usecase]))
            beside = home.root / "beside"
            beside.mkdir()
            yield bootstrap, beside


@contextmanager
def valkey() -> Iterator[str]:
    """`host:port` of an empty server that keeps everything in memory only."""
    if (program := find_valkey(environ())) is None:
        raise EnvironmentAtFault(VALKEY_REMEDY)
    port = Ports.free().valkey
    with _home("valkey") as home:
        command = [
            program,
            *("--port", str(port), "--bind", "127.0.0.1", "--dir", str(home.root)),
            *("--save", "", "--appendonly", "no"),
        ]
        with _ready(_component("valkey", command, port, Probe("valkey", f"127.0.0.1:{port}")), home):
            yield f"127.0.0.1:{port}"


@contextmanager
def triton() -> Iterator[tuple[str, Path]]:
    """`host:port` (gRPC) of a server over an empty repository, and that folder."""
    if (reason := triton_lacking()) is not None:
        raise EnvironmentAtFault(reason)
    with _home("triton") as home:
        ports, models = Ports.free(), home.root / "models"
        prefix = shared_memory_prefix(ports.triton_grpc)
        with _ready(triton_component(home, ports, models, prefix=prefix), home):
            yield f"127.0.0.1:{ports.triton_grpc}", models


@contextmanager
def gateway(own: Mapping[str, str], folder: Path) -> Iterator[tuple[str, int]]:
    """`host:port` and pid of a gateway; `own` are its settings but for the ports, its log goes to `folder`/log."""
    ports = Ports.free()
    listens = {"grpc": ports.gateway, "metrics": ports.gateway_metrics}
    with _ready(gateway_component("gateway", own, listens), Home(folder)) as run:
        yield f"127.0.0.1:{ports.gateway}", run.pid


def gateway_component(name: str, own: Mapping[str, str], ports: Mapping[str, int]) -> Component:
    """A gateway with settings of its own beside its ports `grpc` and `metrics`, whatever the environment says."""
    listens = {"MILLRACE_GRPC_PORT": str(ports["grpc"]), "MILLRACE_METRICS_PORT": str(ports["metrics"])}
    spec = ServiceSpec(name, "gateway", frozenset(), wave=4, ports=ports, settings={**own, **listens})
    return service(spec, {})


@contextmanager
def python(module: str, *arguments: str) -> Iterator[tuple[str, int]]:
    """`host:port` and pid of a module that listens on the port which is its first argument, before `arguments`."""
    port = Ports.free().gateway
    command = [sys.executable, "-m", module, str(port), *arguments]
    component = _component(module, command, port, Probe("grpc", f"127.0.0.1:{port}"))
    with _home("python") as home, _ready(component, home) as run:
        yield f"127.0.0.1:{port}", run.pid


@contextmanager
def stack(progress: Progress) -> Iterator[NativeStack]:
    """A whole real stack, ready. A command given to it that fails is the environment's fault as well."""
    with free_offset() as offset, tempfile.TemporaryDirectory(prefix="millrace-bench-") as folder:
        made = NativeStack(Path(folder), offset)
        progress.stage("start a real stack")
        try:
            made.millrace("up", "--profile", "real")
            if missing := [name for name in _NEEDED if name not in made.pids()]:
                raise EnvironmentAtFault(f"this machine cannot run {', '.join(missing)}: millrace doctor says why")
            yield made
        except AssertionError as exc:  # the message is what the command said
            raise EnvironmentAtFault(str(exc)) from exc
        finally:
            made.begun("down").communicate()


@contextmanager
def _home(name: str) -> Iterator[Home]:
    """An empty one, with the checkout's downloads."""
    with tempfile.TemporaryDirectory(prefix=f"millrace-{name}-") as folder:
        yield Home(Path(folder), downloads=checkout_root() / ".millrace" / "dist")


@contextmanager
def _ready(component: Component, home: Home) -> Iterator[RunFile]:
    try:
        with process.running(component, home, without_settings(environ())) as run:
            yield run
    except StackError as exc:
        raise EnvironmentAtFault(str(exc)) from exc


def _component(name: str, command: list[str], port: int, probe: Probe) -> Component:
    return Component(name=name, wave=1, command=command, ports={name: port}, probe=probe, start_s=60, stop_s=5)
