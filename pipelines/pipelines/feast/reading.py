"""Values of Feast's views at a time, from what the gateway reads: packed user rows and the item topics.

The same functions as in the gateway evaluate them; nothing here imports Feast.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from definitions.assembly import RequestContext, assemble, past_items, user_ints
from definitions.errors import LayoutMismatch
from definitions.item_snapshot import ItemSnapshot
from definitions.layout import Layout
from definitions.packed import UserRow, unpack_user_row
from definitions.user_values import UserAt
from stores.online import OnlineStore

from pipelines.feast.views import Column, View

log = logging.getLogger(__name__)
_NO_CONTEXT = RequestContext()


@dataclass(frozen=True, eq=False, slots=True)
class Values:
    """n entities' columns in the order asked, each (n,) float32 or int64, or (n, width) int64.

    `newest_us`: time of the newest event that each was computed from; 0 where it is not known or there is none.
    """

    columns: list[npt.NDArray[np.float32] | npt.NDArray[np.int64]]
    newest_us: list[int]


def read_users(
    layout: Layout, rows: OnlineStore, user_ids: Sequence[int], columns: Sequence[Column], time_us: int
) -> Values:
    """Columns of `<usecase>_user`. A user without a row has the values of one without history, as in the gateway."""
    found = _rows(layout, rows, user_ids)
    features = np.zeros((len(user_ids), len(layout.feature_names)), np.float32)
    ints = np.zeros((len(user_ids), len(layout.user_int_names)), np.int64)
    newest_us = []
    for place, user_id in enumerate(user_ids):
        row = found.get(user_id)
        user = UserAt(layout, row, time_us)
        features[place] = user.floats
        ints[place] = user_ints(user, _NO_CONTEXT)
        newest_us.append(0 if row is None else row.header.last_event_time_us)
    return Values([_take(column, features, ints) for column in columns], newest_us)


def read_items(
    layout: Layout, items: ItemSnapshot, item_ids: Sequence[int], columns: Sequence[Column], time_us: int
) -> Values:
    """Columns of `<usecase>_item`. Items that nobody knows have the values of one without history."""
    view = items.view(np.array(item_ids, np.uint64), time_us)
    features = np.zeros((len(item_ids), len(layout.feature_names)), np.float32)
    if layout.item.positions:
        features[:, layout.item.positions] = view.features
    return Values([_take(column, features, view.ints) for column in columns], [0] * len(item_ids))


def read_pairs(
    layout: Layout,
    rows: OnlineStore,
    items: ItemSnapshot,
    pairs: Sequence[tuple[int, int]],
    columns: Sequence[Column],
    time_us: int,
) -> Values:
    """Columns of `<usecase>_cross` for (user id, item id) pairs, assembled user by user."""
    by_user: dict[int, list[int]] = {}
    for place, (user_id, _) in enumerate(pairs):
        by_user.setdefault(user_id, []).append(place)
    found = _rows(layout, rows, list(by_user))
    features = np.zeros((len(pairs), len(layout.feature_names)), np.float32)
    newest_us = [0] * len(pairs)
    for user_id, places in by_user.items():
        row = found.get(user_id)
        wanted = np.array([pairs[place][1] for place in places], np.uint64)
        user = UserAt(layout, row, time_us)
        view = items.view(wanted, time_us, past_items(user))
        features[places] = assemble(user, view, _NO_CONTEXT).features
        for place in places:
            newest_us[place] = 0 if row is None else row.header.last_event_time_us
    return Values([_take(column, features, None) for column in columns], newest_us)


def columns_of(view: View, names: Sequence[str] | None) -> list[Column]:
    """The view's columns by name, all of them where none is named. KeyError for a name that it has not."""
    return list(view.columns) if names is None else [view.by_name[name] for name in names]


def _rows(layout: Layout, rows: OnlineStore, user_ids: Sequence[int]) -> Mapping[int, UserRow]:
    found = {}
    for user_id, packed in rows.read_many(set(user_ids)).items():
        try:
            found[user_id] = unpack_user_row(layout, packed)
        except LayoutMismatch as exc:  # missing, as in the gateway
            log.warning("user %d is read as one without history: %s; then run: millrace feast apply", user_id, exc)
    return found


def _take(
    column: Column, features: npt.NDArray[np.float32], ints: npt.NDArray[np.int64] | None
) -> npt.NDArray[np.float32] | npt.NDArray[np.int64]:
    if column.source == "feature" or ints is None:
        return features[:, column.start]
    return ints[:, column.start : column.start + column.width] if column.listed else ints[:, column.start]
