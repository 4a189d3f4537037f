"""The candidate sources of a bundle, fitted on what was known when its model was: neighbours, towers, popular lists."""

from collections.abc import Collection
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from bundle import retrieval as files
from definitions.events import EventColumns
from definitions.features import LastK
from definitions.usecase import UseCase

from pipelines.errors import TrainingError
from pipelines.progress import SILENT, Progress
from pipelines.retrieval.export import export_neighbours, export_towers
from pipelines.retrieval.interactions import Interactions, interactions
from pipelines.retrieval.item_item import fit_ease, fit_item_knn
from pipelines.retrieval.ladder import two_tower
from pipelines.training.examples import Log

EASE_ITEMS: Final = 4_000  # O(items^3): 4,000 take 4 s on one core; a larger catalogue gets ItemKNN
NEIGHBOUR_ITEMS: Final = 8_000  # their product is a dense matrix, 512 MB here; rarer items have no neighbours
PLACE_ITEMS: Final = 500  # of a popular list: as many as candidates by default
PLACE_WEIGHT: Final = 500.0  # label weight that a surface or country must have had for a list of its own


def export_sources(
    usecase: UseCase, log: Log, until_us: int, folder: Path, *, seed: int = 0, progress: Progress = SILENT
) -> tuple[str, ...]:
    """Write to `folder` what the use case's sources search, of events strictly before `until_us`.

    Returns:
        Names of the sources that have something to search in the bundle. `two_tower` needs PyTorch (`make deep`) and is
        left out without it, with a note to `progress`: popular items then take its place.
    """
    sources = {source.name: source for source in usecase.candidates.sources}
    erased = np.array([user_id for user_id, user in log.users.items() if user.deleted], np.uint64)
    known = log.events.take((log.events.event_time_us < until_us) & ~np.isin(log.events.user_id, erased))
    written: list[str] = []
    vectors = usecase.diversity is not None and usecase.diversity.by is None
    if {"two_tower", "neighbours"} & sources.keys() or vectors:
        met = met_by(usecase, known)
        pairs = interactions(known.user_id[met], known.item_id[met])
        if "neighbours" in sources and pairs.matrix.nnz:
            progress.stage("fit item neighbours")
            few = _most_met(pairs, NEIGHBOUR_ITEMS)
            fitted = fit_ease if len(few.item_ids) <= EASE_ITEMS else fit_item_knn
            export_neighbours(fitted(few.matrix), few.item_ids, folder)
            written.append("neighbours")
        if ("two_tower" in sources or vectors) and pairs.matrix.nnz > 1:
            try:
                progress.stage("fit two towers")
                export_towers(two_tower(pairs.matrix, seed=seed), pairs.item_ids, folder, newest=history_of(usecase).k)
                written.append("two_tower")
            except TrainingError as exc:
                progress.note(f"candidates without two_tower: {exc}")
    popular = sources.get("popular")
    if popular is not None and popular.by:
        progress.stage("count popular items by place")
        _write_places(usecase, known, log, popular.by, folder)
        written.append("popular")
    return tuple(written)


def history_of(usecase: UseCase) -> LastK:
    """The row's history that `two_tower` and `neighbours` search by: the named one, or the first.

    Raises:
        TrainingError: there is none.
    """
    wanted = usecase.candidates.history
    for feature in usecase.features:
        if isinstance(feature, LastK) and wanted in (None, feature.name):
            return feature
    raise TrainingError(
        f"{usecase.name}: two_tower and neighbours search by what a user did; declare a feature of kind last_k"
    )


def met_by(usecase: UseCase, events: EventColumns) -> npt.NDArray[np.bool_]:
    """Which events that history is made of, bool (n,)."""
    action = history_of(usecase).action
    return usecase.matches(action, events.action, events.value) if action else np.ones(len(events), np.bool_)


def _most_met(pairs: Interactions, items: int) -> Interactions:
    """The same with only so many items, those that most users met."""
    if len(pairs.item_ids) <= items:
        return pairs
    met = np.asarray(pairs.matrix.sum(axis=0)).ravel()
    kept = np.sort(np.argsort(-met, kind="stable")[:items])
    return Interactions(pairs.user_ids, pairs.item_ids[kept], pairs.matrix.tocsc()[:, kept].tocsr())


def _write_places(usecase: UseCase, events: EventColumns, log: Log, by: Collection[str], folder: Path) -> None:
    """Of each surface, country or pair that was busy enough, the items with the largest label weights."""
    weight = usecase.label_weights(events.action, events.value)
    there = np.array(sorted(item_id for item_id, item in log.items.items() if not item.deleted), np.uint64)
    chosen = (weight > 0) & (np.isin(events.item_id, there) if len(there) else True)
    item_ids, item = np.unique(events.item_id[chosen], return_inverse=True)
    surface = events.surface[chosen] if "surface" in by else np.zeros(int(chosen.sum()), np.uint32)
    country = events.country[chosen] if "country" in by else np.zeros(int(chosen.sum()), np.uint32)
    weight = weight[chosen]
    nowhere = np.zeros_like(surface)
    lists: dict[tuple[int, int], npt.NDArray[np.uint64]] = {}
    for one, other in ((surface, country), (surface, nowhere), (nowhere, country)):
        places, place = np.unique(np.stack([one, other], 1), axis=0, return_inverse=True)
        for index, (s, c) in enumerate(places.tolist()):
            if (s or c) and (s, c) not in lists:
                rows = place == index
                if weight[rows].sum() >= PLACE_WEIGHT:
                    totals = np.bincount(item[rows], weight[rows], len(item_ids))
                    best = np.lexsort((item_ids, -totals))[:PLACE_ITEMS]
                    lists[s, c] = item_ids[best[totals[best] > 0]]
    ordered = sorted(lists)
    np.savez_compressed(
        folder / files.POPULAR,
        places=np.array(ordered, np.uint32).reshape(-1, 2),
        ends=np.cumsum([len(lists[place]) for place in ordered], dtype=np.int64),
        item_ids=np.concatenate([np.empty(0, np.uint64), *(lists[place] for place in ordered)]),
    )
