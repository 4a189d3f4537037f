"""The features of a group of impressions, recomputed twice: below their offsets, and as of their time."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from definitions.backfill import Backfilled, Queries, backfill
from definitions.layout import Layout

from pipelines.consistency.facts import Facts, Ids, Ints
from pipelines.consistency.impressions import Logged

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Recomputed:
    """A group's m (impression, candidate) rows: `place` (m,) of each row's impression among `members`, `item_ids`
    uint64 (m,), `logged` float32 (m, F), and both recomputations of the same rows.
    """

    members: Sequence[Logged]
    place: Ints
    item_ids: Ids
    logged: Floats
    below: Backfilled
    as_of: Backfilled


def recompute(layout: Layout, facts: Facts, members: Sequence[Logged]) -> Recomputed:
    """Recompute one of `impressions.groups`: the same markers, each user at one pair of offsets."""
    place = np.repeat(np.arange(len(members)), [len(each.item_ids) for each in members])
    item_ids = np.concatenate([each.item_ids for each in members])
    queries = _queries(members, place, item_ids)
    events, seen_us = facts.events, max(each.seen_us for each in members)
    users = {each.user_id: each for each in members}
    theirs = {user: facts.by_user.of(user) for user in users}
    known = [places[events.offset[places] < users[user].interactions_offset] for user, places in theirs.items()]
    items = _items(layout, facts, theirs.values(), item_ids)
    of_items = facts.by_item.of_all(items)
    marked = of_items[events.offset[of_items] < _marker_of(members[0], events.partition[of_items])]
    catalogue = facts.items_at(items, seen_us)
    below = backfill(
        layout,
        events.take(_joined(known)),
        facts.users_below({user: each.users_offset for user, each in users.items()}),
        catalogue,
        queries,
        item_events=events.take(marked),
    )
    as_of = backfill(
        layout,
        events.take(_joined(theirs.values())),
        facts.users_at(users, seen_us),
        catalogue,
        queries,
        item_events=events.take(of_items),
    )
    return Recomputed(members, place, item_ids, np.concatenate([each.features for each in members]), below, as_of)


def _queries(members: Sequence[Logged], place: Ints, item_ids: Ids) -> Queries:
    device, surface, country = np.array([each.context for each in members], np.uint32)[place].T
    return Queries(
        user_id=np.array([each.user_id for each in members], np.uint64)[place],
        item_id=item_ids,
        time_us=np.array([each.time_us for each in members], np.int64)[place],
        device=np.ascontiguousarray(device),
        surface=np.ascontiguousarray(surface),
        country=np.ascontiguousarray(country),
    )


def _items(layout: Layout, facts: Facts, histories: Iterable[Ints], item_ids: Ids) -> list[int]:
    """The items whose aggregates are read: the candidates', and those of histories that are held against item means."""
    found = [item_ids]
    if layout.residuals:
        found += [facts.events.item_id[places] for places in histories]
    items: list[int] = np.unique(np.concatenate(found)).tolist()
    return items


def _marker_of(logged: Logged, partitions: npt.NDArray[np.int32]) -> Ints:
    """The marker of each partition (k,), 0 where there was none."""
    markers = dict(logged.markers)
    return np.array([markers.get(partition, 0) for partition in range(1 + int(partitions.max(initial=0)))], np.int64)[
        partitions
    ]


def _joined(places: Iterable[Ints]) -> Ints:
    parts = list(places)
    return np.sort(np.concatenate(parts)) if parts else np.zeros(0, np.int64)
