"""What each rung of the gateway's ladder is worth, offline: one figure, the same test rows, each rung's own order."""

from collections.abc import Mapping
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt
from definitions.assembly import RequestContext
from definitions.backfill import Queries, backfill
from definitions.candidates import NO_SOURCES, BundleSources, Catalogue, Want
from definitions.item_snapshot import ItemSnapshot
from definitions.layout import Layout
from definitions.rerank import by_score
from definitions.rules import MAX_CANDIDATES
from definitions.serving_rules import ServingRules
from definitions.shortlist import eligible_items, find_candidates, how_many

from pipelines.datasets.split import Split
from pipelines.evaluation.metrics import ndcg
from pipelines.retrieval.sources import history_of, met_by
from pipelines.training.examples import Examples, Log

K: Final = 10
LIST_LENGTH: Final = 100  # of a nightly list, as `millrace precompute` writes it
MAX_USERS: Final = 100  # whose lists are made for the figure: hundreds of rows each

Floats = npt.NDArray[np.float32]
Scored = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.int64]
Ids = npt.NDArray[np.uint64]


class Scores(Protocol):
    """The served model."""

    def __call__(self, features: Floats, user_ints: Ints, item_ints: Ints, /) -> Scored:
        """Scores (n,)."""
        ...


def rung_quality(
    layout: Layout,
    log: Log,
    examples: Examples,
    split: Split,
    *,
    model: Scored,
    fallback: Scored,
    score: Scores,
    sources: BundleSources = NO_SOURCES,
    seed: int = 0,
) -> Mapping[str, float | None]:
    """Rung -> NDCG@10 of the test rows by user, None where no test user liked anything.

    MODEL and LOCAL_MODEL order by their scores of each row's own time. POPULAR knows the label-weighted totals of
    before the test rows. PRECOMPUTED is the list of a night before the first of them: the model's best of what the use
    case's rules find for the user, in rows of that time; what is not on it comes last.

    Args:
        layout, log, examples, split: of the training.
        model, fallback: scores (test rows,).
        score: the served model, for the lists.
        sources: what the bundle finds candidates with, fitted before the test rows.
        seed: of ties, and of which users' lists are made.
    """
    test = split.test
    label, users, items = examples.label[test], examples.user_id[test], examples.item_id[test]
    popular = _popularity(layout, log, split.test_from_us)
    drawn = np.unique(users)
    if len(drawn) > MAX_USERS:
        drawn = np.random.default_rng(seed).choice(drawn, MAX_USERS, replace=False)
    listed = np.isin(users, drawn)
    night = _Night(layout, log, split.test_from_us, np.array(list(popular), np.uint64), sources)
    by_list = _by_list(night, users[listed], items[listed], score)
    by_popularity = np.array([popular.get(item, 0.0) for item in items.tolist()])

    def worth(which: npt.NDArray[np.bool_], scores: Scored) -> float | None:
        return ndcg(label[which], np.asarray(scores, np.float64), users[which], k=K, seed=seed)

    every = np.ones(len(label), bool)
    return {
        "MODEL": worth(every, model),
        "LOCAL_MODEL": worth(every, fallback),
        "PRECOMPUTED": worth(listed, by_list),
        "POPULAR": worth(every, by_popularity),
    }


def _popularity(layout: Layout, log: Log, until_us: int) -> dict[int, float]:
    """Item of the catalogue -> its label-weighted total of before that time, most popular first, ties by id."""
    events = log.events.take(log.events.event_time_us < until_us)
    weights = layout.usecase.label_weights(events.action, events.value)
    ids, place = np.unique(events.item_id, return_inverse=True)
    totals = np.bincount(place, weights, len(ids))
    gone = [item for item, told in log.items.items() if told.deleted]
    kept = np.flatnonzero(~np.isin(ids, np.array(gone, np.uint64)))
    order = kept[np.argsort(-totals[kept], kind="stable")]
    return dict(zip(ids[order].tolist(), totals[order].tolist(), strict=True))


class _Night:
    """What was known at a time, and what the use case's rules find for a user then, as `millrace precompute` does."""

    def __init__(self, layout: Layout, log: Log, at_us: int, popular: Ids, sources: BundleSources) -> None:
        self.layout, self.log, self.at_us = layout, log, at_us
        usecase = layout.usecase
        before = log.events.take(log.events.event_time_us < at_us)
        before = before.take(np.argsort(before.event_time_us, kind="stable"))
        self._users, self._items = before.user_id, before.item_id
        self._seen = np.isin(before.action, [usecase.action_code(name) for name in usecase.seen.actions])
        self._rules = ServingRules(usecase.rules, layout)
        searched = self._rules.history is not None
        self._met = met_by(usecase, before) if searched else np.zeros(len(before), bool)
        self._newest = history_of(usecase).k if searched else 0
        self._shelf = ItemSnapshot(layout)
        self._shelf.put_items(list(log.items.values()))
        self._catalogue = Catalogue(popular, lambda number: self._shelf.largest(number, MAX_CANDIDATES))
        self._sources = sources

    def candidates(self, user: int) -> Ids:
        """uint64 (n,)."""
        own = self._users == user
        seen = self._items[own & self._seen]
        context = RequestContext()
        eligible = eligible_items(
            self._shelf, self._rules, context, self.at_us, seen=lambda item_ids: np.isin(item_ids, seen)
        )
        history = self._items[own & self._met][::-1][: self._newest]
        want = Want(history, context, how_many(self._rules, LIST_LENGTH), eligible)
        return find_candidates(want, self._rules, self._sources, self._catalogue).item_ids


def _by_list(night: _Night, users: Ids, items: Ids, score: Scores) -> npt.NDArray[np.float64]:
    """What the users' lists of that night say of (user, item) float64 (n,); -inf: not on the list."""
    found = np.full(len(users), -np.inf)
    wanted: dict[tuple[int, int], list[int]] = {}
    for row, pair in enumerate(zip(users.tolist(), items.tolist(), strict=True)):
        wanted.setdefault(pair, []).append(row)
    everybody = np.unique(users)
    candidates = [night.candidates(user) for user in everybody.tolist()]
    sizes = [len(each) for each in candidates]
    if not sum(sizes):
        return found
    queries = Queries.of(np.repeat(everybody, sizes), np.concatenate(candidates), np.full(sum(sizes), night.at_us))
    rows = backfill(night.layout, night.log.events, night.log.users, night.log.items, queries)
    scores = np.split(score(rows.features, rows.user_ints, rows.item_ints), np.cumsum(sizes)[:-1])
    for user, item_ids, own in zip(everybody.tolist(), candidates, scores, strict=True):
        for place in by_score(item_ids, np.asarray(own, np.float32))[:LIST_LENGTH].tolist():
            for row in wanted.get((user, int(item_ids[place])), ()):
                found[row] = own[place]
    return found
