"""The result of the consistency job where others find it: a file for the gate, gauges for Prometheus."""

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from servicekit.textfile import write_gauges

from pipelines.errors import BadInputError


@dataclass(frozen=True)
class Report:
    """What the last run found. `logic` above 0: served values that neither the logged offsets nor ties explain."""

    path: Path
    usecase: str
    layout_hash: str
    impressions: int
    cells: int
    logic: int
    mismatch_rate: float
    time_us: int


def publish(result: Mapping[str, Any], reports: Path) -> Path:
    """Write `consistency-<usecase>.json` and its gauges, `metrics/consistency-<usecase>.prom`, to the folder `reports`.

    Each whole or not at all. Returns the report's path.
    """
    name, time_us = f"consistency-{result['usecase']}", time.time_ns() // 1_000
    reports.mkdir(parents=True, exist_ok=True)
    path = reports / f"{name}.json"
    aside = path.with_suffix(".tmp")
    aside.write_text(json.dumps({**result, "time_us": time_us}, indent=2, default=str) + "\n", encoding="utf-8")
    os.replace(aside, path)
    gauges = {
        "consistency_values": ("Logged values that the last run compared.", result["cells"]),
        "consistency_logic_values": ("Of them, explained by neither offsets nor ties.", result["logic"]),
        "consistency_mismatch_ratio": ("Share further behind than the tolerance, or wrong.", result["mismatch_rate"]),
        "consistency_inside_ratio": ("Share that was behind within the tolerance.", result["inside_rate"]),
        "consistency_missing_ratio": ("Share served as if there were no history.", result["missing_rate"]),
        "consistency_time_seconds": ("When the last run ended, seconds since the epoch.", time_us / 1e6),
    }
    write_gauges(reports / "metrics" / f"{name}.prom", gauges, {"usecase": result["usecase"]})
    return path


def latest(reports: Path, usecase: str) -> Report | None:
    """The last report of a use case in the folder `reports` (of MILLRACE_HOME); None before the first.

    Raises:
        BadInputError: the file is not one that `publish` wrote.
    """
    path = reports / f"consistency-{usecase}.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        names = ("usecase", "layout_hash", "impressions", "cells", "logic", "mismatch_rate", "time_us")
        return Report(path, **{name: found[name] for name in names})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise BadInputError(f"{path}: no report ({exc!r}); make it anew: millrace consistency") from exc
