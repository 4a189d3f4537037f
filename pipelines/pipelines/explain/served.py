"""Why the model that serves scores a user's items as it does: from the rows and the snapshot that the gateway reads."""

from collections.abc import Sequence

import numpy as np
from bundle import Bundle, IntInputs
from bundle.contributions import Contributions
from definitions.assembly import RequestContext, assemble, past_items
from definitions.item_snapshot import ItemSnapshot
from definitions.layout import Layout
from definitions.packed import unpack_user_row
from definitions.user_values import UserAt

from pipelines.explain.explanation import Explanation
from pipelines.explain.graphs import GraphExplainer
from pipelines.training.linear import sigmoid


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
    user = UserAt(layout, row, time_us)
    view = snapshot.view(ids, time_us, past_items(user))
    assembled = assemble(user, view, RequestContext(device=0, surface=0, country=0))
    ints = IntInputs.of(bundle, layout)(assembled.user_ints, assembled.item_ints)
    explainer = GraphExplainer(bundle)
    codes = np.empty((len(ids), 0), np.int64) if ints is None else ints
    found = explainer.contributions(assembled.features, codes).by_feature()
    order = np.lexsort((ids, -found.raw))
    ordered = Contributions(found.names, found.values[order], found.contributions[order], found.base[order])
    return Explanation(
        tuple(ids[order].tolist()), sigmoid(ordered.raw), ordered, explainer.method, known=row is not None
    )
