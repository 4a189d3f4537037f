"""A Triton of one command: on free ports, over an empty repository that goes with it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from millrace_cli.errors import EnvironmentAtFault


@contextmanager
def spare_triton() -> Iterator[tuple[str, Path]]:
    """host:port of its gRPC, and the folder of its repository.

    Raises:
        EnvironmentAtFault: its wheel cannot run here, there is no download, or it does not start.
    """
    from local_stack import process
    from local_stack.components.triton import lacking, shared_memory_prefix, triton
    from local_stack.errors import StackError
    from local_stack.home import Home, checkout_root
    from local_stack.ports import Ports

    from millrace_cli.settings import environ

    if (reason := lacking()) is not None:
        raise EnvironmentAtFault(reason)
    with tempfile.TemporaryDirectory(prefix="millrace-triton-") as folder:
        home = Home(Path(folder), downloads=checkout_root() / ".millrace" / "dist")
        home.make()
        ports, models = Ports.free(), Path(folder) / "models"
        component = triton(home, ports, models, prefix=shared_memory_prefix(ports.triton_grpc))
        try:
            if component.download and not component.download.exists():
                component.fetch()
            run = process.start(component, home, environ())
            try:
                process.await_ready(run, component.start_s)
                yield f"127.0.0.1:{ports.triton_grpc}", models
            finally:
                process.stop(run, home)
        except StackError as exc:
            raise EnvironmentAtFault(str(exc)) from exc
