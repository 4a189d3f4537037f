"""Valkey, or Redis where a system has only that: the online store of the real profile."""

import shutil
from collections.abc import Mapping

from local_stack.component import Component
from local_stack.home import Home
from local_stack.ports import Ports
from local_stack.probes import Probe

REMEDY = "neither valkey-server nor redis-server is installed (Debian: apt install redis-server)"


def find_valkey(environ: Mapping[str, str]) -> str | None:
    """Path of the server program, Valkey first; None if there is none."""
    names = ("valkey-server", "redis-server")
    return next((path for name in names if (path := shutil.which(name, path=environ.get("PATH")))), None)


def valkey(home: Home, ports: Ports, program: str) -> Component:
    """The server with an append-only file in `data/valkey`."""
    data = home.data / "valkey"
    return Component(
        name="valkey",
        wave=1,
        command=[
            program,
            *("--port", str(ports.valkey), "--bind", "127.0.0.1", "--dir", str(data)),
            *("--save", "", "--appendonly", "yes", "--daemonize", "no"),
        ],
        ports={"valkey": ports.valkey},
        probe=Probe("valkey", f"127.0.0.1:{ports.valkey}"),
        start_s=120,  # it reads its whole file first
        stop_s=15,
        prepare=lambda: data.mkdir(parents=True, exist_ok=True),
    )
