"""The ports of our processes and their neighbours, before `MILLRACE_PORT_OFFSET` is added."""

from collections.abc import Mapping
from typing import Final

GRPC: Final[Mapping[str, int]] = {"gateway": 50051, "collector": 50052}

# Each process answers /live, /ready and /metrics there.
METRICS: Final[Mapping[str, int]] = {
    "gateway": 9101,
    "collector": 9102,
    "features": 9103,
    "archiver": 9104,
    "simulator": 9105,
    "console": 8080,
}

KAFKA: Final = 9092
