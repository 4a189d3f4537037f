"""The backfill on many machines: one task for each bucket of users, on Ray.

Ray is a dependency group of its own (`ray`), since only this module needs it. The caller has connected (`ray.init`).
"""

from typing import Any

import numpy as np
import ray
from definitions.backfill import Backfilled, Queries, backfill_bucket
from definitions.layout import Layout

from pipelines.training.examples import Log


def backfill_on_ray(layout: Layout, log: Log, queries: Queries, buckets: int) -> Backfilled:
    """What `definitions.backfill.backfill` gives for the log, equal bit for bit, computed in `buckets` tasks.

    The log and the queries go into Ray's object store once; tasks of one machine read the same memory.

    Raises:
        ray.exceptions.RayError: a task failed more often than Ray retries.
    """
    task = ray.remote(backfill_bucket)
    shared = [ray.put(part) for part in (layout, log.events, log.users, log.items, queries)]
    parts = ray.get([task.remote(*shared, bucket, buckets) for bucket in range(buckets)])
    n = len(queries)
    whole = Backfilled(
        np.empty((n, len(layout.feature_names)), np.float32),
        np.empty((n, len(layout.user_int_names)), np.int64),
        np.empty((n, len(layout.item_int_names)), np.int64),
    )
    for rows, part in parts:
        _put(whole, rows, part)
    return whole


def _put(whole: Backfilled, rows: Any, part: Backfilled) -> None:
    whole.features[rows], whole.user_ints[rows], whole.item_ints[rows] = part.features, part.user_ints, part.item_ints
