"""The only module that reads the environment."""

from typing import Self

from pydantic import Field, model_validator
from servicekit.settings import FolderOrUri, ProcessSettings, under_home


class Settings(ProcessSettings):
    """What the archiver reads from its environment."""

    lake: FolderOrUri = Field(default_factory=under_home("lake"), description="Folder or URI of the Delta tables.")
    replica: int = Field(default=0, ge=0, description="This replica, from 0; partition p belongs to p mod replicas.")
    replicas: int = Field(default=1, ge=1, description="How many replicas share the partitions.")
    commit_s: float = Field(default=30.0, ge=0.1, le=600, description="Longest time between two commits of a table.")
    buffer_bytes: int = Field(
        default=32 << 20, ge=1 << 20, description="Rows that may wait in memory before they are committed earlier."
    )
    accept_loss: bool = Field(
        default=False, description="Go on where retention removed records that were never archived. Once, by hand."
    )
    keep_hours: int = Field(
        default=168,
        ge=1,
        description="Hours that files which the nightly compaction replaced stay readable.",
    )
    drain_s: float = Field(default=20.0, gt=0, description="Longest time that a graceful stop may take.")

    @model_validator(mode="after")
    def _replica_in_range(self) -> Self:
        if self.replica >= self.replicas:
            raise ValueError(
                f"MILLRACE_REPLICA is {self.replica}; it must be below MILLRACE_REPLICAS ({self.replicas})"
            )
        return self
