"""The result of a job where others find it: a file for people and the gate, gauges for Prometheus."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from servicekit.textfile import replace_text, write_gauges


def publish(job: str, result: Mapping[str, Any], gauges: Mapping[str, tuple[str, float]], reports: Path) -> Path:
    """Write `<job>-<usecase>.json` and its gauges, `metrics/<job>-<usecase>.prom`, to the folder `reports`.

    Each whole or not at all, with the time: `time_us` of the file, and a gauge `<job>_time_seconds`.

    Args:
        job: `consistency`, `redo`.
        result: of the job; `usecase` is one of its keys.
        gauges: name -> help text, value.
        reports: folder.

    Returns:
        The report's path.
    """
    name, time_us = f"{job}-{result['usecase']}", time.time_ns() // 1_000
    path = reports / f"{name}.json"
    replace_text(path, json.dumps({**result, "time_us": time_us}, indent=2, default=str) + "\n")
    ended = {f"{job}_time_seconds": ("When the last run ended, seconds since the epoch.", time_us / 1e6)}
    write_gauges(reports / "metrics" / f"{name}.prom", {**gauges, **ended}, {"usecase": result["usecase"]})
    return path
