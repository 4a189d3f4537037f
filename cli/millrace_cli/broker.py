"""A Kafka of one command: on free ports, in a folder that goes with it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from millrace_cli.errors import EnvironmentAtFault


@contextmanager
def own_kafka(usecase: str) -> Iterator[tuple[str, Path]]:
    """`host:port` of a broker with the topics of a use case, and an empty folder beside its data.

    Raises:
        EnvironmentAtFault: there is no Java 17, no download, or the broker does not start.
    """
    from local_stack import process
    from local_stack.components.kafka import kafka, new_cluster_id
    from local_stack.errors import StackError
    from local_stack.home import Home, checkout_root
    from local_stack.java import find_java, lacking
    from local_stack.ports import Ports
    from local_stack.topics import create_topics, declared_topics

    from millrace_cli.settings import environ

    inherited = environ()
    java = find_java(inherited)
    if java is None or (reason := lacking(java, inherited)) is not None:
        raise EnvironmentAtFault(f"Kafka needs Java: {reason if java else 'none is installed'}")
    with tempfile.TemporaryDirectory(prefix="millrace-kafka-") as folder:
        home = Home(Path(folder), downloads=checkout_root() / ".millrace" / "dist")
        home.make()
        ports = Ports.free()
        component = kafka(home, ports, java, new_cluster_id())
        try:
            if component.download and not component.download.exists():
                component.fetch()
            run = process.start(component, home, inherited)
            try:
                process.await_ready(run, component.start_s)
                bootstrap = f"127.0.0.1:{ports.kafka}"
                create_topics(bootstrap, declared_topics(checkout_root() / "infra/kafka/topics.yaml", [usecase]))
                beside = home.root / "beside"
                beside.mkdir()
                yield bootstrap, beside
            finally:
                process.stop(run, home)
        except StackError as exc:
            raise EnvironmentAtFault(str(exc)) from exc
