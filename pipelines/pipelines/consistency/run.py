"""The consistency job: sample, recompute, compare, report."""

from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any, Final

from definitions.layout import Layout
from servicekit.topics import topic
from stores.offline import Lake, app_id

from pipelines.consistency.compare import Comparison, Tally, rate_of
from pipelines.consistency.facts import Facts
from pipelines.consistency.gaps import Gaps
from pipelines.consistency.impressions import Logged, groups, is_archived, sample
from pipelines.consistency.recompute import recompute
from pipelines.errors import BadInputError
from pipelines.progress import SILENT, Progress

SAMPLE: Final = 1_000
AGE_TOLERANCE_S: Final = 1.0
_MOST_PARTITIONS: Final = 4_096


def run(
    layout: Layout,
    lake: Lake,
    *,
    impressions: int = SAMPLE,
    age_tolerance_s: float = AGE_TOLERANCE_S,
    seed: int = 0,
    request_ids: Collection[int] | None = None,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """Compare at most so many logged impressions of this layout with recomputations from the lake alone.

    `request_ids`: those of these requests alone.

    `logic`: cells that neither the logged offsets nor ties explain. `mismatch_rate`: share of cells that were further
    behind than the tolerance, or wrong; `inside_rate`: behind within it; `missing_rate`: served as if there were no
    history. `features`: the same by feature, in cells (`compare.Tally`).

    Raises:
        BadInputError: the lake has no impression of this layout, or not the facts of any.
        StoreUnavailable: the lake cannot be read.
    """
    usecase = layout.usecase
    progress.stage("read impressions")
    sampled, skipped = sample(lake, layout, impressions, seed, request_ids)
    compared = Comparison(layout, round(age_tolerance_s * 1e6))
    counted: Counter[str] = Counter(skipped)
    done: list[Logged] = []
    logs = sorted({each.log_id for each in sampled})
    for log_id in logs:
        progress.stage("read facts")
        facts = Facts.of_lake(lake, log_id, usecase.dedupe_offsets)
        positions = _positions(lake, log_id, usecase.name, facts)
        own = [each for each in sampled if each.log_id == log_id]
        ready = [each for each in own if is_archived(each, facts, positions)]
        counted["facts not archived yet"] += len(own) - len(ready)
        progress.stage("recompute impressions", len(ready))
        for members in groups(ready):
            compared.add(recompute(layout, facts, members), Gaps(layout, facts))
            progress.advance(len(members))
        done += ready
    if not done:
        raise BadInputError(
            f"{usecase.name}: the lake has no impressions to compare ({_why(counted)}); rank something, and let it be "
            "archived: millrace replay"
        )
    return _result(layout, compared, done, counted, age_tolerance_s, logs)


def _positions(lake: Lake, log_id: str, usecase: str, facts: Facts) -> dict[int, int]:
    """Partition -> the offset below which its interactions are in the lake."""
    partitions = range(min(_MOST_PARTITIONS, 1 + int(facts.events.partition.max(initial=0))))
    name = topic(usecase, "interactions")
    return {each: lake.next_offset("interactions", app_id(log_id, name, each)) for each in partitions}


def _why(skipped: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in skipped.items() if count) or "none are there"


def _result(
    layout: Layout, compared: Comparison, done: list[Logged], skipped: Mapping[str, int], tolerance_s: float,
    logs: list[str],
) -> dict[str, Any]:  # fmt: skip
    features = compared.features

    def total(name: str) -> int:
        return sum(getattr(tally, name) for tally in features.values())

    def rate(name: str) -> float:
        return rate_of(features, lambda tally: int(getattr(tally, name)))

    floats: list[Tally] = [features[name] for name in layout.feature_names]
    return {
        "usecase": layout.usecase.name,
        "layout_hash": f"{layout.layout_hash:08x}",
        "impressions": len(done),
        "cells": total("cells"),
        "mismatch_rate": rate("mismatch"),
        "inside_rate": rate("inside"),
        "missing_rate": rate("missing"),
        "inexact": total("inexact"),
        "classes": {name: total(name) for name in ("lag", "tie", "late", "logic")},
        "logic": total("logic"),
        "smape": sum(tally.smape for tally in floats) / max(1, sum(tally.cells for tally in floats)),
        "age_tolerance_s": tolerance_s,
        "oldest_missing_s": max(tally.oldest_us for tally in features.values()) / 1e6,
        "without_row": sum(not each.has_row for each in done),
        "skipped": {reason: count for reason, count in skipped.items() if count},
        "logs": logs,
        "features": {name: tally.as_dict() for name, tally in features.items()},
        "examples": compared.examples,
        "passed": total("logic") == 0,
    }
