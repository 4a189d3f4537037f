"""What was served against what offline evaluation says of the same model and the same rows."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from bundle import Bundle, IntInputs
from definitions.events import EventColumns
from definitions.layout import Layout

from pipelines.errors import TrainingError
from pipelines.evaluation.metrics import Metrics, evaluate
from pipelines.replay import Served
from pipelines.training.examples import Examples

DISAGREES = 1e-3
"""Scores further apart than this are counted as disagreement: item aggregates may lag by up to a second."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """Served and offline figures over the same `rows`.

    `gap`: |AUC served - AUC offline|, None with one class only. `disagree`: share of rows whose scores differ by more
    than 1e-3; `max_abs`: the largest difference. `rungs`: share of rows by rung. `asked_again`: requests
    repeated because a lower rung answered. `waited_p50_ms`, `waited_p99_ms`: from
    the acknowledgement of a user's event to the answer that knew it. `feature_age_p50_s`: event time minus the newest
    event in the row.
    """

    rows: int
    online: Metrics
    offline: Metrics
    gap: float | None
    disagree: float
    max_abs: float
    rungs: dict[str, float]
    versions: tuple[int, ...]
    asked_again: int
    waited_p50_ms: float
    waited_p99_ms: float
    feature_age_p50_s: float


def offline_scores(bundle: Bundle, layout: Layout, examples: Examples, threads: int) -> npt.NDArray[np.float32]:
    """The scores float32 (n,) of point-in-time rows, as the bundle is served with its own weights of heads."""
    inputs = IntInputs.of(bundle, layout)
    predictions = bundle.model(threads).predictions(examples.features, inputs(examples.user_ints, examples.item_ints))
    return bundle.weighed(predictions)


def compare(
    served: Served, events: EventColumns, bundle: Bundle, layout: Layout, examples: Examples, *, threads: int = 2
) -> Agreement:
    """Join `served` (whose rows are places in `events`) with `examples` by event id, and evaluate both.

    Served events whose attribution window had not closed by the newest of `events` have no label yet and are left out.

    Raises:
        TrainingError: a served event has no offline row.
    """
    waits_us = layout.usecase.attribution_us
    if waits_us:
        served = served.take(events.event_time_us[served.row] + waits_us <= events.event_time_us.max(initial=0))
        if not len(served.row):
            raise TrainingError(
                f"no label is known yet: all that was served lies within the window of {waits_us / 1e6:,.0f} s before "
                "the newest event; replay more"
            )
    event_id = events.event_id[served.row]
    order = np.argsort(examples.event_id)
    place = np.searchsorted(examples.event_id, event_id, sorter=order)
    place = order[np.minimum(place, len(order) - 1)]
    if not len(event_id) or (examples.event_id[place] != event_id).any():
        missing = int((examples.event_id[place] != event_id).sum()) if len(event_id) else 0
        raise TrainingError(
            f"{missing} of {len(event_id)} served events are not in the lake yet; archive, then compare"
        )
    label, users = examples.label[place], examples.user_id[place]
    offline = offline_scores(bundle, layout, examples, threads)[place]
    online_metrics = evaluate(label, served.score.astype(np.float64), users)
    offline_metrics = evaluate(label, offline.astype(np.float64), users)
    apart = np.abs(served.score - offline)
    waited_ms = served.waited_us[served.waited_us > 0] / 1e3
    rungs, counts = np.unique(served.rung.astype(str), return_counts=True)
    gap = None
    if online_metrics.auc is not None and offline_metrics.auc is not None:
        gap = abs(online_metrics.auc - offline_metrics.auc)
    return Agreement(
        rows=len(event_id),
        online=online_metrics,
        offline=offline_metrics,
        gap=gap,
        disagree=float((apart > DISAGREES).mean()),
        max_abs=float(apart.max()),
        rungs={rung: count / len(event_id) for rung, count in zip(rungs.tolist(), counts.tolist(), strict=True)},
        versions=tuple(np.unique(served.model_version).tolist()),
        asked_again=served.asked_again,
        waited_p50_ms=float(np.percentile(waited_ms, 50)) if len(waited_ms) else 0.0,
        waited_p99_ms=float(np.percentile(waited_ms, 99)) if len(waited_ms) else 0.0,
        feature_age_p50_s=float(np.percentile(served.feature_age_us, 50)) / 1e6,
    )
