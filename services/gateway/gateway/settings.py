"""What the gateway reads from its environment; the only module that does."""

import os
from pathlib import Path
from typing import Annotated, ClassVar, Final, Self

from pydantic import Field, model_validator
from servicekit import ports
from servicekit.security.settings import EdgeSettings
from servicekit.settings import PREFIX, Endpoint, Folder, local_port, refused_in_production, under_home

PORTS_APART: Final = 10  # of the pages of several processes: 9101 is the supervisor's, 9111 and on are theirs


class Settings(EdgeSettings):
    """What the gateway reads from its environment."""

    process: ClassVar[str] = "gateway"

    grpc_port: int = Field(
        default_factory=local_port(ports.GRPC["gateway"]),
        ge=0,
        le=65535,
        description="Port of the ranking API; 0 = any.",
    )
    valkey: Endpoint | None = Field(
        None, description="host:port of Valkey, which holds the user rows; unset = LMDB in `MILLRACE_HOME`/data/online."
    )
    cassandra: Endpoint | None = Field(
        None,
        description="host:port of Cassandra, which holds the nightly lists; unset = SQLite in `MILLRACE_HOME`/data.",
    )
    triton: Endpoint | None = Field(
        None, description="host:port of Triton's gRPC endpoint; unset = the model runs in this process."
    )
    triton_pad_rows: bool = Field(
        default=False, description="Pads calls to Triton to 128, 256, 512, 1,024 or 2,048 rows; for a Triton on a GPU."
    )
    bundles: Folder = Field(
        default_factory=under_home("bundles"), description="Folder of the model bundles: `<name>/<version>/`."
    )
    trusted_keys: Folder = Field(
        default_factory=under_home("keys/trusted"),
        description="Folder of the public keys (`*.pem`) that bundles may be signed by; production refuses all others.",
    )
    revision: int = Field(
        default=1, ge=1, description="Revision of the layout before the first deploy; then the bundle says it."
    )
    allow_request_time: Annotated[bool, refused_in_production("a caller must not choose the time")] = Field(
        default=False, description="Lets a caller set `context.time_us` (replay, tests, backtests)."
    )
    rank_ceiling_s: float = Field(
        0.5, gt=0, le=10, description="Longest time for a request whose caller set no deadline, seconds."
    )
    gateway_processes: int = Field(
        1,
        ge=1,
        le=64,
        description="Processes that share the port, each with memory and connections of its own; Kubernetes does "
        "better with replicas.",
    )
    drain_s: float = Field(20.0, gt=0, description="Time to end in after SIGTERM, seconds.")

    @model_validator(mode="after")
    def _shares_a_known_port(self) -> Self:
        if self.gateway_processes > 1 and 0 in (self.grpc_port, self.metrics_port):
            raise ValueError(f"{PREFIX}GATEWAY_PROCESSES: several need known ports; set {PREFIX}GRPC_PORT and "
                             f"{PREFIX}METRICS_PORT to others than 0")  # fmt: skip
        return self

    def environments(self) -> dict[str, dict[str, str]]:
        """Of each process that shares the port: host:port of its metrics -> its whole environment."""
        own = self.metrics_port or self.port(ports.METRICS["gateway"])
        host = "127.0.0.1" if self.bind in ("0.0.0.0", "::") else self.bind  # noqa: S104  compared, not bound
        given = {f"{PREFIX}GATEWAY_PROCESSES": "1", f"{PREFIX}SHARE_PORT": "true"}
        return {
            f"{host}:{port}": os.environ | given | {f"{PREFIX}METRICS_PORT": str(port)}
            for port in range(own + PORTS_APART, own + PORTS_APART + self.gateway_processes)
        }

    @property
    def online_path(self) -> Path:
        """LMDB's folder."""
        return self.home / "data" / "online"

    @property
    def batch_path(self) -> Path:
        """SQLite's file."""
        return self.home / "data" / "batch.sqlite"
