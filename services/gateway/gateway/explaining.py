"""Why items are scored as they are: of a user now, or of an answer that this process still remembers."""

import asyncio
import os
import threading
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt
from definitions.layout import Layout

from gateway.errors import DeadlineTooShort, InvalidRequest, NotRemembered, Overloaded
from gateway.model import ActiveModel, Contributions
from gateway.query import Floats, Ids, Ints, Query, RowVersion, Rung, Shown
from gateway.ranking import ImpressionSink, Looked

MAX_EXPLAINED: Final = 20
MAX_WAITING: Final = 4
REMEMBERED: Final = 1_024  # answers
REMEMBERED_BYTES: Final = 32 * 1024 * 1024
_NICE: Final = 10  # of the thread: answers come first
_SHARE: Final = 0.7  # of the budget that scoring may take; the rest is waiting for the processor
_NEVER: Final = -1


class Recent:
    """The last answers with all their inputs."""

    def __init__(self, *, most: int = REMEMBERED, most_bytes: int = REMEMBERED_BYTES) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._order: deque[Shown] = deque()
        self._by_id: dict[int, Shown] = {}
        self._bytes = 0

    def before(self, sink: ImpressionSink) -> "Remembering":
        """A sink that remembers what it passes on to another."""
        return Remembering(self, sink)

    def add(self, shown: Shown) -> None:
        """Remember it, forget the oldest."""
        self._order.append(shown)
        self._by_id[shown.ranking.request_id] = shown
        self._bytes += shown.size
        while len(self._order) > self._most or self._bytes > self._most_bytes:
            oldest = self._order.popleft()
            self._bytes -= oldest.size
            self._by_id.pop(oldest.ranking.request_id, None)

    def get(self, request_id: int) -> Shown | None:
        """The answer, if it is remembered."""
        return self._by_id.get(request_id)


class Remembering:
    """An `ImpressionSink` in front of another."""

    def __init__(self, recent: Recent, sink: ImpressionSink) -> None:
        self._recent = recent
        self._sink = sink

    def offer(self, shown: Shown) -> None:
        """Remember it and pass it on. Never waits."""
        self._recent.add(shown)
        self._sink.offer(shown)


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be explained: an answer by `request_id` (of its candidates `query.item_ids`, none = its first), or
    the items of `query` now. `top`: features of each item, 0 = all.
    """

    request_id: int
    query: Query
    top: int


@dataclass(frozen=True, eq=False, slots=True)
class Explained:
    """n items: `item_ids` uint64 (n,), `scores` float32 (n,), `positions` (n,), 0 where not shown; `found`: what each
    feature adds; `ages_us` int64 (n, features), -1 = none. `model` scored them, with features at `time_us`.
    """

    item_ids: Ids
    scores: Floats
    positions: Ints
    found: Contributions
    ages_us: Ints
    method: str
    model: ActiveModel
    time_us: int
    row: RowVersion | None
    arm: str


class Looker(Protocol):
    """What `Ranker` is to this module."""

    async def look(self, query: Query, budget_s: float) -> Looked:
        """What its items look like now."""
        ...

    def newest_us(self, item_ids: Ids) -> Ints:
        """Time of each item's newest event, int64 (n,); 0 if it has none."""
        ...


class Explaining:
    """Explains for one use case. At most one explanation is made at a time, by a thread that yields to all others."""

    def __init__(self, recent: Recent, ranker: Callable[[], Looker], busy: Callable[[], bool]) -> None:
        """`ranker`: the one that answers now. `busy`: whether the process has better things to do."""
        self._recent = recent
        self._ranker = ranker
        self._busy = busy
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="explain", initializer=_yield_to_others)
        self._waiting = 0

    def close(self) -> None:
        """Let running work end, drop what waits."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def explain(self, asked: Asked, budget_s: float) -> Explained:
        """Within `budget_s`.

        Raises:
            InvalidRequest: names the field.
            NotRemembered: the answer, or a model that scored it, is not there.
            DeadlineTooShort: it takes longer than that.
            Overloaded: others are being explained, or the process is busy: like BATCH, this is shed first.
        """
        _check(asked)
        if self._waiting >= MAX_WAITING or self._busy():
            raise Overloaded("explanations wait for answers; try again later")
        return await (self._of_answer if asked.request_id else self._of_now)(asked, budget_s)

    async def _of_now(self, asked: Asked, budget_s: float) -> Explained:
        looked = await self._ranker().look(asked.query, budget_s)
        model = _scored_by(looked.model, "no model is deployed: there is nothing to explain")
        made, row = looked.assembled, looked.row
        ints = model.ints(made.user_ints, made.item_ints)
        scores, found = await self._found(model, made.features, ints, looked.heads, budget_s, local=False)
        user_age_us = _NEVER if row is None else _age(looked.last_event_us, looked.time_us)
        return Explained(
            item_ids=looked.item_ids,
            scores=scores,
            positions=np.zeros(len(scores), np.int64),
            found=found,
            ages_us=self._ages(model.layout, found.names, looked.item_ids, user_age_us, looked.time_us),
            method=found.method,
            model=model,
            time_us=looked.time_us,
            row=row,
            arm=looked.arm,
        )

    async def _of_answer(self, asked: Asked, budget_s: float) -> Explained:
        shown = self._recent.get(asked.request_id)
        if shown is None:
            raise NotRemembered(
                f"request_id: {asked.request_id} is no answer that this process remembers (the last {REMEMBERED}); "
                f"millrace explain --request {asked.request_id} reads it from the archive"
            )
        ranking = shown.ranking
        by_model = ranking.rung in (Rung.MODEL, Rung.LOCAL_MODEL)
        model = _scored_by(
            shown.model if by_model else None,
            f"request_id: {asked.request_id} was answered on rung {ranking.rung.value}: no model scored it",
        )
        places = _places(asked, shown)
        rows = shown.order[places]
        ints = model.ints(shown.user_ints, shown.item_ints[rows])
        local = ranking.rung is Rung.LOCAL_MODEL
        features, heads = np.ascontiguousarray(shown.features[rows]), shown.rules.rules.heads
        _, found = await self._found(model, features, ints, heads, budget_s, local=local)
        item_ids = shown.item_ids[places]
        user_age_us = ranking.feature_age_us or _NEVER
        return Explained(
            item_ids=item_ids,
            scores=shown.scores[places],
            positions=np.where(places < len(ranking.item_ids), places + 1, 0),
            found=found,
            ages_us=self._ages(model.layout, found.names, item_ids, user_age_us, shown.time_us),
            method=found.method,
            model=model,
            time_us=shown.time_us,
            row=ranking.row,
            arm=ranking.arm,
        )

    async def _found(
        self,
        model: ActiveModel,
        features: Floats,
        ints: Ints | None,
        heads: Mapping[str, float],
        budget_s: float,
        *,
        local: bool,
    ) -> tuple[Floats, Contributions]:
        if model.explain is None:
            raise NotRemembered("this model cannot be explained")
        self._waiting += 1
        loop = asyncio.get_running_loop()
        work = loop.run_in_executor(self._pool, model.explain, features, ints, heads, _SHARE * budget_s, local)
        work.add_done_callback(self._ended)
        try:
            async with asyncio.timeout(budget_s):
                return await asyncio.shield(work)  # a thread cannot be cancelled: it keeps its place until it ends
        except TimeoutError:
            raise DeadlineTooShort(f"not explained within {budget_s * 1e3:.0f} ms; ask for fewer items") from None

    def _ended(self, work: "asyncio.Future[tuple[Floats, Contributions]]") -> None:
        self._waiting -= 1
        if not work.cancelled():
            work.exception()  # nobody may be waiting for it any more

    def _ages(self, layout: Layout, names: tuple[str, ...], item_ids: Ids, user_age_us: int, time_us: int) -> Ints:
        """int64 (n, features): how old the newest event is that each value may count."""
        of_items = np.array([_age(each, time_us) for each in self._ranker().newest_us(item_ids).tolist()], np.int64)
        kinds = kinds_of(layout)
        ages = np.full((len(item_ids), len(names)), _NEVER, np.int64)
        for column, name in enumerate(names):
            if kinds.get(name) == "item":
                ages[:, column] = of_items
            elif kinds.get(name) == "user":
                ages[:, column] = user_age_us
        return ages


def kinds_of(layout: Layout) -> Mapping[str, str]:
    """Feature -> whose events change it, `user` or `item`; attributes and context are not there."""
    found = dict.fromkeys(layout.feature_names, "user")
    for position in layout.item.positions:
        found[layout.feature_names[position]] = "item"
    for side in (layout.user, layout.item):
        for column in side.number_columns:
            found.pop(layout.feature_names[column.position], None)
    return found | {"history": "user"}


def _check(asked: Asked) -> None:
    items = asked.query.item_ids
    if items is not None and len(items) > MAX_EXPLAINED:
        raise InvalidRequest(f"item_ids: {len(items)} ids; at most {MAX_EXPLAINED} are explained")
    if not asked.request_id and (items is None or not len(items)):
        raise InvalidRequest("item_ids: empty; name at least one item, or an answer by its request_id")
    if asked.request_id and asked.query.user_id:
        raise InvalidRequest("user_id: the answer of request_id has its own; give one or the other")


def _places(asked: Asked, shown: Shown) -> npt.NDArray[np.intp]:
    """Of the answer's candidates."""
    wanted = asked.query.item_ids
    if wanted is None or not len(wanted):
        return np.arange(min(MAX_EXPLAINED, len(shown.item_ids)))
    places = {item: place for place, item in enumerate(shown.item_ids.tolist())}
    for index, item in enumerate(wanted.tolist()):
        if item not in places:
            raise InvalidRequest(f"item_ids[{index}]: {item} was no candidate of that answer")
    return np.array([places[item] for item in dict.fromkeys(wanted.tolist())], np.intp)


def _scored_by(model: ActiveModel | None, otherwise: str) -> ActiveModel:
    if model is None:
        raise NotRemembered(otherwise)
    return model


def _age(event_us: int, time_us: int) -> int:
    return time_us - event_us if 0 < event_us < time_us else _NEVER


def _yield_to_others() -> None:
    with suppress(OSError):  # only Linux has a niceness of threads
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
