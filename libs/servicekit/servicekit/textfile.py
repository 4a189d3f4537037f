"""Files that readers find whole or not at all, among them a job's gauges for node_exporter's textfile collector."""

import os
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


def replace_text(path: Path, text: str) -> None:
    """Write `text` (UTF-8) beside `path`, in a folder that is made, then rename: nobody reads half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{path.name}.tmp")
    aside.write_text(text, encoding="utf-8")
    os.replace(aside, path)
