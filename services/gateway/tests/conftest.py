"""A small world for the core: real definitions and snapshot, fakes of ours for what would be a network away."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

import grpc.aio
import numpy as np
import pytest
from bundle import IntInputs
from definitions.assembly import RequestContext
from definitions.candidates import NO_SOURCES, BundleSources
from definitions.events import EventColumns
from definitions.item_feed import item_features_key, marker_value, partial_value
from definitions.item_snapshot import ItemSnapshot
from definitions.item_table import ItemTable
from definitions.layout import Layout, layout_of
from definitions.records import LogRecord
from definitions.rules import Rules
from definitions.serving_rules import ServingRules
from definitions.usecase import UseCase, load_usecase
from definitions.user_state import UserTable
from gateway.admission import Admission, Queue
from gateway.breaker import Breaker
from gateway.errors import Unavailable
from gateway.items import CatalogueItems
from gateway.ladder import Ladder, LocalStep, ModelStep, PopularStep, PrecomputedStep, StoredList
from gateway.model import ActiveModel, Choice, Partner
from gateway.query import Query, Ranking, Shown
from gateway.ranking import Clock, Ranker
from gateway.rows import Rows
from gateway.servicer import SERVICE, RankingServicer
from millrace.events.v1 import events_pb2 as pb
from millrace.ranking.v1 import ranking_pb2_grpc
from servicekit.grpc_server import GrpcServer
from servicekit.kit import Kit, start
from servicekit.settings import ProcessSettings

NOW_US = 1_700_000_000_000_000
USER, STRANGER = 7, 8
CATALOGUE = range(1, 11)  # item k was rated k times: item 10 is the most popular


class FakeClock:
    """Time that passes only when a fake says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


class FakeRows:
    """A `RowSource`: rows by user, or what it is told to raise; `takes_s` passes on the clock."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.rows: dict[int, bytes] = {}
        self.raises: Unavailable | None = None
        self.takes_s = 0.0
        self.reads = 0
        self.then: Callable[[], None] = lambda: None

    async def read(self, user_id: int, budget_s: float) -> bytes | None:
        self.reads += 1
        self.clock.now += min(self.takes_s, budget_s)
        if self.raises is not None:
            raise self.raises
        found = self.rows.get(user_id)
        self.then()
        return found


class FakeScorer:
    """A `Scorer`: item k's row gets `scores(features)`; or it raises, or needs longer than the budget."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.scores: Callable[[np.ndarray], np.ndarray] = lambda features: np.arange(len(features), dtype=np.float32)
        self.raises: Unavailable | None = None
        self.takes_s = 0.0
        self.budgets: list[float] = []
        self.ints: list[np.ndarray | None] = []

    async def score(self, features: np.ndarray, ints: np.ndarray | None, budget_s: float) -> np.ndarray:
        self.budgets.append(budget_s)
        self.ints.append(ints)
        self.clock.now += min(self.takes_s, budget_s)
        if self.takes_s > budget_s:
            raise Unavailable("time")
        if self.raises is not None:
            raise self.raises
        return self.scores(features)


class FakeLists:
    """`StoredLists` by user."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.lists: dict[int, StoredList] = {}
        self.raises: Unavailable | None = None
        self.takes_s = 0.0
        self.reads = 0

    async def read(self, user_id: int, budget_s: float) -> StoredList:
        self.reads += 1
        self.clock.now += min(self.takes_s, budget_s)
        if self.takes_s > budget_s:
            raise Unavailable("time")
        if self.raises is not None:
            raise self.raises
        if user_id not in self.lists:
            raise Unavailable("no_row")
        return self.lists[user_id]


class FakeMeter:
    """Counts what it is told."""

    def __init__(self) -> None:
        self.left: list[tuple[str, str]] = []
        self.rows: list[str] = []
        self.stages: list[str] = []
        self.ties = 0
        self.found: dict[str, int] = {}
        self.failed: list[str] = []

    def candidates(self, source: str, found: int) -> None:
        self.found[source] = self.found.get(source, 0) + found

    def source_failed(self, source: str) -> None:
        self.failed.append(source)

    def rung_left(self, rung: Any, reason: str) -> None:
        self.left.append((rung.value, reason))

    def stage(self, name: str, seconds: float) -> None:
        assert seconds >= 0
        self.stages.append(name)

    def row(self, outcome: str) -> None:
        self.rows.append(outcome)

    def tied(self) -> None:
        self.ties += 1


class FakeSink:
    """Keeps impressions."""

    def __init__(self) -> None:
        self.shown: list[Shown] = []

    def offer(self, shown: Shown) -> None:
        self.shown.append(shown)


class World:
    """One use case with a catalogue of ten, and everything around the ranker under the test's control."""

    def __init__(self, usecase: UseCase, catalogue: Sequence[int] = CATALOGUE) -> None:
        self.usecase, self.layout = usecase, layout_of(usecase)
        self.clock, self.meter, self.sink = FakeClock(), FakeMeter(), FakeSink()
        self.rows, self.lists = FakeRows(self.clock), FakeLists(self.clock)
        self.model, self.local = FakeScorer(self.clock), FakeScorer(self.clock)
        self.model_breaker, self.list_breaker = Breaker(self.clock), Breaker(self.clock)
        self.lag_s = 0.0
        self.queue = Queue(self.clock)
        self.admission = Admission(self.clock, lambda: self.lag_s, self.queue)
        self.records: list[tuple[str, str]] = []
        self.items = CatalogueItems(ItemSnapshot(self.layout), self._count)
        self.active: ActiveModel | None = None
        self.arm = ""
        self.partner: Partner | None = None
        self.context: dict[str, int] = {}
        self.deploy()
        self._fill(catalogue)

    def rules_of(self) -> ServingRules:
        """Those that ask nothing."""
        return ServingRules(Rules(), self.layout)

    def deploy(self, version: int = 3, int_names: Sequence[str] = (), sources: BundleSources = NO_SOURCES) -> None:
        ints = IntInputs(int_names, self.layout.user_int_names, self.layout.item_int_names, {})
        self.active = ActiveModel(
            "trees", version, "d" * 64, self.model, self.local, ints, self.layout, sources=sources
        )

    def ranker(
        self,
        *,
        allow_time: bool = True,
        max_share: float | None = None,
        candidates: int | dict[str, Any] = 500,
        first_id: int = 1,
        **more: Any,
    ) -> Ranker:
        """`more`: other keys of the rules, as YAML says them."""
        wanted = {"limit": candidates} if isinstance(candidates, int) else candidates
        shares = [] if max_share is None else [{"max_share": {"by": "genre", "share": max_share}}]
        rules = Rules.model_validate({"candidates": wanted, "rerank": shares} | more)
        clock = Clock(self.clock, lambda: NOW_US)
        steps = [
            ModelStep(self.model_breaker),
            LocalStep(),
            PrecomputedStep(self.lists, self.list_breaker),
            PopularStep(),
        ]
        ids, serving = count(first_id), ServingRules(rules, self.layout)
        return Ranker(
            allow_time=allow_time,
            layout=self.layout,
            rows=Rows(self.rows, self.layout, self.meter, self.clock, self.clock.sleep),
            items=self.items,
            ladder=Ladder(steps, self.admission, self.meter, self.clock),
            choose=lambda _: Choice(self.active, serving, self.arm, self.partner),
            impressions=self.sink,
            admission=self.admission,
            meter=self.meter,
            clock=clock,
            new_id=lambda: next(ids),
        )

    def rank(
        self,
        *item_ids: int,
        budget_s: float = 0.1,
        user_id: int = USER,
        limit: int = 0,
        rules: dict[str, Any] | None = None,
        **more: Any,
    ) -> Ranking:
        query = Query(user_id, np.array(item_ids, np.uint64), limit, RequestContext(**self.context), **more)
        return asyncio.run(self.ranker(**(rules or {})).rank(query, budget_s))

    def recommend(
        self, *, limit: int = 0, budget_s: float = 0.1, user_id: int = USER, exclude: Sequence[int] = (), **ranker: Any
    ) -> Ranking:
        query = Query(user_id, None, limit, RequestContext(**self.context), exclude_ids=np.array(exclude, np.uint64))
        return asyncio.run(self.ranker(**ranker).rank(query, budget_s))

    def row_of(self, user_id: int, rated: Sequence[int], *, epoch: int = 1) -> bytes:
        """The packed row of a user who rated these items, one a second, the newest a second ago."""
        table = UserTable(self.layout)
        table.fold(self._events([user_id] * len(rated), rated, [NOW_US - 10**6 * k for k in range(len(rated), 0, -1)]))
        return table.row(user_id, epoch)

    def _fill(self, catalogue: Sequence[int]) -> None:
        for item_id in catalogue:
            item = pb.Item(id=item_id)
            item.attributes["genre"].categories.codes.append(1 if item_id > 5 else 2)
            item.attributes["year"].number = 2000 - item_id
            self.items.take_items(0, [LogRecord(item_id, -1, item_id.to_bytes(8, "big"), item.SerializeToString())])
        rated = [item_id for item_id in catalogue for _ in range(item_id)]
        table = ItemTable(self.layout)
        table.fold(self._events(range(1, len(rated) + 1), rated, [NOW_US - 10**9] * len(rated)))
        for item_id in table.all_items().tolist():
            partial = LogRecord(0, -1, item_features_key(item_id, 0), partial_value(1, table.partial(item_id)))
            self.items.take_features(0, [partial])
        self.items.take_features(0, [LogRecord(0, -1, item_features_key(0, 0), marker_value(1, len(rated)))])
        self.items.refresh()

    def _count(self, topic: str, outcome: str, n: int) -> None:
        self.records += [(topic, outcome)] * n

    def _events(self, users: Sequence[int], items: Sequence[int], times: Sequence[int]) -> EventColumns:
        n = len(items)
        return EventColumns.of(
            n,
            event_id=range(1, n + 1),
            user_id=list(users),
            item_id=list(items),
            action=[1] * n,
            value=[5.0] * n,
            event_time_us=list(times),
            offset=range(n),
        )


@pytest.fixture(scope="session")
def usecase(tmp_path_factory: pytest.TempPathFactory) -> UseCase:
    path: Path = tmp_path_factory.mktemp("usecases") / "tiny.yaml"
    path.write_text(
        """
usecase: tiny
actions: [{name: view, label: 0}, {name: rate, label: 1}]
attributes: {item: {genre: category, year: number}}
category: item.genre
seen: {actions: [rate], last: 16}
features:
  - {name: u_rated, of: user, group: base, kind: count, action: rate, windows: [all]}
  - {name: u_recent, of: user, group: history, kind: last_k, action: rate, k: 2}
  - {name: i_rated, of: item, group: base, kind: count, action: rate, windows: [all]}
  - {name: i_genre, of: item, group: base, kind: attribute, from: genre}
"""
    )
    return load_usecase(path)


@pytest.fixture
def layout(usecase: UseCase) -> Layout:
    return layout_of(usecase)


@pytest.fixture
def make_world(usecase: UseCase) -> Callable[..., World]:
    """`make_world(catalogue)`: with the items of the test's choice."""
    return lambda catalogue=CATALOGUE: World(usecase, catalogue)


@pytest.fixture
def world(make_world: Callable[..., World]) -> World:
    return make_world()


@pytest.fixture
def kit(tmp_path: Path) -> Iterator[Kit]:
    with start("gateway", ProcessSettings(home=tmp_path, metrics_port=0), signals=False) as started:
        yield started


@pytest.fixture
def serving(kit: Kit) -> Callable[[RankingServicer], AbstractAsyncContextManager[grpc.aio.Channel]]:
    """`async with serving(servicer) as channel`: over a real socket."""

    @asynccontextmanager
    async def served(servicer: RankingServicer) -> AsyncIterator[grpc.aio.Channel]:
        def register(server: grpc.aio.Server) -> list[str]:
            ranking_pb2_grpc.add_RankingServiceServicer_to_server(servicer, server)
            return [SERVICE]

        server = GrpcServer(kit, register, 0, routing_wait_s=0.0)
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as opened:
            yield opened
        await server.drain(1.0)

    return served
