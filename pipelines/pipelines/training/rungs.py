"""What each rung of the gateway's ladder is worth, offline: one figure, the same test rows, each rung's own order."""

from collections.abc import Mapping
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt
from definitions.backfill import Queries, backfill
from definitions.layout import Layout

from pipelines.datasets.split import Split
from pipelines.evaluation.metrics import ndcg
from pipelines.training.examples import Examples, Log

K: Final = 10
LIST_LENGTH: Final = 100  # of a nightly list, as `millrace precompute` writes it
MAX_USERS: Final = 100  # whose lists are made for the figure: 500 rows each

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
    seed: int = 0,
) -> Mapping[str, float | None]:
    """Rung -> NDCG@10 of the test rows by user, None where no test user liked anything.

    MODEL and LOCAL_MODEL order by their scores of each row's own time. POPULAR knows the label-weighted totals of
    before the test rows. PRECOMPUTED is the list of a night before the first of them: the model's best of the popular
    items that the user had not met, in rows of that time; what is not on it comes last.

    Args:
        layout, log, examples, split: of the training.
        model, fallback: scores (test rows,).
        score: the served model, for the lists.
        seed: of ties, and of which users' lists are made.
    """
    test = split.test
    label, users, items = examples.label[test], examples.user_id[test], examples.item_id[test]
    popular = _popularity(layout, log, split.test_from_us)
    drawn = np.unique(users)
    if len(drawn) > MAX_USERS:
        drawn = np.random.default_rng(seed).choice(drawn, MAX_USERS, replace=False)
    listed = np.isin(users, drawn)
    by_list = _by_list(layout, log, split.test_from_us, popular, users[listed], items[listed], score)
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


def _by_list(
    layout: Layout, log: Log, at_us: int, popular: Mapping[int, float], users: Ids, items: Ids, score: Scores
) -> npt.NDArray[np.float64]:
    """What the users' lists of that time say of (user, item) float64 (n,); -inf: not on the list."""
    candidates = np.array(list(popular), np.uint64)[: layout.usecase.candidates.limit]
    everybody = np.unique(users)
    n, m = len(everybody), len(candidates)
    queries = Queries.of(np.repeat(everybody, m), np.tile(candidates, n), np.full(n * m, at_us))
    rows = backfill(layout, log.events, log.users, log.items, queries)
    scores = score(rows.features, rows.user_ints, rows.item_ints).reshape(n, m).astype(np.float64)
    before = log.events.take(log.events.event_time_us < at_us)
    met = set(zip(before.user_id.tolist(), before.item_id.tolist(), strict=True))
    found = np.full(len(users), -np.inf)
    wanted: dict[tuple[int, int], list[int]] = {}
    for row, pair in enumerate(zip(users.tolist(), items.tolist(), strict=True)):
        wanted.setdefault(pair, []).append(row)
    for user, own in zip(everybody.tolist(), scores, strict=True):
        fresh = np.array([(user, item) not in met for item in candidates.tolist()], bool)
        order = np.lexsort((candidates, -own))
        for place in order[fresh[order]][:LIST_LENGTH].tolist():
            for row in wanted.get((user, int(candidates[place])), ()):
                found[row] = own[place]
    return found
