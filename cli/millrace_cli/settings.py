"""The only module of the command that reads the environment."""

import importlib
import os
from functools import cache
from pathlib import Path

from local_stack.service import ServiceSpec
from pipelines.settings import Settings as BatchSettings
from pydantic import Field
from servicekit import ports
from servicekit.settings import (
    PREFIX,
    Endpoint,
    Folder,
    declared_names,
    problems,
    under_home,
)

from millrace_cli.errors import BadInput

# The services of the stack and the wave in which each starts: 3 the stream side, 4 what answers requests.
SERVICES = {"collector": 3, "features": 3, "archiver": 3, "gateway": 4}

# Serving before streaming before archiving, where all share few cores. Mildly: at 10 the archiver got so little of a
# busy machine that it could not end within its 20 s.
NICE = {"features": 3, "archiver": 5}

# The stack's ports follow the offset alone, or nobody would find its processes; and each process has its own.
_NOT_PASSED_ON = {f"{PREFIX}{name}" for name in ("GRPC_PORT", "METRICS_PORT", "BIND", "REPLICA", "REPLICAS")}


class Settings(BatchSettings):
    """What the command reads from its environment. It passes on what the services declare."""

    valkey: Endpoint | None = Field(
        default=None, description="host:port of a Valkey that somebody else runs; unset = our own."
    )
    cassandra: Endpoint | None = Field(
        default=None, description="host:port of a Cassandra that somebody else runs; unset = our own."
    )
    checkpoints: Folder = Field(
        default_factory=under_home("data/checkpoints"), description="Folder of the features service's checkpoints."
    )
    revision: int = Field(
        default=1,
        ge=1,
        description="Revision of the layout that a new home begins with; later ones: `millrace rebuild features`.",
    )

    @property
    def online_path(self) -> Path:
        """Folder of the embedded online store."""
        return self.home / "data" / "online"

    @property
    def batch_path(self) -> Path:
        """File of the embedded batch store."""
        return self.home / "data" / "batch.sqlite"

    @property
    def reports(self) -> Path:
        """Folder of what commands report."""
        return self.home / "reports"


def environ() -> dict[str, str]:
    """The environment as it is, with use cases given by path made independent of the working directory."""
    found = dict(os.environ)
    if usecases := found.get(f"{PREFIX}USECASES"):
        parts = [part.strip() for part in usecases.split(",")]
        found[f"{PREFIX}USECASES"] = ",".join(absolute(part) for part in parts)
    return found


@cache
def load() -> Settings:
    """Read and check the environment once.

    Raises:
        BadInput: every problem, one line each, naming the variable.
    """
    also = {name for declared in _declared().values() for name in declared}
    if found := problems(Settings, also=also):
        raise BadInput("\n".join(found))
    return Settings()


def service_specs(settings: Settings) -> list[ServiceSpec]:
    """The services as the supervisor knows them: names only."""
    return [
        ServiceSpec(
            name=name,
            module=name,
            declared=frozenset(declared - _NOT_PASSED_ON),
            wave=SERVICES[name],
            nice=NICE.get(name, 0),
            ports={
                **({"grpc": settings.port(ports.GRPC[name])} if name in ports.GRPC else {}),
                "metrics": settings.port(ports.METRICS[name]),
            },
        )
        for name, declared in _declared().items()
    ]


@cache
def _declared() -> dict[str, set[str]]:
    """Service to the `MILLRACE_*` names that its settings class accepts."""
    return {name: declared_names(importlib.import_module(f"{name}.settings").Settings) for name in SERVICES}


def absolute(usecase: str) -> str:
    """A use case given by the path of its file, absolute; one given by its name as it is."""
    is_path = "/" in usecase or usecase.endswith((".yaml", ".yml"))
    return str(Path(usecase).expanduser().absolute()) if is_path else usecase
