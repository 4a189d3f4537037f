"""The gateway process: settings, defaults, wiring, serve, drain."""

import gateway.one_thread  # noqa: F401, I001  before anything loads numpy

import asyncio
import gc
import sys
import time
from typing import Final

import grpc.aio
import uvloop
from definitions.errors import DefinitionsError
from definitions.layout import layout_of
from definitions.usecase import UseCase, find_usecase
from millrace.ranking.v1 import ranking_pb2_grpc
from servicekit.grpc_server import serve
from servicekit.kit import Kit, start
from servicekit.settings import EXIT_BAD_INPUT, load_settings

from gateway.admission import LoopLag
from gateway.breaker import Breaker
from gateway.bundles import BundleLoader, InProcess, InTriton
from gateway.decisions import Decisions, DecisionsReader
from gateway.errors import ImpressionTooLarge
from gateway.impressions import check_largest
from gateway.local_model import Worker
from gateway.metrics import Metrics
from gateway.servicer import SERVICE, RankingServicer
from gateway.serving import Serving, Shared
from gateway.settings import Settings
from gateway.triton import TritonClient

_POLL_S: Final = 0.02
_ORPHANS_S: Final = 2.0  # of the drain: calls to Triton that nobody waits for, so that closing cancels none


def main() -> int:
    """Run until SIGTERM. Exit codes: 0 drained, 1 the log could not be followed, 2 bad settings or use case."""
    settings = load_settings(Settings)
    try:
        usecases = [find_usecase(name, settings.usecase_dir) for name in settings.usecases]
        for usecase in usecases:
            check_largest(layout_of(usecase))
    except (DefinitionsError, ImpressionTooLarge) as exc:
        sys.stderr.write(f"MILLRACE_USECASES: {exc}\n")
        return EXIT_BAD_INPUT
    with start("gateway", settings) as kit:
        return uvloop.run(Gateway(kit, settings, usecases).run())


class Gateway:
    """The process's parts and their order."""

    def __init__(self, kit: Kit, settings: Settings, usecases: list[UseCase]) -> None:
        self._kit = kit
        self._settings = settings
        self._usecases = usecases
        self._failed = False

    async def run(self) -> int:
        """Wire, read the log to its end, warm up, serve, drain."""
        kit, settings = self._kit, self._settings
        kit.ready.expect("items", "decisions", "warm", "listening")
        metrics, lag, worker = Metrics(kit.registry), LoopLag(), Worker()
        triton = None
        if settings.triton is not None:
            triton = TritonClient(settings.triton, on_orphan=metrics.orphans.inc)
            metrics.watch(kit.registry, "triton_in_flight", "Calls to Triton under way.", lambda: triton.in_flight)
        scorers = InProcess(worker) if triton is None else InTriton(triton)
        layouts = {usecase.name: layout_of(usecase, settings.revision) for usecase in self._usecases}
        loaders = {
            name: BundleLoader(settings.bundles, name, layout, scorers, worker) for name, layout in layouts.items()
        }
        decisions = Decisions(loaders, lambda *labels: metrics.bundles.labels(*labels).inc())
        reader = DecisionsReader(decisions, settings.kafka, self._fail)
        shared = Shared(settings, metrics, lag, Breaker(time.monotonic), decisions.active, self._fail)
        servings = {usecase.name: Serving(usecase, layouts[usecase.name], shared) for usecase in self._usecases}
        metrics.watch(
            kit.registry, "loop_lag_seconds", "Worst delay of the event loop in the last second.", lag.worst_s
        )

        lag.start()
        reader.start()
        for serving in servings.values():
            serving.start()
        budget_s = settings.drain_s
        if await self._read_and_warm(reader, list(servings.values())):
            rankers = {name: serving.ranker for name, serving in servings.items()}
            servicer = RankingServicer(rankers, ceiling_s=settings.rank_ceiling_s, metrics=metrics)
            budget = await serve(
                kit,
                lambda server: _register(servicer, server),
                settings.grpc_port,
                drain_s=settings.drain_s,
                on_listening=lambda _: kit.ready.set("listening", holds=True),
            )
            budget_s = budget.left_s()
        ends = time.monotonic() + budget_s
        reader.stop()
        for serving in servings.values():
            await serving.close(max(0.0, ends - time.monotonic()))
        if triton is not None:
            await triton.close(min(_ORPHANS_S, max(0.0, ends - time.monotonic())))
        worker.close()
        lag.stop()
        return 1 if self._failed else 0

    async def _read_and_warm(self, reader: DecisionsReader, servings: list[Serving]) -> bool:
        """Whether to serve; False if the process was asked to stop first. Waits for the log, never for Triton."""
        ready = self._kit.ready
        while not (reader.caught_up and all(serving.readers.caught_up for serving in servings)):
            ready.set("decisions", holds=reader.caught_up)
            ready.set("items", holds=all(serving.readers.caught_up for serving in servings))
            if self._kit.stop.is_set():
                return False
            await asyncio.sleep(_POLL_S)
        ready.set("decisions", holds=True)
        ready.set("items", holds=True)
        for serving in servings:
            await serving.warm()
        gc.collect()
        gc.freeze()  # what lives for ever is not walked again: a full collection took longer than a request
        ready.set("warm", holds=True)
        return not self._kit.stop.is_set()

    def _fail(self, exc: Exception) -> None:
        """A thread that the answers depend on has ended: so do we, and the supervisor's restart reads the log anew."""
        self._failed = True
        self._kit.request_stop(f"{type(exc).__name__}: {exc}")


def _register(servicer: RankingServicer, server: grpc.aio.Server) -> list[str]:
    ranking_pb2_grpc.add_RankingServiceServicer_to_server(servicer, server)
    return [SERVICE]


if __name__ == "__main__":
    sys.exit(main())
