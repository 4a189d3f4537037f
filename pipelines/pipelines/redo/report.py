"""The result of the audit where others find it: a file for people, gauges for Prometheus."""

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from servicekit.textfile import write_gauges


def publish(result: Mapping[str, Any], reports: Path) -> Path:
    """Write `redo-<usecase>.json` and its gauges, `metrics/redo-<usecase>.prom`, to the folder `reports`.

    Each whole or not at all. Returns the report's path.
    """
    name, time_us = f"redo-{result['usecase']}", time.time_ns() // 1_000
    reports.mkdir(parents=True, exist_ok=True)
    path = reports / f"{name}.json"
    aside = path.with_suffix(".tmp")
    aside.write_text(json.dumps({**result, "time_us": time_us}, indent=2, default=str) + "\n", encoding="utf-8")
    os.replace(aside, path)
    gauges = {
        "redo_decisions": ("Logged decisions that the last audit made again.", result["decisions"]),
        "redo_mismatched_decisions": ("Of them, not the same to the bit.", result["mismatched"]),
        "redo_unredone_decisions": ("Of them, without what it takes to make them again.", result["unredone"]),
        "redo_time_seconds": ("When the last audit ended, seconds since the epoch.", time_us / 1e6),
    }
    write_gauges(reports / "metrics" / f"{name}.prom", gauges, {"usecase": result["usecase"]})
    return path
