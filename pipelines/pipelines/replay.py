"""Runs history's tail through the running stack: every event is scored before it is published."""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt
from definitions.events import EventColumns
from millrace.client import Context, Event, MillraceError, Published, Ranking

from pipelines.errors import BadInputError, UnavailableError
from pipelines.publishing import as_events

Progress = Callable[[int], None]
"""Called with how many more events are done."""


class Gateway(Protocol):
    """What replay needs of `millrace.client.RankingClient`."""

    def rank(
        self,
        usecase: str,
        user_id: int,
        item_ids: Sequence[int],
        *,
        context: Context | None = None,
        min_interactions_offset: int = 0,
        timeout_s: float | None = None,
    ) -> Ranking:
        """Order the items; raises `MillraceError`."""


class Collector(Protocol):
    """What replay needs of `millrace.client.EventClient`."""

    def publish(self, usecase: str, events: Sequence[Event], *, timeout_s: float | None = None) -> Published:
        """Put the events on the log; raises `MillraceError`."""


@dataclass(frozen=True, slots=True)
class Served:
    """What the stack answered; parallel arrays of length n, one row a scored event, in replay order.

    `row` int64: the event's place in the replayed columns; `score` float32; `rung` object (str); `model_version` int64;
    `feature_age_us` int64 (event time minus the newest event in the row); `waited_us` int64: from the user's previous
    acknowledgement to the answer that had seen it, 0 where nothing had to be waited for. `asked_again`: requests that
    were repeated because a lower rung than MODEL answered.
    """

    row: npt.NDArray[np.int64]
    score: npt.NDArray[np.float32]
    rung: npt.NDArray[np.object_]
    model_version: npt.NDArray[np.int64]
    feature_age_us: npt.NDArray[np.int64]
    waited_us: npt.NDArray[np.int64]
    asked_again: int

    def take(self, rows: npt.NDArray[np.bool_]) -> "Served":
        """The scored events of a mask."""
        names = ("row", "score", "rung", "model_version", "feature_age_us", "waited_us")
        return replace(self, **{name: getattr(self, name)[rows] for name in names})


@dataclass(frozen=True, slots=True)
class Pace:
    """How patient replay is. Seconds; `visible_s` bounds the wait for one event to reach the online row.

    `model_tries`: how often a request is sent if a lower rung answers. Replay measures what the model says, and the
    gateway gives a model 80 ms, which a busy machine may miss; what stays on a lower rung is reported as such.
    """

    call_s: float = 1.0
    visible_s: float = 30.0
    model_tries: int = 3


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
    gateway: Gateway,
    collector: Collector,
    *,
    progress: Progress,
    pace: Pace = Pace(),
) -> Served:
    """Score, then publish, `events` group by group.

    `scored` bool (n,): which events carry a label and are asked for; the others are only published. Before a user's
    group is scored, the user's previous events are acknowledged and visible in the row that the answer used.

    Raises:
        BadInputError: the collector refuses an event.
        UnavailableError: no answer, no acknowledgement, or an event still invisible after `pace.visible_s`.
    """
    run = _Run(events, usecase, gateway, collector, pace)
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="publish") as publisher:  # one: keeps the log in order
        for rows in tied_groups(events):
            run.acknowledged(int(events.user_id[rows[0]]))
            run.ask(rows[scored[rows]])
            run.pending[int(events.user_id[rows[0]])] = publisher.submit(run.publish, rows)
            progress(len(rows))
        for user in list(run.pending):
            run.acknowledged(user)
    return run.served()


@dataclass
class _Run:
    """One replay: what is under way, and what has been answered."""

    events: EventColumns
    usecase: str
    gateway: Gateway
    collector: Collector
    pace: Pace
    pending: dict[int, Future[int]] = field(default_factory=dict)
    visible_from: dict[int, int] = field(default_factory=dict)
    acked_at: dict[int, float] = field(default_factory=dict)
    answers: list[tuple[int, float, str, int, int, int]] = field(default_factory=list)
    asked_again: int = 0

    def publish(self, rows: npt.NDArray[np.int64]) -> int:
        """Put one user's rows on the log; 1 + the newest offset."""
        try:
            published = self.collector.publish(
                self.usecase, as_events(self.events.take(rows)), timeout_s=self.pace.visible_s
            )
        except MillraceError as exc:
            raise UnavailableError(f"publishing: {exc}; is the collector running? Try: millrace status") from exc
        if published.rejected:
            raise BadInputError(f"the collector refuses an event: {published.rejected[0].reason}")
        return 1 + max(accepted.offset for accepted in published.accepted)

    def acknowledged(self, user: int) -> None:
        """Wait until the user's previous group is on the log."""
        if (sent := self.pending.pop(user, None)) is not None:
            self.visible_from[user] = sent.result()
            self.acked_at[user] = time.monotonic()

    def ask(self, asked: npt.NDArray[np.int64]) -> None:
        """Score one user's rows of one time, on a row that holds everything that was acknowledged."""
        if not len(asked):
            return
        first, user = asked[0], int(self.events.user_id[asked[0]])
        context = Context(
            time_us=int(self.events.event_time_us[first]),
            device=int(self.events.device[first]),
            surface=int(self.events.surface[first]),
            country=int(self.events.country[first]),
        )
        item_ids = list(dict.fromkeys(self.events.item_id[asked].tolist()))
        ranking = self._ranking(user, item_ids, context)
        waited_us = 0
        if (since := self.acked_at.pop(user, None)) is not None:
            waited_us = int((time.monotonic() - since) * 1e6)
        scores = {item.item_id: item.score for item in ranking.items}
        self.answers += [
            (int(row), scores[int(self.events.item_id[row])], ranking.served_by, ranking.model_version,
             ranking.feature_age_us, waited_us)
            for row in asked
        ]  # fmt: skip

    def _ranking(self, user: int, item_ids: Sequence[int], context: Context) -> Ranking:
        at_least = self.visible_from.get(user, 0)
        deadline = time.monotonic() + self.pace.visible_s
        tries = self.pace.model_tries
        while True:
            try:
                ranking = self.gateway.rank(
                    self.usecase, user, item_ids, context=context, min_interactions_offset=at_least,
                    timeout_s=self.pace.call_s,
                )  # fmt: skip
            except MillraceError as exc:
                raise UnavailableError(f"ranking: {exc}; is the gateway running? Try: millrace status") from exc
            if ranking.row.interactions_offset >= at_least:
                tries -= 1
                if ranking.served_by == "MODEL" or tries == 0:
                    return ranking
                self.asked_again += 1
                continue
            if time.monotonic() > deadline:
                raise UnavailableError(
                    f"user {user}: the online row stays at offset {ranking.row.interactions_offset}, {at_least} was "
                    f"acknowledged {self.pace.visible_s:g} s ago; is the features service running? Try: millrace status"
                )

    def served(self) -> Served:
        """All answers as columns."""
        row, score, rung, version, age_us, waited_us = zip(*self.answers, strict=True) if self.answers else [()] * 6
        return Served(
            row=np.array(row, np.int64),
            score=np.array(score, np.float32),
            rung=np.array(rung, object),
            model_version=np.array(version, np.int64),
            feature_age_us=np.array(age_us, np.int64),
            waited_us=np.array(waited_us, np.int64),
            asked_again=self.asked_again,
        )
