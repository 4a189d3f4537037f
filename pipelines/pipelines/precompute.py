"""The nightly job: every user's list by the model that serves, as one immutable generation, verified, then flipped.

It reads what the gateway reads (online rows, the item topics, the pinned bundle) and evaluates them with the same
functions, so that a list from the batch is the list that the gateway would have given at the same time.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
from bundle import Bundle, Device, DeviceError, IntInputs, check_golden
from definitions.assembly import Assembled, RequestContext, assemble, past_items
from definitions.item_snapshot import ItemSnapshot
from definitions.layout import Layout
from definitions.packed import unpack_user_row
from stores.batch import BatchStore, Pointer, RunSummary, UserList, bucket_of, buckets_for
from stores.online import OnlineStore

from pipelines.errors import BadInputError, UnavailableError

Progress = Callable[[int], None]
"""Called with how many more users are done."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What one generation is: its id, the time at which features are evaluated, and how long the lists are."""

    usecase: str
    run_id: str
    time_us: int
    list_length: int = 100
    candidates: int = 500


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


def precompute(
    plan: Plan,
    layout: Layout,
    bundle: Bundle,
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

    `device`: where the model runs; on a GPU it must first score the bundle's golden rows.

    Raises:
        UnavailableError: there is no such device here.
        bundle.GoldenError: the device scores otherwise than what was trained.
        BadInputError: there is no user row or no item to rank, or the model reads another layout.
        stores.errors.StoreError: the store failed, or the generation read back is not the one that was written.
    """
    users = rows.all_ids()
    candidates, _ = items.popular(plan.candidates)
    if not len(users) or not len(candidates):
        raise BadInputError(
            f"{plan.usecase}: {len(users)} user rows and {len(items)} items; load data first: millrace load --help"
        )
    if bundle.manifest.layout_hash != layout.layout_hash:
        raise BadInputError(
            f"{plan.usecase}: model {bundle.manifest.name} {bundle.manifest.version} reads layout "
            f"{bundle.manifest.layout_hash:08x}, the use case is {layout.layout_hash:08x}; train and deploy again"
        )
    score = _scorer(bundle, layout, threads, device)
    begun = store.run(plan.usecase, plan.run_id)
    buckets = buckets_for(len(users)) if begun is None else begun.buckets  # users may have come since it began
    version = f"{bundle.manifest.name}/{bundle.manifest.version}"
    store.create_run(plan.usecase, plan.run_id, buckets, version)
    finished = store.finished_buckets(plan.usecase, plan.run_id)
    for bucket, members in _by_bucket(users, buckets):
        if bucket not in finished:
            lists = _lists(plan, layout, rows, items, candidates, members, score)
            store.write_bucket(plan.usecase, plan.run_id, bucket, lists)
        progress(len(members))
    summary = store.seal_run(plan.usecase, plan.run_id)
    return Generation(summary, store.flip(plan.usecase, plan.run_id), version, len(finished))


def _by_bucket(users: npt.NDArray[np.uint64], buckets: int) -> Iterator[tuple[int, list[int]]]:
    members: dict[int, list[int]] = {bucket: [] for bucket in range(buckets)}
    for user in users.tolist():
        members[bucket_of(user, buckets)].append(user)
    yield from members.items()


def _scorer(bundle: Bundle, layout: Layout, threads: int, device: Device) -> _Scores:
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
        return bundle.weighed(predictions)

    return score


def _lists(
    plan: Plan,
    layout: Layout,
    rows: OnlineStore,
    items: ItemSnapshot,
    candidates: npt.NDArray[np.uint64],
    members: Sequence[int],
    score: _Scores,
) -> list[UserList]:
    """The best unseen candidates of each user, best first; ties by item id, as the gateway breaks them."""
    packed = rows.read_many(members)
    context = RequestContext(device=0, surface=0, country=0)
    users = [unpack_user_row(layout, packed[user]) if user in packed else None for user in members]
    past = [part for part in (past_items(layout, row) for row in users) if part is not None]
    view = items.view(candidates, plan.time_us, np.unique(np.concatenate(past)) if past else None)
    assembled, seen = [], []
    for row in users:
        assembled.append(assemble(layout, row, view, context, plan.time_us))
        seen.append(np.zeros(len(candidates), bool) if row is None else row.seen_mask(candidates))
    scores = score(assembled).reshape(len(members), len(candidates)) if members else np.empty((0, 0), np.float32)
    lists = []
    for user, own, hidden in zip(members, scores, seen, strict=True):
        order = np.lexsort((candidates, -own))
        best = order[~hidden[order]][: plan.list_length]
        lists.append(UserList(user_id=user, item_ids=candidates[best], scores=own[best]))
    return lists
