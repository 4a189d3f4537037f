"""The result of the audit where others find it: a file for people, gauges for Prometheus."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines import job_report


def publish(result: Mapping[str, Any], reports: Path) -> Path:
    """Write `redo-<usecase>.json` and its gauges to the folder `reports`; the report's path."""
    gauges = {
        "redo_decisions": ("Logged decisions that the last audit made again.", result["decisions"]),
        "redo_mismatched_decisions": ("Of them, not the same to the bit.", result["mismatched"]),
        "redo_unredone_decisions": ("Of them, without what it takes to make them again.", result["unredone"]),
    }
    return job_report.publish("redo", result, gauges, reports)
