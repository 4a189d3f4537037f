"""Why a logged decision is as it is: the scores by the very bundle, and what the rules made of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from definitions.errors import DefinitionsError
from definitions.rules import Rules
from definitions.usecase import UseCase
from millrace.events.v1 import events_pb2 as pb

from pipelines.errors import BadInputError
from pipelines.explain.explanation import Explanation
from pipelines.explain.graphs import GraphExplainer
from pipelines.redo.again import reranked, rung_name
from pipelines.redo.bundles import Bundles, Opened, Unredoable
from pipelines.redo.logged import BY_MODEL, Decision

_WITHOUT: Final[Mapping[str, Mapping[str, Any]]] = {  # what a rule is called -> rules without it
    "exploration": {"exploration": None},
    "pins and shares": {"rerank": ()},
    "diversity": {"diversity": None},
}


def explain_decision(
    decision: Decision, bundles: Path, usecase: UseCase, items: Sequence[int] = (), *, top: int, most: int = 10
) -> dict[str, Any]:
    """Of some of its candidates, or of the first `most` that were shown: what each feature added to the logged score.

    `items` with each item's place in the list (0 = not shown), its place by score, propensity and source; `above`: why
    the first lies above the second, or below; `because`: `score`, or the rule without which it would not.

    Raises:
        BadInputError: no model scored it, an item was no candidate, or its bundle is gone.
    """
    if decision.rung not in BY_MODEL:
        raise BadInputError(
            f"request {decision.request_id} was answered on rung {rung_name(decision.rung)}: no model scored it"
        )
    opened = Bundles(bundles, usecase).of(decision)
    places = _places(decision, items, most)
    inputs = decision.inputs(opened.layout) if decision.layout_hash == opened.layout.layout_hash else None
    if inputs is None:
        raise Unredoable(f"request {decision.request_id}: its features are not those of the bundle's layout")
    features, user_ints, item_ints = inputs
    ints = opened.ints(user_ints, item_ints[places])
    graph = opened.bundle.model_path if decision.rung == pb.RUNG_MODEL else opened.bundle.fallback_path
    explainer = GraphExplainer(opened.bundle, graph, decision.heads)
    codes = np.empty((len(places), 0), np.int64) if ints is None else ints
    found = explainer.contributions(np.ascontiguousarray(features[places]), codes).by_feature()
    ids = tuple(decision.item_ids[places].tolist())
    told = Explanation(ids, decision.scores[places].astype(np.float64), found, explainer.method, known=True)
    by_score = np.empty(len(decision.item_ids), np.int64)
    by_score[np.lexsort((decision.item_ids, -decision.scores))] = np.arange(1, len(by_score) + 1)
    figures = told.as_dict(top)
    for item, place in zip(figures["items"], places.tolist(), strict=True):
        item |= {
            "position": place + 1 if place < decision.shown else 0,
            "place_by_score": int(by_score[place]),
            "propensity": float(decision.propensities[place]),
            "reason": decision.reasons[place] if place < len(decision.reasons) else "",
        }
    if figures["above"] is not None:
        first, second = (int(place) for place in places[:2])
        figures["above"]["because"] = _because(decision, first, second, opened, usecase)
    return {**_said(decision), **figures}


def _said(decision: Decision) -> dict[str, Any]:
    return {
        "request_id": decision.request_id,
        "user_id": decision.user_id,
        "at_us": decision.time_us,
        "model": decision.model_name,
        "version": decision.model_version,
        "digest": decision.digest,
        "rung": rung_name(decision.rung),
        "arm": decision.arm,
        "shown": decision.shown,
        "candidates": decision.candidates or len(decision.item_ids),
    }


def _places(decision: Decision, items: Sequence[int], most: int) -> np.ndarray[Any, np.dtype[np.intp]]:
    if not items:
        return np.arange(min(most, decision.shown or len(decision.item_ids)))
    places = {item: place for place, item in enumerate(decision.item_ids.tolist())}
    for item in items:
        if item not in places:
            raise BadInputError(f"--items: {item} was no candidate of request {decision.request_id}, or was not logged")
    return np.array([places[item] for item in dict.fromkeys(items)], np.intp)


def _because(decision: Decision, first: int, second: int, opened: Opened, usecase: UseCase) -> str:
    """Why one place lies above the other: `score`, `order by id` of equal scores, or the rule that put it there."""
    upper, lower = min(first, second), max(first, second)
    a, b = decision.scores[upper], decision.scores[lower]
    if a > b:
        return "score"
    if a == b and decision.item_ids[upper] < decision.item_ids[lower]:
        return "equal scores, by id"
    if not decision.has_all or not decision.rules:
        return "rules"
    rules = Rules.parse(decision.rules)
    pair = decision.item_ids[[upper, lower]].tolist()
    for name, without in _WITHOUT.items():
        try:
            ids, _ = reranked(decision, rules.model_copy(update=without), opened, usecase)
        except (Unredoable, DefinitionsError):
            return "rules"
        order = ids.tolist()
        if order.index(pair[0]) > order.index(pair[1]):
            return name
    return "rules"
