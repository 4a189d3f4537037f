"""The result of the consistency job where others find it: a file for the gate, gauges for Prometheus."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines import job_report
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
    """Write `consistency-<usecase>.json` and its gauges to the folder `reports`; the report's path."""
    gauges = {
        "consistency_values": ("Logged values that the last run compared.", result["cells"]),
        "consistency_logic_values": ("Of them, explained by neither offsets nor ties.", result["logic"]),
        "consistency_mismatch_ratio": ("Share further behind than the tolerance, or wrong.", result["mismatch_rate"]),
        "consistency_inside_ratio": ("Share that was behind within the tolerance.", result["inside_rate"]),
        "consistency_missing_ratio": ("Share served as if there were no history.", result["missing_rate"]),
    }
    return job_report.publish("consistency", result, gauges, reports)


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
