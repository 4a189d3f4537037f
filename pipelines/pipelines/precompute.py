"""The nightly job: every user's list by the model that serves, as one immutable generation, verified, then flipped.

It reads what the gateway reads (online rows, the item topics, the pinned bundle, the rules in force) and evaluates them
with the same functions: a list holds what the gateway's sources would have found at the same time for a request without
a context, but for what filters forbid, best first by the same scores. Diversity, shares, pins and exploration are the
gateway's, which applies them to each answer.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Protocol

import numpy as np
import numpy.typing as npt
from bundle import Bundle, Device, DeviceError, IntInputs, check_golden
from definitions.assembly import Assembled, RequestContext, assemble, past_items
from definitions.candidates import BundleSources, Catalogue, Want
from definitions.item_snapshot import ItemSnapshot
from definitions.layout import Layout
from definitions.packed import UserRow, unpack_user_row
from definitions.rerank import by_score
from definitions.rules import MAX_CANDIDATES
from definitions.serving_rules import ServingRules
from definitions.shortlist import eligible_items, find_candidates, history_ids, how_many
from definitions.user_values import UserAt
from stores.batch import BatchStore, Pointer, RunSummary, UserList, bucket_of, buckets_for
from stores.online import OnlineStore

from pipelines.errors import BadInputError, UnavailableError

NOWHERE = RequestContext()  # a list is made before anybody says on which device or surface it will be shown

Progress = Callable[[int], None]
"""Called with how many more users are done."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What one generation is: its id, the time at which features are evaluated, and how long the lists are."""

    usecase: str
    run_id: str
    time_us: int
    list_length: int = 100


@dataclass(frozen=True, slots=True)
class Generation:
    """A generation that readers now see, and the one that they saw before."""

    summary: RunSummary
    pointer: Pointer
    model_version: str
    resumed_buckets: int


class _Scores(Protocol):
    def __call__(self, assembled: Sequence[Assembled]) -> npt.NDArray[np.float32]:
        """Scores float32 of all rows of all users, in order."""


@dataclass(frozen=True)
class _Finder:
    """What a request without a context would have found for each user at one time."""

    layout: Layout
    rules: ServingRules
    sources: BundleSources
    items: ItemSnapshot
    catalogue: Catalogue
    time_us: int
    shown: int

    def candidates(self, row: UserRow | None, user: UserAt) -> npt.NDArray[np.uint64]:
        """uint64 (n,): eligible ones of the rules' sources, popular where those bring too few."""
        seen = None if row is None else row.seen_mask
        eligible = eligible_items(self.items, self.rules, NOWHERE, self.time_us, seen=seen)
        history = history_ids(self.rules, user)
        want = Want(history, NOWHERE, how_many(self.rules, self.shown), eligible)
        return find_candidates(want, self.rules, self.sources, self.catalogue).item_ids

    def assembled(self, user: UserAt, item_ids: npt.NDArray[np.uint64]) -> Assembled:
        """The model's inputs of a user's candidates."""
        return assemble(user, self.items.view(item_ids, self.time_us, past_items(user)), NOWHERE)


def precompute(
    plan: Plan,
    layout: Layout,
    bundle: Bundle,
    rules: ServingRules,
    rows: OnlineStore,
    items: ItemSnapshot,
    store: BatchStore,
    *,
    threads: int,
    device: Device = "cpu",
    progress: Progress,
) -> Generation:
    """Score every user that has an online row, write the lists bucket by bucket, verify, and flip the pointer.

    A run that was cut off continues with the buckets it has not finished; a finished `run_id` changes no row.

    Args:
        plan, layout, bundle: what is made, and by which model.
        rules: those in force: sources of candidates, filters, weights of heads.
        rows, items: what is known of users and items.
        store: where the generation goes.
        threads: of the model.
        device: where the model runs; on a GPU it must first score the bundle's golden rows.
        progress: is told of users.

    Raises:
        UnavailableError: there is no such device here.
        bundle.GoldenError: the device scores otherwise than what was trained.
        BadInputError: there is no user row or no item to rank, or the model reads another layout.
        stores.errors.StoreError: the store failed, or the generation read back is not the one that was written.
    """
    users = rows.all_ids()
    popular, _ = items.popular(len(items))
    if not len(users) or not len(popular):
        raise BadInputError(
            f"{plan.usecase}: {len(users)} user rows and {len(items)} items; load data first: millrace load --help"
        )
    if bundle.manifest.layout_hash != layout.layout_hash:
        raise BadInputError(
            f"{plan.usecase}: model {bundle.manifest.name} {bundle.manifest.version} reads layout "
            f"{bundle.manifest.layout_hash:08x}, the use case is {layout.layout_hash:08x}; train and deploy again"
        )
    found = bundle.retrieval()
    finder = _Finder(
        layout=layout,
        rules=rules,
        sources=BundleSources(found.towers, found.neighbours, found.popular),
        items=items,
        catalogue=Catalogue(popular, cache(lambda number: items.largest(number, MAX_CANDIDATES))),
        time_us=plan.time_us,
        shown=plan.list_length,
    )
    score = _scorer(bundle, layout, rules, threads, device)
    begun = store.run(plan.usecase, plan.run_id)
    buckets = buckets_for(len(users)) if begun is None else begun.buckets  # users may have come since it began
    version = f"{bundle.manifest.name}/{bundle.manifest.version}"
    store.create_run(plan.usecase, plan.run_id, buckets, version)
    finished = store.finished_buckets(plan.usecase, plan.run_id)
    for bucket, members in _by_bucket(users, buckets):
        if bucket not in finished:
            lists = _lists(plan, layout, rows, finder, members, score)
            store.write_bucket(plan.usecase, plan.run_id, bucket, lists)
        progress(len(members))
    summary = store.seal_run(plan.usecase, plan.run_id)
    return Generation(summary, store.flip(plan.usecase, plan.run_id), version, len(finished))


def _by_bucket(users: npt.NDArray[np.uint64], buckets: int) -> Iterator[tuple[int, list[int]]]:
    members: dict[int, list[int]] = {bucket: [] for bucket in range(buckets)}
    for user in users.tolist():
        members[bucket_of(user, buckets)].append(user)
    yield from members.items()


def _scorer(bundle: Bundle, layout: Layout, rules: ServingRules, threads: int, device: Device) -> _Scores:
    try:
        model = bundle.model(threads, device)
    except DeviceError as exc:
        raise UnavailableError(str(exc)) from exc
    if device != "cpu":  # on the CPU they were scored when the bundle was read
        golden = bundle.golden
        check_golden(f"{bundle.manifest.name} on {device}", golden.scores, model.score(golden.features, golden.ints))
    ints = IntInputs.of(bundle, layout)

    def score(assembled: Sequence[Assembled]) -> npt.NDArray[np.float32]:
        columns = [ints(part.user_ints, part.item_ints) for part in assembled]
        stacked = [part for part in columns if part is not None]
        predictions = model.predictions(
            np.concatenate([part.features for part in assembled]), np.concatenate(stacked) if stacked else None
        )
        return bundle.weighed(predictions, rules.rules.heads)

    return score


def _lists(
    plan: Plan, layout: Layout, rows: OnlineStore, finder: _Finder, members: Sequence[int], score: _Scores
) -> list[UserList]:
    """The best candidates of each user, best first; ties by item id, as the gateway breaks them."""
    if not members:
        return []
    packed = rows.read_many(members)
    known = [unpack_user_row(layout, packed[user]) if user in packed else None for user in members]
    users = [UserAt(layout, row, finder.time_us) for row in known]
    candidates = [finder.candidates(row, user) for row, user in zip(known, users, strict=True)]
    assembled = [finder.assembled(user, item_ids) for user, item_ids in zip(users, candidates, strict=True)]
    ends = np.cumsum([len(item_ids) for item_ids in candidates])
    scores = score(assembled) if ends[-1] else np.empty(0, np.float32)
    lists = []
    for user, item_ids, own in zip(members, candidates, np.split(scores, ends[:-1]), strict=True):
        best = by_score(item_ids, own)[: plan.list_length]
        lists.append(UserList(user_id=user, item_ids=item_ids[best], scores=own[best]))
    return lists
