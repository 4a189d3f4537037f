"""Runs history's tail through the running stack: every event is scored before it is published."""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
from definitions.events import EventColumns
from millrace.ranking.v1.ranking_pb2 import RankRequest, RankResponse

from pipelines.errors import UnavailableError

Progress = Callable[[int, int], None]
"""Called with (done, total)."""


class Ranking(Protocol):
    """The gateway, as replay needs it."""

    def rank(self, request: RankRequest, timeout_s: float) -> RankResponse:
        """Order the request's items. Raises `UnavailableError` where no answer comes in time."""


class Log(Protocol):
    """The collector, as replay needs it."""

    def publish(self, events: EventColumns) -> int:
        """Publish events of one user; return 1 + the newest offset. Raises `UnavailableError`, `BadInputError`."""


@dataclass(frozen=True, slots=True)
class Served:
    """What the stack answered; parallel arrays of length n, one row a scored event, in replay order.

    `score` float32; `rung` int32 (`millrace.events.v1.Rung`); `model_version` int64; `feature_age_us` int64 (event time
    minus the newest event in the row); `row` int64: the event's place in the replayed columns; `waited_us` int64: from
    the user's previous acknowledgement to the first answer that had seen it, 0 where nothing had to be waited for.
    """

    row: npt.NDArray[np.int64]
    score: npt.NDArray[np.float32]
    rung: npt.NDArray[np.int32]
    model_version: npt.NDArray[np.int64]
    feature_age_us: npt.NDArray[np.int64]
    waited_us: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Pace:
    """How long replay waits. Seconds; `visible_s` bounds the wait for one event to reach the online row."""

    call_s: float = 1.0
    visible_s: float = 30.0


def tied_groups(events: EventColumns) -> Iterator[npt.NDArray[np.int64]]:
    """Rows of each (time, user) pair, in time order: a group is scored whole before any of it is published.

    75.8 % of ML-100K's rows share user and second with another row, so one by one the second row of a group would see
    the label of the first.
    """
    order = np.lexsort((events.user_id, events.event_time_us))
    time_us, user_id = events.event_time_us[order], events.user_id[order]
    starts = np.flatnonzero((np.diff(time_us) != 0) | (np.diff(user_id) != 0)) + 1
    yield from np.split(order, starts) if len(order) else ()


def replay(
    events: EventColumns,
    scored: npt.NDArray[np.bool_],
    usecase: str,
    ranking: Ranking,
    log: Log,
    *,
    progress: Progress,
    pace: Pace = Pace(),
) -> Served:
    """Score, then publish, `events` group by group.

    `scored` bool (n,): which events carry a label and are asked for; the others are only published. Before a user's
    group is scored, the user's previous events are acknowledged and visible in the row that the answer used.

    Raises:
        UnavailableError: no answer, no acknowledgement, or an event still invisible after `pace.visible_s`.
    """
    answers: list[_Answer] = []
    visible: dict[int, int] = {}
    pending: dict[int, Future[int]] = {}
    acked_at: dict[int, float] = {}
    done = 0
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="publish") as publisher:  # one: keeps the log in order
        for rows in tied_groups(events):
            user = int(events.user_id[rows[0]])
            if (sent := pending.pop(user, None)) is not None:
                visible[user] = sent.result(timeout=pace.visible_s)
                acked_at[user] = time.monotonic()
            asked = rows[scored[rows]]
            if len(asked):
                response, waited_us = _ask(events, asked, usecase, ranking, visible.get(user, 0), acked_at, pace)
                answers += _read(events, asked, response, waited_us)
            pending[user] = publisher.submit(log.publish, events.take(rows))
            done += len(rows)
            progress(done, len(events))
        for sent in pending.values():
            sent.result(timeout=pace.visible_s)
    return _columns(answers)


@dataclass(frozen=True, slots=True)
class _Answer:
    row: int
    score: float
    rung: int
    model_version: int
    feature_age_us: int
    waited_us: int


def _ask(
    events: EventColumns,
    asked: npt.NDArray[np.int64],
    usecase: str,
    ranking: Ranking,
    at_least: int,
    acked_at: dict[int, float],
    pace: Pace,
) -> tuple[RankResponse, int]:
    """Rank the group's items on a row that holds everything below `at_least`."""
    first = asked[0]
    user = int(events.user_id[first])
    request = RankRequest(usecase=usecase, user_id=user, min_interactions_offset=at_least)
    request.item_ids.extend(dict.fromkeys(events.item_id[asked].tolist()))
    request.context.time_us = int(events.event_time_us[first])
    for field in ("device", "surface", "country"):
        setattr(request.context, field, int(getattr(events, field)[first]))
    deadline = time.monotonic() + pace.visible_s
    while True:
        response = ranking.rank(request, pace.call_s)
        if response.row.interactions_offset >= at_least:
            since = acked_at.pop(user, None)
            return response, 0 if since is None else int((time.monotonic() - since) * 1e6)
        if time.monotonic() > deadline:
            raise UnavailableError(
                f"user {user}: the online row stays at offset {response.row.interactions_offset}, {at_least} was "
                f"acknowledged {pace.visible_s:.0f} s ago; is the features service running? Try: millrace status"
            )


def _read(
    events: EventColumns, asked: npt.NDArray[np.int64], response: RankResponse, waited_us: int
) -> Sequence[_Answer]:
    scores = {item.item_id: item.score for item in response.items}
    return [
        _Answer(
            row=int(row),
            score=scores[int(events.item_id[row])],
            rung=response.served_by,
            model_version=response.model_version,
            feature_age_us=response.feature_age_us,
            waited_us=waited_us,
        )
        for row in asked
    ]


def _columns(answers: Sequence[_Answer]) -> Served:
    return Served(
        row=np.array([a.row for a in answers], dtype=np.int64),
        score=np.array([a.score for a in answers], dtype=np.float32),
        rung=np.array([a.rung for a in answers], dtype=np.int32),
        model_version=np.array([a.model_version for a in answers], dtype=np.int64),
        feature_age_us=np.array([a.feature_age_us for a in answers], dtype=np.int64),
        waited_us=np.array([a.waited_us for a in answers], dtype=np.int64),
    )
