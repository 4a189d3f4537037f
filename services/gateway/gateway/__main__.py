"""The gateway process: settings, defaults, wiring, serve, drain."""

import gateway.one_thread  # noqa: F401, I001  before anything loads numpy

import asyncio
import gc
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Final

import grpc.aio
import uvloop
from bundle import SignatureError, Trust
from definitions.errors import DefinitionsError
from definitions.layout import Layout, layout_of
from definitions.usecase import find_usecase
from millrace.ranking.v1 import ranking_pb2_grpc
from servicekit.backlog import Backlog
from servicekit.grpc_server import PUSH_BACK_MS, serve
from servicekit.kit import Budget, Kit, start
from servicekit.processes import port_is_taken, supervise
from servicekit.security.errors import Shed
from servicekit.settings import EXIT_BAD_INPUT, load_settings
from stores.errors import StoreError

from gateway.admission import LoopLag, Queue, shed_unread
from gateway.breaker import Breaker
from gateway.bundles import BundleLoader, InProcess, InTriton, MakeScorer
from gateway.decisions import Decisions, DecisionsReader
from gateway.errors import BadModel, BundleRefused, ImpressionTooLarge
from gateway.guard import Announcer, Guard
from gateway.explaining import Explaining
from gateway.impression_process import ImpressionProcess
from gateway.impressions import check_largest
from gateway.local_model import Worker
from gateway.metrics import Metrics
from gateway.servicer import SERVICE, RankingServicer
from gateway.query import Rung
from gateway.ranking import Ranker
from gateway.serving import BUSY_S, Common, Serving, Shared
from gateway.settings import Settings
from gateway.switch import Switch
from gateway.triton import TritonClient

_POLL_S: Final = 0.02
# How long another thread (Kafka's, the impressions') may keep the interpreter while a request waits for it. Python's
# 5 ms, met several times a request, gave p99 97 and 110 ms at 100 requests/s on 2 cores; 0.5 ms gave 54 and 25 in the
# same quarter of an hour (runs of 25 s, after one to warm up).
SWITCH_INTERVAL_S: Final = 0.0005
# All often, so that no pass is long: of the young .6 ms, at most 2.2, six a second at 300 requests/s; 10,000 at a time
# took 13 to 18 ms every four seconds, for the same sum. Those that outlive it soon too: clients of Kafka and Cassandra
# leave cycles by the thousand, and after a thousand passes the next one took .3 s.
GC_THRESHOLDS: Final = (1_000, 3, 50)
EXIT_ENVIRONMENT: Final = 3  # a restart may help
_ORPHANS_S: Final = 2.0  # of the drain: calls to Triton that nobody waits for, so that closing cancels none


def main() -> int:
    """Run until SIGTERM. Exit codes: 0 drained, 2 bad settings or use case, 3 a taken port or an unreadable log."""
    settings = load_settings(Settings)
    try:
        usecases = [find_usecase(name, settings.usecase_dir) for name in settings.usecases]
        layouts = [layout_of(usecase, settings.revision) for usecase in usecases]
        for layout in layouts:
            check_largest(layout)
    except (DefinitionsError, ImpressionTooLarge) as exc:
        sys.stderr.write(f"MILLRACE_USECASES: {exc}\n")
        return EXIT_BAD_INPUT
    try:
        _trust(settings)  # asked again at each pin; a missing key is found at start
    except SignatureError as exc:
        sys.stderr.write(f"MILLRACE_TRUSTED_KEYS: {exc}\n")
        return EXIT_BAD_INPUT
    if settings.gateway_processes > 1:
        return _supervise(settings)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    with start("gateway", settings) as kit:
        return uvloop.run(_run(kit, settings, layouts))


def _supervise(settings: Settings) -> int:
    """The same command once more for each process; this one answers for their readiness, and serves nothing."""
    if port_is_taken(settings.bind, settings.grpc_port):
        sys.stderr.write(f"gRPC port {settings.grpc_port}: is taken; free it or set MILLRACE_PORT_OFFSET\n")
        return EXIT_ENVIRONMENT
    with start("gateway", settings) as kit:
        return supervise(kit, [sys.executable, "-m", "gateway"], settings.environments(), settings.drain_s)


def _trust(settings: Settings) -> Trust:
    return Trust.read(settings.trusted_keys, required=settings.env == "production")


async def _run(kit: Kit, settings: Settings, layouts: list[Layout]) -> int:
    try:
        return await Gateway(kit, settings, layouts).run()
    except StoreError as exc:  # LMDB's folder cannot be opened
        kit.log.error("stopped", error=str(exc), kind=type(exc).__name__)
        return EXIT_ENVIRONMENT


class Gateway:
    """The process's parts and their order. Made inside the event loop."""

    def __init__(self, kit: Kit, settings: Settings, layouts: list[Layout]) -> None:
        self._kit = kit
        self._settings = settings
        self._failed = False
        self._metrics, self._worker = Metrics(kit.registry), Worker()
        self._backlog, self._queue = Backlog(), Queue(time.monotonic)
        self._lag = LoopLag(self._backlog.look)
        self._triton: TritonClient | None = None
        make_scorer: MakeScorer = InProcess(self._worker)
        if settings.triton is not None:
            self._triton = triton = TritonClient(settings.triton, on_orphan=self._metrics.orphans.inc)
            make_scorer = InTriton(triton, pad_rows=settings.triton_pad_rows)
            self._watch("triton_in_flight", "Calls to Triton under way, orphans included.", lambda: triton.in_flight)
        self._watch("loop_lag_seconds", "Worst delay of the event loop in the last second.", self._lag.worst_s)
        self._rankers: dict[str, Ranker] = {}
        self._writer = ImpressionProcess.of(
            settings.kafka,
            [layout.usecase.name for layout in layouts],
            settings.log_level,
            self._metrics.impressions.labels("lost").inc,
        )
        shared = Shared(settings, self._metrics, self._lag, self._queue, self._writer, Breaker(time.monotonic))
        self._layouts = layouts
        self._commons = [Common(layout.usecase, source, shared) for source, layout in enumerate(layouts)]
        self._switches = {
            layout.usecase.name: self._switch(layout, common, shared, make_scorer)
            for layout, common in zip(layouts, self._commons, strict=True)
        }
        self._explaining = {
            layout.usecase.name: Explaining(
                common.recent,
                partial(self._rankers.__getitem__, layout.usecase.name),
                lambda: self._lag.worst_s() > BUSY_S,
            )
            for layout, common in zip(layouts, self._commons, strict=True)
        }
        decisions = Decisions(
            self._switches, lambda *labels: self._metrics.bundles.labels(*labels).inc(), self._refused_as_bad
        )
        self._decisions = DecisionsReader(decisions, settings.kafka, self._fail)
        for name, switch in self._switches.items():
            self._metrics.quality(name, partial(_quality, switch))
        self._guards = {name: self._guard(name, switch, decisions) for name, switch in self._switches.items()}
        self._loop = asyncio.get_running_loop()

    def _switch(self, layout: Layout, common: Common, shared: Shared, make_scorer: MakeScorer) -> Switch:
        name, settings = layout.usecase.name, self._settings
        return Switch(
            name,
            load=BundleLoader(settings.bundles, layout.usecase, make_scorer, self._worker, lambda: _trust(settings)),
            make=lambda wanted, failed: Serving(wanted, common, shared, failed),
            rankers=self._rankers,
            stopping=self._kit.stop.is_set,
            fail=self._fail,
            tell=partial(self._metrics.layout, name),
            linger_s=settings.rank_ceiling_s,
        )

    def _guard(self, usecase: str, switch: Switch, decisions: Decisions) -> Guard:
        return Guard(
            usecase,
            in_force=lambda: switch.in_force,
            newest=partial(decisions.newest, usecase),
            announce=Announcer(self._settings.kafka),
            count=lambda outcome: self._metrics.guardrails.labels(usecase, outcome).inc(),
        )

    def _refused_as_bad(self, usecase: str, bad: BadModel) -> None:
        """A pin that scored badly when it was tried must not be pinned: told by the decisions' thread."""
        guard = self._guards[usecase]
        asyncio.run_coroutine_threadsafe(guard.take_back(bad.name, bad.version, str(bad)), self._loop)

    async def run(self) -> int:
        """Read the log to its end, warm up, serve until asked to stop, drain. Returns the exit code."""
        kit, settings = self._kit, self._settings
        kit.ready.expect("decisions", "warm", "listening")
        self._lag.start()
        self._writer.start()
        self._decisions.start()
        watching = [asyncio.create_task(guard.run()) for guard in self._guards.values()]
        budget = Budget(settings.drain_s)
        try:
            if await self._read_and_warm():
                servicer = RankingServicer(
                    self._rankers,
                    ceiling_s=settings.rank_ceiling_s,
                    metrics=self._metrics,
                    explaining=self._explaining,
                )
                budget = await serve(
                    kit,
                    lambda server: _register(servicer, server),
                    settings.grpc_port,
                    drain_s=settings.drain_s,
                    on_listening=lambda _: kit.ready.set("listening", holds=True),
                    shed=self._shed,
                    backlog=self._backlog,
                )
        except OSError as exc:  # the port is taken
            self._fail(exc)
        for task in watching:
            task.cancel()
        await self._close(budget)
        return EXIT_ENVIRONMENT if self._failed else 0

    async def _read_and_warm(self) -> bool:
        """Whether to serve; False if the process was asked to stop first. Waits for the log, never for Triton."""
        ready = self._kit.ready
        while not self._decisions.caught_up:  # what is pinned has its items in memory, and is warm
            if self._kit.stop.is_set():
                return False
            await asyncio.sleep(_POLL_S)
        ready.set("decisions", holds=True)
        for layout in self._layouts:
            try:
                await self._switches[layout.usecase.name].begin(layout)
            except BundleRefused as exc:
                if not self._kit.stop.is_set():
                    self._fail(exc)
                return False
        gc.collect()
        gc.freeze()  # what lives for ever is not walked again: a full collection took longer than a request
        gc.set_threshold(*GC_THRESHOLDS)
        ready.set("warm", holds=True)
        return not self._kit.stop.is_set()

    async def _close(self, budget: Budget) -> None:
        """Stop reading, flush impressions, let the calls to Triton end, all within what is left of the drain."""
        await asyncio.to_thread(self._decisions.stop)
        for switch in self._switches.values():
            await switch.close()
        for explaining in self._explaining.values():
            explaining.close()
        await asyncio.to_thread(self._writer.close, budget.left_s())
        for common in self._commons:
            common.close()
        if self._triton is not None:
            await self._triton.close(min(_ORPHANS_S, budget.left_s()))
        self._worker.close()
        self._lag.stop()

    def _shed(self, rpc: str, left_s: float | None) -> None:
        """Before a call is parsed. Raises Shed."""
        if not rpc.startswith(f"/{SERVICE}/"):
            return
        self._queue.taken(self._backlog.waited_s)
        self._metrics.stage("queue", self._backlog.waited_s)
        left_s = self._settings.rank_ceiling_s if left_s is None else left_s
        if why := shed_unread(self._queue, left_s, self._lag.worst_s):
            raise Shed("overloaded", why, PUSH_BACK_MS / 1_000)

    def _fail(self, exc: Exception) -> None:
        """What the answers depend on has ended: so do we, and the supervisor's restart reads the log anew."""
        self._failed = True
        self._kit.request_stop(f"{type(exc).__name__}: {exc}")

    def _watch(self, name: str, text: str, value: Callable[[], float]) -> None:
        self._metrics.watch(self._kit.registry, name, text, value)


def _quality(switch: Switch, rung: Rung) -> float | None:
    """What the bundle that is pinned says of a rung."""
    in_force = switch.in_force
    return None if in_force is None or in_force.pin is None else in_force.pin.rungs.get(rung.value)


def _register(servicer: RankingServicer, server: grpc.aio.Server) -> list[str]:
    ranking_pb2_grpc.add_RankingServiceServicer_to_server(servicer, server)
    return [SERVICE]


if __name__ == "__main__":
    sys.exit(main())
