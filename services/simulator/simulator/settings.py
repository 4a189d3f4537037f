"""The only module that reads the environment."""

from typing import Literal

from pydantic import Field
from servicekit import ports
from servicekit.settings import Endpoint, Folder, ProcessSettings, local_endpoint, under_home


class Settings(ProcessSettings):
    """What the simulator reads from its environment."""

    gateway: Endpoint = Field(
        default_factory=local_endpoint(ports.GRPC["gateway"]), description="host:port of the gateway."
    )
    collector: Endpoint = Field(
        default_factory=local_endpoint(ports.GRPC["collector"]), description="host:port of the collector."
    )
    worlds: Folder = Field(
        default_factory=under_home("simulator"),
        description="Folder of saved runs, and of the truth, which nobody who serves may read.",
    )
    profile: Folder | None = Field(default=None, description="A profile of your own; unset = the use case's.")
    seed: int = Field(default=0, ge=0, description="Of everything random: the same seed is the same world.")
    users: int = Field(default=1_000, ge=1, le=1_000_000, description="How many people there are.")
    items: int = Field(default=600, ge=50, le=1_000_000, description="How many items come and go.")
    days: float = Field(default=14.0, gt=0, le=365, description="How far in the past the world begins, days.")
    rate: float = Field(default=20.0, ge=0, description="Requests a second; 0 = as fast as it goes.")
    call: Literal["rank", "recommend"] = Field(
        default="rank", description="`rank`: the world's own candidates; `recommend`: the gateway finds them."
    )
