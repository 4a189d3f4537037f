"""Why the model that serves scores a user's items as it does: from the rows and the snapshot that the gateway reads."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from bundle import Bundle, IntInputs
from bundle.contributions import Contributions, Vector
from definitions.assembly import RequestContext, assemble, past_items
from definitions.item_snapshot import ItemSnapshot
from definitions.layout import Layout
from definitions.packed import unpack_user_row

from pipelines.explain.graphs import GraphExplainer
from pipelines.training.linear import sigmoid


@dataclass(frozen=True, eq=False)
class Explanation:
    """Of n items of one user, best first: ids, scores float64 (n,), contributions by feature; `method` gave them.

    `known`: whether the user has a row; without one all columns of the user are at their defaults.
    """

    items: tuple[int, ...]
    scores: Vector
    found: Contributions
    method: str
    known: bool

    def as_dict(self, top: int) -> dict[str, Any]:
        """Per item its score, raw score, and the `top` features' value and contribution; and why the first item lies
        above the second.
        """
        described = [
            {
                "item_id": item,
                "score": float(self.scores[place]),
                "raw": float(self.found.raw[place]),
                "features": [_plain(asdict(reason)) for reason in self.found.reasons(place, top)],
            }
            for place, item in enumerate(self.items)
        ]
        above = None
        if len(self.items) > 1:
            reasons = [_plain(asdict(reason)) for reason in self.found.versus(0, 1, top)]
            above = {"item_id": self.items[0], "other_id": self.items[1], "features": reasons}
        return {"method": self.method, "known_user": self.known, "base": float(self.found.base[0])} | {
            "items": described,
            "above": above,
        }


def explain_items(
    layout: Layout, bundle: Bundle, packed: bytes | None, snapshot: ItemSnapshot, items: Sequence[int], time_us: int
) -> Explanation:
    """Evaluate features at `time_us` as the gateway does, and explain the bundle's scores.

    Args:
        layout: that the bundle reads.
        bundle: the model.
        packed: the user's online row; None for an unknown user.
        snapshot: the catalogue and its aggregates.
        items: ids to explain, any order; unknown ones have default columns.
        time_us: event time of the imagined request.
    """
    ids = np.unique(np.array(items, np.uint64))
    row = None if packed is None else unpack_user_row(layout, packed)
    view = snapshot.view(ids, time_us, past_items(layout, row))
    assembled = assemble(layout, row, view, RequestContext(device=0, surface=0, country=0), time_us)
    ints = IntInputs.of(bundle, layout)(assembled.user_ints, assembled.item_ints)
    explainer = GraphExplainer(bundle)
    codes = np.empty((len(ids), 0), np.int64) if ints is None else ints
    found = explainer.contributions(assembled.features, codes).by_feature()
    order = np.lexsort((ids, -found.raw))
    ordered = Contributions(found.names, found.values[order], found.contributions[order], found.base[order])
    return Explanation(
        tuple(ids[order].tolist()), sigmoid(ordered.raw), ordered, explainer.method, known=row is not None
    )


def _plain(reason: dict[str, Any]) -> dict[str, Any]:
    """JSON knows no NaN: a column that is no single number has no value."""
    return {
        name: None if isinstance(value, float) and np.isnan(value) else value
        for name, value in reason.items()
        if value is not None
    }
