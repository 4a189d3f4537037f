"""What the collector reads from its environment; the only module that does."""

from pydantic import Field
from servicekit import ports
from servicekit.security.settings import EdgeSettings
from servicekit.settings import local_port


class Settings(EdgeSettings):
    """What the collector reads from its environment."""

    grpc_port: int = Field(
        default_factory=local_port(ports.GRPC["collector"]), ge=0, le=65535, description="Port of the API; 0 = any."
    )
    connect_s: float = Field(
        default=30.0, gt=0, le=300, description="How long the start waits for the broker, seconds."
    )
    publish_ceiling_s: float = Field(
        default=5.0, gt=0, le=60, description="Longest wait for the log where the caller set no deadline, seconds."
    )
    delivery_timeout_s: float = Field(
        default=10.0, gt=0.1, le=120, description="After this the producer gives a record up, seconds."
    )
    linger_ms: int = Field(default=5, ge=0, le=1_000, description="How long records wait for others to share a batch.")
    max_in_flight: int = Field(
        default=20_000, ge=1, description="Records that may wait for the log's answer before callers are shed."
    )
    drain_s: float = Field(default=10.0, gt=0, description="Time to end in after SIGTERM, seconds.")
