"""Rows that were logged, recomputed by backfill: whether the two ways to a training set give the same one."""

from pathlib import Path
from typing import Any, Final

from definitions.layout import Layout
from stores.offline import Lake

from pipelines import consistency
from pipelines.consistency.report import publish
from pipelines.errors import BadInputError
from pipelines.progress import SILENT, Progress

IMPRESSIONS: Final = 200  # each costs two backfills of its candidates; `millrace consistency` takes more
_TOLD: Final = ("impressions", "cells", "mismatch_rate", "inside_rate", "missing_rate", "inexact", "logic", "smape")


def mismatch_of_logged(
    layout: Layout,
    lake: Lake,
    reports: Path | None = None,
    *,
    impressions: int = IMPRESSIONS,
    seed: int = 0,
    progress: Progress = SILENT,
) -> dict[str, Any] | None:
    """How far logged features are from what a backfill of the same requests gives; None if nothing can be compared.

    The consistency job on a sample: `mismatch_rate` is the share of cells that a backfill as of t gives otherwise (the
    online side was behind), `logic` counts those that even the logged offsets do not explain: training on both would
    mix two definitions of a feature.

    Args:
        layout: whose logged rows.
        lake: impressions and facts.
        reports: where the whole report goes; None publishes none.
        impressions, seed: of the sample.
        progress: is told the stages, and why nothing was compared.

    Raises:
        StoreUnavailable: the lake cannot be read.
    """
    try:
        result = consistency.run(layout, lake, impressions=impressions, seed=seed, progress=progress)
    except BadInputError as exc:
        progress.note(str(exc))
        return None
    told = {name: result[name] for name in _TOLD}
    if reports is not None:
        told["report"] = str(publish(result, reports))
    return told
