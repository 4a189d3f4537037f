"""The only module that reads the environment."""

from pathlib import Path
from typing import Self

from pydantic import Field, model_validator
from servicekit.settings import Endpoint, Folder, ProcessSettings, under_home


class Settings(ProcessSettings):
    """What the features service reads from its environment."""

    valkey: Endpoint | None = Field(
        default=None, description="host:port of Valkey, the online store; unset = LMDB in `MILLRACE_HOME/data/online`."
    )
    checkpoints: Folder = Field(
        default_factory=under_home("data/checkpoints"), description="Folder of checkpoints and leases, durable."
    )
    revision: int = Field(default=1, ge=1, description="Revision of the layout: a changed layout takes the next one.")
    replica: int = Field(default=0, ge=0, description="This replica, from 0; partition p belongs to p mod replicas.")
    replicas: int = Field(default=1, ge=1, description="How many replicas share the partitions.")
    checkpoint_s: float = Field(
        default=5.0, gt=0, le=60, description="Time between two checkpoints; under load up to 10."
    )
    user_state_mib: float = Field(
        default=4096,
        gt=0,
        description="Memory for users' state, MiB; beyond it those who were active longest ago are kept on the disk.",
    )
    # Kafka answers as soon as a record comes, so a long wait costs no freshness and spares both sides empty fetches
    # (20 ms: 8 % of a core, idle). The embedded broker looks at its log only when the wait is half over.
    fetch_wait_ms: int = Field(
        default=500,
        ge=1,
        le=5_000,
        description="Longest time that the broker holds a fetch that finds nothing; the embedded broker wants 20.",
    )
    drain_s: float = Field(default=20.0, gt=0, description="Longest time that a graceful stop may take.")

    @model_validator(mode="after")
    def _replica_in_range(self) -> Self:
        if self.replica >= self.replicas:
            raise ValueError(
                f"MILLRACE_REPLICA is {self.replica}; it must be below MILLRACE_REPLICAS ({self.replicas})"
            )
        return self

    @property
    def online_path(self) -> Path:
        """Folder of the embedded online store."""
        return self.home / "data" / "online"
