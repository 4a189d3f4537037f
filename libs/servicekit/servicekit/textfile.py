"""Gauges of a job that has ended, as a file: what node_exporter's textfile collector reads."""

from collections.abc import Mapping
from pathlib import Path

from prometheus_client import CollectorRegistry, Gauge, write_to_textfile


def write_gauges(path: Path, gauges: Mapping[str, tuple[str, float]], labels: Mapping[str, str]) -> None:
    """Write `gauges` (name -> help text, value), each with `labels`, to `path` (`*.prom`), whole or not at all."""
    registry = CollectorRegistry()
    for name, (text, value) in gauges.items():
        Gauge(name, text, list(labels), registry=registry).labels(*labels.values()).set(value)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_to_textfile(str(path), registry)
