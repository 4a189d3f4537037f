"""One use case, wired: its catalogue, rows, lists, ladder and impressions behind one `Ranker`."""

import asyncio
import random
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
import structlog
from definitions.assembly import RequestContext
from definitions.item_snapshot import ItemSnapshot
from definitions.layout import Layout
from stores.batch import open_batch
from stores.online import open_online_reader

from gateway.admission import Admission, LoopLag
from gateway.breaker import Breaker
from gateway.errors import Reason
from gateway.impression_log import ImpressionLog
from gateway.impressions import Impressions
from gateway.items import CatalogueItems, CatalogueReaders
from gateway.ladder import Ladder, LocalStep, Meter, ModelStep, PopularStep, PrecomputedStep, Step
from gateway.metrics import Metrics
from gateway.model import ActiveModel
from gateway.online import OnlineRows
from gateway.precomputed import PrecomputedLists
from gateway.query import Query, Rung, Shown
from gateway.ranking import Clock, ImpressionSink, Ranker, Rules
from gateway.rerank import MaxShare
from gateway.rows import Rows
from gateway.settings import Settings

log: structlog.stdlib.BoundLogger = structlog.get_logger("gateway")

WARM_ROUNDS: Final = 50
WARM_ITEMS: Final = 100
_LOG_EVERY_S: Final = 5.0


@dataclass(frozen=True)
class Shared:
    """What all use cases of the process share."""

    settings: Settings
    metrics: Metrics
    lag: LoopLag
    model_breaker: Breaker
    active: Callable[[str], ActiveModel | None]
    on_failure: Callable[[Exception], None]


class Serving:
    """One use case's parts. Made on the event loop; `start` begins to read, `close` flushes."""

    def __init__(self, layout: Layout, shared: Shared) -> None:
        usecase, settings, metrics = layout.usecase, shared.settings, shared.metrics
        name = usecase.name
        self.usecase = name
        self.layout = layout
        self.items = CatalogueItems(
            ItemSnapshot(self.layout), lambda name, outcome, n: metrics.records.labels(name, outcome).inc(n)
        )
        self.readers = CatalogueReaders(self.items, settings.kafka, name, layout.revision, shared.on_failure)
        self._online = open_online_reader(
            name, self.layout.revision, valkey=settings.valkey, lmdb_path=settings.online_path
        )
        self._lists = PrecomputedLists(
            open_batch(settings.cassandra, settings.batch_path, wait_for_connection=False), name
        )
        self._impressions = Impressions(
            ImpressionLog(settings.kafka, name),
            self.layout,
            usecase=name,
            share=usecase.impressions.full_features,
            count=lambda outcome: metrics.impressions.labels(outcome).inc(),
            on_error=_Throttled("impression lost", name),
        )
        self._rules = Rules(
            usecase=name,
            candidates=usecase.candidates.limit,
            max_shares=tuple(
                MaxShare(layout.item.codes[rule.max_share.by].start, rule.max_share.share) for rule in usecase.rerank
            ),
            allow_time=settings.allow_request_time,
        )
        self._shared = shared
        self._row_breaker, self._list_breaker = Breaker(time.monotonic), Breaker(time.monotonic)
        self.ranker = self._ranker(metrics, self._impressions)

    def start(self) -> None:
        """Begin to read the log."""
        self.readers.start()
        self._impressions.start()

    async def warm(self) -> None:
        """Rank for nobody until code, allocators, connections and pages are warm. Counts and logs nothing."""
        self.items.refresh()
        ranker = self._ranker(_Uncounted(), _Dropped())
        ids = self.items.popularity.item_ids[:WARM_ITEMS]
        asked = ids if len(ids) else np.arange(1, WARM_ITEMS + 1, dtype=np.uint64)
        for round_ in range(1, WARM_ROUNDS + 1):
            for item_ids in (asked, None):
                query = Query(user_id=round_, item_ids=item_ids, limit=0, context=RequestContext(0, 0, 0))
                await ranker.rank(query, 1.0)

    async def close(self, budget_s: float) -> None:
        """Stop reading, flush the impressions, close the stores."""
        await asyncio.to_thread(self.readers.stop)
        await asyncio.to_thread(self._impressions.close, budget_s)
        self._lists.close()
        await self._online.close()

    def _ranker(self, meter: Meter, impressions: ImpressionSink) -> Ranker:
        clock = Clock(time.monotonic, lambda: time.time_ns() // 1_000)
        admission = Admission(clock.monotonic, self._shared.lag.worst_s)
        ids = random.Random(secrets.randbits(128))  # noqa: S311  unique, not secret; asking the kernel each time waits
        steps: list[Step] = [
            ModelStep(self._shared.model_breaker),
            LocalStep(),
            PrecomputedStep(self._lists, self._list_breaker),
            PopularStep(),
        ]
        rows = Rows(OnlineRows(self._online, self._row_breaker), self.layout, meter, clock.monotonic, asyncio.sleep)
        return Ranker(
            rules=self._rules,
            layout=self.layout,
            rows=rows,
            items=self.items,
            ladder=Ladder(steps, admission, meter, clock.monotonic),
            active=partial(self._shared.active, self.usecase),
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

    def tied(self) -> None:
        """Nothing."""


class _Dropped:
    """An `ImpressionSink` that keeps nothing."""

    def offer(self, shown: Shown) -> None:
        """Nothing."""


class _Throttled:
    """Logs one line every few seconds however often it is called: a dead Kafka must not fill the disk with lines."""

    def __init__(self, event: str, usecase: str) -> None:
        self._event = event
        self._usecase = usecase
        self._next = 0.0
        self._silent = 0

    def __call__(self, exc: BaseException) -> None:
        now = time.monotonic()
        if now < self._next:
            self._silent += 1
            return
        log.warning(self._event, usecase=self._usecase, error=str(exc), more=self._silent)
        self._next, self._silent = now + _LOG_EVERY_S, 0
