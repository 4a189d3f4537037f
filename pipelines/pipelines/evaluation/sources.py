"""How good candidate sources are: recall of what users liked later, and lists ranked by the model, by set of sources.

Each user of the test part is asked once, in the middle of what he liked there: all before that moment is known, what he
liked from it on is wanted. Sources search and are merged as the gateway does it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from bundle import Bundle, IntInputs, Retrieval
from definitions.assembly import RequestContext
from definitions.backfill import Queries, backfill
from definitions.candidates import BundleSources, Candidates, Catalogue, Want, fill, finder, merge
from definitions.item_snapshot import ItemSnapshot
from definitions.layout import Layout
from definitions.rules import Candidates as Sources
from definitions.rules import Source
from definitions.usecase import UseCase
from scipy.sparse import csr_array

from pipelines.errors import TrainingError
from pipelines.evaluation.intervals import Bootstrap
from pipelines.evaluation.ranking import list_metrics
from pipelines.progress import SILENT, Progress
from pipelines.retrieval.sources import history_of, met_by
from pipelines.training.examples import Log

Ids = npt.NDArray[np.uint64]
K: Final = 10
SHOWN: Final = ("ndcg", "recall")
_NEWEST: Final = 2_000  # items of an order by a number


@dataclass(frozen=True, eq=False)
class Request:
    """One user at one time: what is known (`history` newest first, `seen`), and the items that are `wanted` later."""

    user_id: int
    time_us: int
    history: Ids
    seen: Ids
    wanted: Ids
    popular: Ids
    context: RequestContext


def requests(usecase: UseCase, log: Log, from_us: int) -> list[Request]:
    """One request for each user who liked at least two new items from `from_us` on.

    `popular`: the catalogue by label weight at the request's time, as the gateway orders it.
    """
    events = log.events.take(np.argsort(log.events.event_time_us, kind="stable"))
    met = met_by(usecase, events)
    seen_actions = [usecase.action_code(name) for name in usecase.seen.actions]
    seen = np.isin(events.action, seen_actions)
    liked = usecase.is_positive(events.action, events.value)
    weight = usecase.label_weights(events.action, events.value)
    catalogue = np.array(sorted(item_id for item_id, item in log.items.items() if not item.deleted), np.uint64)
    newest = history_of(usecase).k
    found = []
    for user_id in np.unique(events.user_id[liked & (events.event_time_us >= from_us)]).tolist():
        own = events.user_id == user_id
        later = np.flatnonzero(own & liked & (events.event_time_us >= from_us))
        time_us = int(events.event_time_us[later[len(later) // 2]])
        before = events.event_time_us < time_us
        known = events.item_id[own & before & seen]
        wanted = np.setdiff1d(events.item_id[later][events.event_time_us[later] >= time_us], known)
        if len(later) < 2 or not len(wanted):
            continue
        at = np.searchsorted(catalogue, events.item_id[before]).clip(max=len(catalogue) - 1)
        there = catalogue[at] == events.item_id[before]
        totals = np.bincount(at[there], weight[before][there], len(catalogue))
        first = later[len(later) // 2]
        found.append(
            Request(
                user_id=user_id,
                time_us=time_us,
                history=events.item_id[own & before & met][::-1][:newest],
                seen=np.unique(known),
                wanted=wanted,
                popular=catalogue[np.argsort(-totals, kind="stable")],
                context=RequestContext(*(int(code[first]) for code in (events.device, events.surface, events.country))),
            )
        )
    return found


def find(request: Request, wanted: Sources, bundle: Retrieval, items: ItemSnapshot) -> Candidates:
    """Candidates as `Recommend` would have them."""

    def eligible(item_ids: Ids) -> npt.NDArray[np.bool_]:
        return items.known(item_ids) & ~np.isin(item_ids, request.seen)

    want = Want(request.history, request.context, wanted.limit, eligible)
    catalogue = Catalogue(request.popular, lambda number: items.largest(number, _NEWEST))
    sources = BundleSources(bundle.towers, bundle.neighbours, bundle.popular)
    finders = [finder(source, want, sources, catalogue) for source in wanted.sources]
    return merge(finders, wanted.quotas(wanted.limit), wanted.limit, fill(want, catalogue))


@dataclass(frozen=True)
class Measured:
    """`users` asked, and the figures of each set of sources."""

    users: int
    figures: dict[str, dict[str, float]]


def evaluate_sources(
    layout: Layout,
    log: Log,
    bundle: Bundle,
    *,
    rules: Sources,
    limits: Sequence[int] = (),
    threads: int = 1,
    progress: Progress = SILENT,
) -> Measured:
    """Each source alone, and all of them as the use case mixes them.

    Args:
        layout: of the bundle's model.
        log: all events; those from the end of the bundle's training window on are the test.
        bundle: model and sources.
        rules: which sources, and how many candidates are ranked.
        limits: other numbers of candidates to measure at.
        threads: of the model.
        progress: is told each set.

    Returns:
        `<sources>@<candidates>` -> `candidate_recall` (of the wanted items that are among the candidates), `ndcg_at_10`
        and `recall_at_10` of the ten that the model puts first, `own_ndcg_at_10` of the first ten candidates as they
        came; each with `_lo` and `_hi`, 95 % bootstrap over users.

    Raises:
        TrainingError: nobody in the test part liked two new items.
    """
    asked = requests(layout.usecase, log, bundle.manifest.window.to_us)
    if not asked:
        raise TrainingError("nobody in the test part liked two new items; load more data")
    items = ItemSnapshot(layout)
    items.put_items(list(log.items.values()))
    retrieval, found = bundle.retrieval(), dict[str, dict[str, float]]()
    bootstrap = Bootstrap(np.array([request.user_id for request in asked], np.uint64))
    for name, wanted in _sets(rules, retrieval, limits):
        progress.stage(f"candidates of {name}")
        lists = [find(request, wanted, retrieval, items).item_ids for request in asked]
        values = _measured(asked, lists, _ranked(layout, log, bundle, asked, lists, threads))
        found[name] = {}
        for metric, value in values.items():
            interval = bootstrap.of(bootstrap.mean(value), float(np.nanmean(value)))
            found[name] |= {metric: interval.value, f"{metric}_lo": interval.low, f"{metric}_hi": interval.high}
    return Measured(len(asked), found)


def _sets(mixture: Sources, bundle: Retrieval, limits: Sequence[int]) -> list[tuple[str, Sources]]:
    """Each source alone, popular always among them, then the mixture; what the bundle lacks is left out."""
    lacking = {name for name, part in (("two_tower", bundle.towers), ("neighbours", bundle.neighbours)) if part is None}
    alone = {source.name: source.model_copy(update={"quota": 1.0}) for source in mixture.sources}
    alone.setdefault("popular", Source(name="popular"))
    named = [(name, (source,)) for name, source in alone.items() if name not in lacking]
    found = []
    for limit in dict.fromkeys((*limits, mixture.limit)):
        found += [
            (f"{name}@{limit}", Sources(sources=sources, limit=limit, history=mixture.history))
            for name, sources in named
        ]
        found.append((f"mixed@{limit}", mixture.model_copy(update={"limit": limit})))
    return found


def _ranked(
    layout: Layout, log: Log, bundle: Bundle, asked: Sequence[Request], lists: Sequence[Ids], threads: int
) -> list[Ids]:
    """Each list in the order of the model's scores at the request's time; ties by id."""
    lengths = [len(each) for each in lists]
    queries = Queries.of(
        np.repeat(np.array([request.user_id for request in asked], np.uint64), lengths),
        np.concatenate(lists),
        np.repeat(np.array([request.time_us for request in asked], np.int64), lengths),
    )
    filled = backfill(layout, log.events, log.users, log.items, queries)
    inputs = IntInputs.of(bundle, layout)
    predictions = bundle.model(threads).predictions(filled.features, inputs(filled.user_ints, filled.item_ints))
    scores = bundle.weighed(predictions)
    parts = np.split(scores, np.cumsum(lengths)[:-1])
    return [each[np.lexsort((each, -part))] for each, part in zip(lists, parts, strict=True)]


def _measured(
    asked: Sequence[Request], lists: Sequence[Ids], ranked: Sequence[Ids]
) -> Mapping[str, npt.NDArray[np.float64]]:
    ids = np.unique(np.concatenate([*lists, *(request.wanted for request in asked)]))
    rows = np.repeat(np.arange(len(asked)), [len(request.wanted) for request in asked])
    columns = np.searchsorted(ids, np.concatenate([request.wanted for request in asked]))
    wanted = csr_array((np.ones(len(rows), np.float32), (rows, columns)), shape=(len(asked), len(ids)))
    recall = [np.isin(request.wanted, found).mean() for request, found in zip(asked, lists, strict=True)]
    by_model, own = list_metrics(_places(ranked, ids), wanted), list_metrics(_places(lists, ids), wanted)
    return {
        "candidate_recall": np.array(recall),
        **{f"{metric}_at_{K}": by_model[metric] for metric in SHOWN},
        f"own_ndcg_at_{K}": own["ndcg"],
    }


def _places(lists: Sequence[Ids], ids: Ids) -> npt.NDArray[np.intp]:
    """The first K of each as places in sorted `ids`, -1 where a list is shorter."""
    found = np.full((len(lists), K), -1, np.intp)
    for row, each in enumerate(lists):
        found[row, : len(each[:K])] = np.searchsorted(ids, each[:K])
    return found
