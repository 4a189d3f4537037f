"""A Valkey for one measurement: empty, in memory only, ended with it."""

import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from local_stack.components.valkey import REMEDY, find_valkey

from millrace_cli.errors import EnvironmentAtFault

_START_S: Final = 10.0


@contextmanager
def spare_valkey() -> Iterator[str]:
    """host:port of a new server on a free port. EnvironmentAtFault if there is no program or it does not start."""
    program = find_valkey({})
    if program is None:
        raise EnvironmentAtFault(REMEDY)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="valkey-") as folder:
        server = subprocess.Popen(
            [program, "--port", str(port), "--bind", "127.0.0.1", "--dir", folder, "--save", "", "--appendonly", "no"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            _wait_for(server, port)
            yield f"127.0.0.1:{port}"
        finally:
            server.kill()
            server.wait()


def _wait_for(server: "subprocess.Popen[bytes]", port: int) -> None:
    until = time.monotonic() + _START_S
    while time.monotonic() < until and server.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise EnvironmentAtFault(f"{server.args!r} did not start within {_START_S:.0f} s")
