"""The audit: decisions from the lake, made again, counted."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from definitions.usecase import UseCase
from stores.offline import Lake

from pipelines.errors import BadInputError
from pipelines.progress import SILENT, Progress
from pipelines.redo.again import Redone, again, rung_name
from pipelines.redo.bundles import Bundles
from pipelines.redo.logged import Decision, named, newest

EXAMPLES: Final = 20


def run(
    usecase: UseCase,
    lake: Lake,
    bundles: Path,
    *,
    request_ids: Sequence[int] = (),
    last: int = 0,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """Make logged decisions again: those of `request_ids`, or the `last` so many.

    `equal` of `decisions` have every bit of scores, order and propensities; `mismatched`: something differs;
    `unredone`: nothing differs, but not all could be made again, by reason in `untold`. `within_parity`: of the
    mismatched, those whose scores are at most 1e-5 off and whose order follows from the logged scores.

    Raises:
        BadInputError: a request that the lake does not have, or none at all.
        StoreUnavailable: the lake cannot be read.
    """
    progress.stage("read decisions")
    found = _decisions(usecase, lake, request_ids, last)
    opened = Bundles(bundles, usecase)
    progress.stage("make decisions again", len(found))
    done: list[Redone] = []
    for decision in found:
        done.append(again(decision, opened, usecase))
        progress.advance(1)
    wrong = [each for each in done if each.differs]
    left_out = [each for each in done if not each.differs and each.untold]
    return {
        "usecase": usecase.name,
        "asked": len(request_ids) or last,
        "decisions": len(done),
        "equal": sum(each.same for each in done),
        "mismatched": len(wrong),
        "within_parity": sum(each.within_parity for each in wrong),
        "unredone": len(left_out),
        "untold": dict(Counter(reason for each in left_out for reason in each.untold)),
        "scores_compared": sum(each.scored for each in done),
        "scores_equal": sum(each.scores is True for each in done),
        "orders_equal": sum(each.order is True for each in done),
        "worst": max((each.worst for each in done), default=0.0),
        "rungs": dict(Counter(rung_name(each.decision.rung) for each in done)),
        "models": dict(Counter(_model(each.decision) for each in done)),
        "arms": dict(Counter(each.decision.arm for each in done if each.decision.arm)),
        "examples": [each.as_dict() for each in (*wrong, *left_out)[:EXAMPLES]],
        "requests": [each.as_dict() for each in done] if request_ids else [],
        "passed": not wrong and not left_out,
    }


def _decisions(usecase: UseCase, lake: Lake, request_ids: Sequence[int], last: int) -> list[Decision]:
    if not request_ids:
        found = newest(lake, last)
        if not found:
            raise BadInputError(
                f"{usecase.name}: the lake has no decisions; rank something, and let it be archived: millrace replay"
            )
        return found
    by_id = named(lake, request_ids)
    if missing := [each for each in request_ids if each not in by_id]:
        raise BadInputError(
            f"{usecase.name}: the lake has no impression of request {missing[0]}; it was never shown anything, was "
            "dropped (gateway_impressions_total), or is not archived yet"
        )
    return [by_id[each] for each in request_ids]


def _model(decision: Decision) -> str:
    return f"{decision.model_name}/{decision.model_version}" if decision.model_name else "none"
