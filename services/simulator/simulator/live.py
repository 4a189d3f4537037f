"""The world in front of a real stack: users ask the gateway, react to what it served, and the collector is told."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Protocol

import numpy as np
from millrace.client import Context, Entity, Event, MillraceError, Published, Ranking

from simulator import saved
from simulator.catalogue import Catalogue
from simulator.errors import BadWorld, StackAway
from simulator.metrics import Metrics
from simulator.reacting import Outcomes, Slates, react
from simulator.running import Kept, joined
from simulator.saved import Progress, Waiting
from simulator.truth import write_kept, write_world
from simulator.world import Ints, Requests, World

Call = Literal["rank", "recommend"]

FAILURES: Final = 25  # requests in a row: the gateway is not busy, it is away
SAVE_S: Final = 0.5


class Gateway(Protocol):
    """What a run needs of `millrace.client.RankingClient`."""

    def rank(
        self, usecase: str, user_id: int, item_ids: Sequence[int], *, limit: int = 0, context: Context | None = None,
        timeout_s: float | None = None,
    ) -> Ranking:  # fmt: skip
        """Order the items; raises `MillraceError`."""

    def recommend(
        self, usecase: str, user_id: int, *, limit: int = 10, context: Context | None = None,
        timeout_s: float | None = None,
    ) -> Ranking:  # fmt: skip
        """Find and order items; raises `MillraceError`."""


class Collector(Protocol):
    """What a run needs of `millrace.client.EventClient`."""

    def publish(self, usecase: str, events: Sequence[Event], *, timeout_s: float | None = None) -> Published:
        """Put events on the log; raises `MillraceError`."""

    def put_items(self, usecase: str, items: Sequence[Entity], *, timeout_s: float | None = None) -> Published:
        """Add or remove items; raises `MillraceError`."""

    def put_users(self, usecase: str, users: Sequence[Entity], *, timeout_s: float | None = None) -> Published:
        """Add users; raises `MillraceError`."""


@dataclass(frozen=True)
class Plan:
    """How a run goes. `requests` more of them at `rate` a second (0: as fast as it goes), `together` at once, lists of
    `slots` items by `call`; `folder` holds the saved run and, under `truth/`, what nobody who serves may read.
    `now_us`: the present; the world ends there, since the log refuses events of the future."""

    folder: Path
    requests: int
    rate: float = 50.0
    together: int = 8
    slots: int = 10
    call: Call = "rank"
    timeout_s: float = 1.0
    now_us: Callable[[], int] = lambda: time.time_ns() // 1_000

    @property
    def file(self) -> Path:
        """The saved run."""
        return self.folder / "run.npz"


@dataclass(frozen=True)
class Outcome:
    """What a run did. `reached_now`: the world's clock caught up with the present before all requests were asked."""

    requests: int
    failed: int
    events: int
    waiting: int
    unknown_items: int
    clicks_per_list: float
    expected_utility_per_list: float
    rungs: dict[str, int]
    clock_us: int
    reached_now: bool
    seconds: float


class GatewayServing:
    """The real gateway as a policy: one call a request, several at once."""

    def __init__(self, gateway: Gateway, catalogue: Catalogue, usecase: str, plan: Plan, metrics: Metrics) -> None:
        self._gateway, self._catalogue, self._usecase, self._plan = gateway, catalogue, usecase, plan
        self._metrics = metrics
        self._pool = ThreadPoolExecutor(plan.together, thread_name_prefix="user")
        self.rungs: dict[str, int] = {}
        self.failed = self.unknown = self._failed_in_a_row = 0

    def serve(self, requests: Requests) -> Slates:
        """What the gateway shows; a request that fails shows nothing. Propensities are in its impressions, not here.

        Raises:
            StackAway: the last `FAILURES` requests failed.
        """
        answers = list(self._pool.map(lambda row: self._ask(requests, row), range(len(requests))))
        items = np.full((len(requests), self._plan.slots), -1, np.int64)
        request_id = np.zeros(len(requests), np.uint64)
        for row, answer in enumerate(answers):
            if isinstance(answer, MillraceError):
                self.failed += 1
                self._failed_in_a_row += 1
                if self._failed_in_a_row >= FAILURES:
                    raise StackAway(f"{FAILURES} requests in a row failed: {answer}; is the stack up? millrace status")
                continue
            self._failed_in_a_row = 0
            self.rungs[answer.served_by] = self.rungs.get(answer.served_by, 0) + 1
            shown = self._catalogue.places(item.item_id for item in answer.items[: self._plan.slots])
            self.unknown += shown.count(-1)
            items[row, : len(shown)] = shown
            request_id[row] = answer.request_id
        return Slates(items, np.full(items.shape, np.nan), request_id)

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()

    def _ask(self, requests: Requests, row: int) -> Ranking | MillraceError:
        user = int(self._catalogue.user_ids[requests.user[row]])
        context = Context(
            device=int(requests.device[row]), surface=int(requests.surface[row]), time_us=int(requests.time_us[row])
        )
        begun, answer = time.monotonic(), "failed"
        try:
            if self._plan.call == "recommend":
                found = self._gateway.recommend(
                    self._usecase, user, limit=self._plan.slots, context=context, timeout_s=self._plan.timeout_s
                )
            else:
                candidates = self._catalogue.item_ids[requests.candidates[row]].tolist()
                found = self._gateway.rank(
                    self._usecase, user, candidates, limit=self._plan.slots, context=context,
                    timeout_s=self._plan.timeout_s,
                )  # fmt: skip
            answer = found.served_by
            return found
        except MillraceError as exc:
            answer = type(exc).__name__
            return exc
        finally:
            self._metrics.requested(answer, time.monotonic() - begun)


class Live:
    """One run of one world against one stack. Another one on the same folder, also after a kill, goes on from there.

    Each step saves what has happened before it publishes any of it, under event ids that a repeat has again: a kill
    loses nothing, and nothing counts twice.
    """

    def __init__(
        self, world: World, catalogue: Catalogue, usecase: str, gateway: Gateway, collector: Collector, plan: Plan,
        metrics: Metrics,
    ) -> None:  # fmt: skip
        """Raises BadWorld if the folder holds a run of another world."""
        self._world, self._catalogue, self._usecase, self._plan = world, catalogue, usecase, plan
        self._collector, self._metrics = collector, metrics
        self._serving = GatewayServing(gateway, catalogue, usecase, plan, metrics)
        self._state, self._waiting, self._progress = world.begin(), saved.nothing_waiting(), Progress()
        if plan.file.exists():
            self._state, self._waiting, self._progress = saved.load(plan.file, world.spec)
        metrics.clock(lambda: self.clock_us / 1e6)
        metrics.waiting(lambda: len(self._waiting))

    @property
    def clock_us(self) -> int:
        """The world's time: that of the request which comes next."""
        return int(self._state.next_us.min())

    def run(self, progress: Callable[[int], None], stop: Callable[[], bool] = lambda: False) -> Outcome:
        """Ask `plan.requests` more requests, or until `stop` or the present.

        Raises:
            StackAway: the gateway or the collector does not answer.
            BadWorld: the collector refuses what the world publishes.
        """
        write_world(self._plan.folder / "truth", self._world)
        begun = saved_at = time.monotonic()
        self._introduce()
        before, kept, done, reached_now = self._progress, list[Kept](), 0, False
        clicks = utility = 0.0
        try:
            while done < self._plan.requests and not stop():
                users = self._next_users(self._plan.requests - done)
                if int(self._state.next_us[users].max()) > self._plan.now_us():
                    reached_now = True
                    break
                step = self._step(users)
                kept.append(step)
                done += len(step)
                clicks, utility = clicks + float(step.clicked.sum()), utility + float(step.utility.sum())
                self._pace(begun, done)
                if time.monotonic() - saved_at > SAVE_S or done >= self._plan.requests:
                    self._settle(kept)
                    kept, saved_at = [], time.monotonic()
                progress(len(step))
            self._settle(kept)
        finally:
            self._serving.close()
        return Outcome(
            requests=done,
            failed=self._serving.failed,
            events=self._progress.published - before.published,
            waiting=len(self._waiting),
            unknown_items=self._serving.unknown,
            clicks_per_list=clicks / max(done, 1),
            expected_utility_per_list=utility / max(done, 1),
            rungs=dict(sorted(self._serving.rungs.items())),
            clock_us=self.clock_us,
            reached_now=reached_now,
            seconds=time.monotonic() - begun,
        )

    def _next_users(self, most: int) -> Ints:
        """Those who come next, in order."""
        count = min(self._plan.together, most, len(self._state.next_us))
        return np.lexsort((np.arange(len(self._state.next_us)), self._state.next_us))[:count]

    def _step(self, users: Ints) -> Kept:
        from_us = self.clock_us
        requests = self._world.requests(self._state, users)
        interests = self._state.interests[users].copy()
        slates = self._serving.serve(requests)
        outcomes = react(self._world, self._state, requests, slates)
        self._waiting = self._waiting.with_more(_waiting(requests, slates, outcomes))
        self._renew(from_us, self.clock_us)
        truth = outcomes.chances
        return Kept(
            requests, slates, truth.examined, truth.click, truth.utility, outcomes.clicked, interests,
            np.empty((len(users), 0)), outcomes.happened,
        )  # fmt: skip

    def _settle(self, kept: list[Kept]) -> None:
        """Truth, then the run, then the events whose time has come: in this order a kill costs nothing."""
        if kept:
            write_kept(self._plan.folder / "truth", joined(kept), self._progress.part)
            done = self._progress.done + sum(len(each) for each in kept)
            self._progress = dataclasses.replace(self._progress, done=done, part=self._progress.part + 1)
        saved.save(self._plan.file, self._world.spec, self._state, self._waiting, self._progress)
        due, later = self._waiting.split(min(self.clock_us, self._plan.now_us()))
        if len(due):
            self._publish(due)
            self._waiting = later
            self._progress = dataclasses.replace(self._progress, published=self._progress.published + len(due))

    def _publish(self, due: Waiting) -> None:
        codes, reactions = self._catalogue.action_codes, self._world.spec.profile.reactions
        columns = due.columns
        events = [
            Event(
                user_id=int(self._catalogue.user_ids[user]), item_id=int(self._catalogue.item_ids[item]),
                action=int(codes[reaction]), value=value, event_time_us=time_us, event_id=event_id,
                request_id=request_id, position=position, device=device, surface=surface,
            )
            for user, item, reaction, value, time_us, event_id, request_id, position, device, surface in zip(
                *(columns[name].tolist() for name in _ORDER), strict=True
            )
        ]  # fmt: skip
        self._check(lambda: self._collector.publish(self._usecase, events, timeout_s=30.0))
        for place, count in enumerate(np.bincount(columns["reaction"], minlength=len(reactions)).tolist()):
            self._metrics.published(reactions[place].action, count)

    def _introduce(self) -> None:
        """Everybody, and all items that are there now: a repeat changes nothing."""
        items = np.arange(self._world.spec.items)
        alive = items[self._world.alive(items, self.clock_us)]
        self._check(lambda: self._collector.put_items(self._usecase, self._catalogue.items(alive), timeout_s=30.0))
        self._check(lambda: self._collector.put_users(self._usecase, self._catalogue.users(), timeout_s=30.0))

    def _renew(self, from_us: int, to_us: int) -> None:
        """The items that have come and gone meanwhile."""
        world = self._world
        came = np.flatnonzero((world.born_us > from_us) & (world.born_us <= to_us))
        gone = np.flatnonzero((world.dies_us > from_us) & (world.dies_us <= to_us))
        if len(came):
            self._check(lambda: self._collector.put_items(self._usecase, self._catalogue.items(came), timeout_s=30.0))
        if len(gone):
            entities = self._catalogue.items(gone, deleted=True)
            self._check(lambda: self._collector.put_items(self._usecase, entities, timeout_s=30.0))

    def _check(self, send: Callable[[], Published]) -> None:
        try:
            answer = send()
        except MillraceError as exc:
            raise StackAway(f"the collector: {exc}; is the stack up? millrace status") from exc
        if answer.rejected:
            first = answer.rejected[0].reason
            raise BadWorld(f"the collector refuses {len(answer.rejected)} records, the first: {first}")

    def _pace(self, begun: float, done: int) -> None:
        """Wait until the planned time of the next request."""
        if self._plan.rate > 0:
            time.sleep(max(0.0, begun + done / self._plan.rate - time.monotonic()))


_ORDER: Final = (
    *("user", "item", "reaction", "value", "time_us", "event_id"),
    *("request_id", "position", "device", "surface"),
)


def _waiting(requests: Requests, slates: Slates, outcomes: Outcomes) -> Waiting:
    """What happened, with the impression that it answers."""
    happened = outcomes.happened
    return Waiting(
        {
            **{name: getattr(happened, name) for name in ("user", "item", "reaction", "time_us", "value", "event_id")},
            "position": happened.slot + 1,
            "surface": requests.surface[happened.row],
            "device": requests.device[happened.row],
            "request_id": slates.request_id[happened.row],
        }
    )
