"""One layout of a use case, wired: catalogue, rows and ladder behind one `Ranker`; and what all its layouts share."""

import asyncio
import random
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import numpy as np
import structlog
from definitions.assembly import RequestContext
from definitions.errors import DefinitionsError
from definitions.item_snapshot import ItemSnapshot
from definitions.layout import Layout
from definitions.serving_rules import ServingRules
from definitions.usecase import UseCase
from stores.batch import open_batch
from stores.online import open_online_reader

from gateway.admission import Admission, LoopLag, Queue
from gateway.breaker import Breaker
from gateway.errors import BundleRefused, GatewayError, Reason, Unavailable
from gateway.explaining import Recent
from gateway.impression_process import ImpressionProcess
from gateway.impressions import Impressions
from gateway.in_force import InForce
from gateway.items import CatalogueItems, CatalogueReaders
from gateway.ladder import Ladder, LocalStep, Meter, ModelStep, PopularStep, PrecomputedStep, Step
from gateway.metrics import Metrics
from gateway.model import ActiveModel
from gateway.online import OnlineRows
from gateway.precomputed import PrecomputedLists
from gateway.query import Query, Rung, Shown
from gateway.ranking import Clock, ImpressionSink, Ranker
from gateway.replayed import recent_queries
from gateway.rows import Rows
from gateway.settings import Settings
from gateway.shadow import Shadowing, tried_out
from gateway.sparing import Sparing

log: structlog.stdlib.BoundLogger = structlog.get_logger("gateway")

WARM_ROUNDS: Final = 50
WARM_ITEMS: Final = 100
BUSY_S: Final = 0.010  # the event loop is late by that: nothing is scored for a shadow


@dataclass(frozen=True)
class Shared:
    """What all use cases of the process share."""

    settings: Settings
    metrics: Metrics
    lag: LoopLag
    queue: Queue
    writer: ImpressionProcess
    model_breaker: Breaker


class Common:
    """What all layouts of a use case share: its nightly lists and its impressions, of which it is that source."""

    def __init__(self, usecase: UseCase, source: int, shared: Shared) -> None:
        settings = shared.settings
        self.lists = PrecomputedLists(
            open_batch(settings.cassandra, settings.batch_path, wait_for_connection=False), usecase.name
        )
        self.list_breaker = Breaker(time.monotonic)
        self.impressions = Impressions(
            shared.writer.ring,
            source,
            usecase=usecase.name,
            share=usecase.impressions.full_features,
            count=lambda outcome: shared.metrics.impressions.labels(outcome).inc(),
            on_error=Sparing("impression lost", usecase=usecase.name),
        )
        self.recent = Recent()

    def close(self) -> None:
        """Close the lists."""
        self.lists.close()


class Serving:
    """One use case's parts under one layout. Made on the event loop; `start` begins to read, `close` ends that.

    `in_force` is swapped as one reference; without a pin it ranks by popularity.
    """

    def __init__(self, layout: Layout, common: Common, shared: Shared, on_failure: Callable[[Exception], None]) -> None:
        """`on_failure` is told, from the reader's thread, of a log that cannot be read any more. StoreError."""
        usecase, settings, metrics = layout.usecase, shared.settings, shared.metrics
        name = usecase.name
        self.usecase = name
        self.layout = layout
        self._common = common
        self.items = CatalogueItems(
            ItemSnapshot(self.layout), lambda name, outcome, n: metrics.records.labels(name, outcome).inc(n)
        )
        self.readers = CatalogueReaders(self.items, settings.kafka, name, layout.revision, on_failure)
        self._online = open_online_reader(
            name, self.layout.revision, valkey=settings.valkey, lmdb_path=settings.online_path
        )
        self._shared = shared
        self.in_force = InForce(None, ServingRules(usecase.rules, layout))
        self._row_breaker = Breaker(time.monotonic)
        self._shadowing = Shadowing(
            common.impressions,
            lambda: self.in_force,
            busy=lambda: shared.lag.worst_s() > BUSY_S,
            count=lambda outcome: metrics.shadow.labels(name, outcome).inc(),
        )
        self.ranker = self._ranker(metrics, common.recent.before(self._shadowing))

    def start(self) -> None:
        """Begin to read the log."""
        self.readers.start()

    @property
    def caught_up(self) -> bool:
        """Whether all that was on the log at the start is in memory."""
        return self.readers.caught_up

    def markers(self) -> dict[int, int]:
        """Partition -> offset below which its item partials are in."""
        return self.items.markers()

    def serves(self, layout: Layout) -> bool:
        """Whether a model of `layout` can be served by these rows, items and rules."""
        return (self.layout.revision, self.layout.usecase) == (layout.revision, layout.usecase)

    def rules(self, text: str) -> ServingRules:
        """Rules of that JSON, of the use case if it is empty, compiled. Raises BundleRefused."""
        try:
            return ServingRules(self.layout.usecase.rules_of(text), self.layout)
        except (DefinitionsError, KeyError, ValueError) as exc:
            raise BundleRefused(str(exc)) from exc

    async def warm(self) -> None:
        """Rank for nobody until code, allocators, connections and pages are warm. Counts and logs nothing.

        The newest requests of the log are asked again; where there are none, made-up ones.
        """
        await asyncio.to_thread(self.items.refresh)
        queries = await asyncio.to_thread(recent_queries, self._shared.settings.kafka, self.usecase, WARM_ROUNDS)
        ranker = self._ranker(_Uncounted(), _Dropped())
        for query in [*queries, *self._made_up()][: 2 * WARM_ROUNDS]:
            with suppress(GatewayError):  # what was refused then is refused again
                await ranker.rank(query, 1.0)
        for model in self.in_force.models():
            model.health.forget()

    def _made_up(self) -> list[Query]:
        ids = self.items.popularity.item_ids[:WARM_ITEMS]
        asked = ids if len(ids) else np.arange(1, WARM_ITEMS + 1, dtype=np.uint64)
        return [
            Query(user_id=user_id, item_ids=item_ids, limit=0, context=RequestContext(0, 0, 0))
            for user_id in range(1, WARM_ROUNDS + 1)
            for item_ids in (asked, None)
        ]

    async def try_out(self, model: ActiveModel) -> None:
        """Score the last requests again, and the bundle's own rows, until the version is warm. Nothing is shown.

        Raises:
            Unavailable: with `bad_scores`; whatever else goes wrong is not the version's fault.
        """
        try:
            await tried_out(model, list(self._shadowing.recent))
        except Unavailable as exc:
            if exc.reason == "bad_scores":
                raise
            log.warning("a new version could not be tried", version=model.version, error=str(exc))

    async def close(self) -> None:
        """Stop reading, close the rows."""
        await asyncio.to_thread(self.readers.stop)
        await self._online.close()

    def _ranker(self, meter: Meter, impressions: ImpressionSink) -> Ranker:
        clock = Clock(time.monotonic, lambda: time.time_ns() // 1_000)
        admission = Admission(clock.monotonic, self._shared.lag.worst_s, self._shared.queue)
        ids = random.Random(secrets.randbits(128))  # noqa: S311  unique, not secret; asking the kernel each time waits
        steps: list[Step] = [
            ModelStep(self._shared.model_breaker),
            LocalStep(),
            PrecomputedStep(self._common.lists, self._common.list_breaker),
            PopularStep(),
        ]
        rows = Rows(OnlineRows(self._online, self._row_breaker), self.layout, meter, clock.monotonic, asyncio.sleep)
        return Ranker(
            allow_time=self._shared.settings.allow_request_time,
            layout=self.layout,
            rows=rows,
            items=self.items,
            ladder=Ladder(steps, admission, meter, clock.monotonic),
            choose=lambda query: self.in_force.choose(query),
            impressions=impressions,
            admission=admission,
            meter=meter,
            clock=clock,
            new_id=lambda: ids.getrandbits(64) or 1,  # 0 means absent
        )


class _Uncounted:
    """A `Meter` that counts nothing."""

    def rung_left(self, rung: Rung, reason: Reason) -> None:
        """Nothing."""

    def stage(self, name: str, seconds: float) -> None:
        """Nothing."""

    def row(self, outcome: str) -> None:
        """Nothing."""

    def candidates(self, source: str, found: int) -> None:
        """Nothing."""

    def source_failed(self, source: str) -> None:
        """Nothing."""

    def tied(self) -> None:
        """Nothing."""


class _Dropped:
    """An `ImpressionSink` that keeps nothing."""

    def offer(self, shown: Shown) -> None:
        """Nothing."""
