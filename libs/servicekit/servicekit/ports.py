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

_REVISIONS: Final = range(9110, 9130)  # as many at a time on one machine


def features_metrics(revision: int) -> int:
    """Metrics port of the features process of a revision: each has one, so that two run side by side."""
    return METRICS["features"] if revision == 1 else _REVISIONS[revision % len(_REVISIONS)]
