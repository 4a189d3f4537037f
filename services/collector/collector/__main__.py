"""The collector's process: settings, defaults, wiring, serve, drain."""

import asyncio
import functools
import sys

import grpc.aio
import uvloop
from definitions.errors import UseCaseError
from definitions.usecase import UseCase, find_usecase
from millrace.collector.v1 import collector_pb2_grpc
from servicekit.errors import LogError
from servicekit.grpc_server import serve
from servicekit.kit import Budget, Kit, start
from servicekit.settings import load_settings
from servicekit.topics import topic

from collector.catalogue import Catalogue
from collector.collecting import Collector
from collector.kafka_log import KafkaLog
from collector.metrics import Metrics
from collector.readers import CatalogueReaders
from collector.servicer import SERVICE, CollectorServicer
from collector.settings import Settings

EXIT_BAD_INPUT = 2
EXIT_ENVIRONMENT = 3
PROBE_EVERY_S = 1.0
CLEAN_UP_S = 1.0  # where the start failed before there was a drain budget


def main() -> int:
    """Run until a signal. 0: drained; 2: a use case is wrong; 3: no broker, a taken port, or a topic that is gone."""
    settings = load_settings(Settings)
    with start("collector", settings) as kit:
        kit.ready.expect("catalogue", "log")
        try:
            usecases = [find_usecase(name, settings.usecase_dir) for name in settings.usecases]
            return collect(kit, settings, usecases)
        except UseCaseError as exc:
            kit.log.error("cannot start", error=str(exc))
            return EXIT_BAD_INPUT
        except (LogError, OSError) as exc:
            kit.log.error("cannot run", error=str(exc))
            return EXIT_ENVIRONMENT


def collect(kit: Kit, settings: Settings, usecases: list[UseCase]) -> int:
    """Wire, read the catalogue to its end, serve, drain."""
    metrics = Metrics(kit.registry)
    catalogues = {usecase.name: (usecase, Catalogue(usecase)) for usecase in usecases}
    for name, (_, catalogue) in catalogues.items():
        metrics.items(name, catalogue.__len__)
    failures: list[Exception] = []

    def on_failure(exc: Exception) -> None:
        failures.append(exc)  # a catalogue that stands still would stamp wrong categories: end, and start again
        kit.request_stop(f"catalogue: {exc}")

    log = KafkaLog(
        settings.kafka,
        metrics,
        linger_ms=settings.linger_ms,
        delivery_timeout_s=settings.delivery_timeout_s,
        max_in_flight=settings.max_in_flight,
        connect_s=settings.connect_s,
        on_state=lambda is_up: kit.ready.set("log", is_up),
    )
    readers = CatalogueReaders(settings.kafka, catalogues, on_failure)
    readers.start()
    servicer = CollectorServicer(Collector(catalogues, log), metrics, settings.publish_ceiling_s)
    budget = Budget(CLEAN_UP_S)
    try:
        while not readers.caught_up() and not kit.stop.wait(0.02):
            pass
        kit.ready.set("catalogue", readers.caught_up())
        budget = uvloop.run(_serve(kit, settings, servicer, log, topic(usecases[0].name, "interactions")))
    finally:
        readers.stop(min(CLEAN_UP_S, budget.left_s()))
        log.close(budget.left_s())
    kit.log.info("stopped", left_s=round(budget.left_s(), 3))
    return EXIT_ENVIRONMENT if failures else 0


async def _serve(kit: Kit, settings: Settings, servicer: CollectorServicer, log: KafkaLog, probed: str) -> Budget:
    prober = asyncio.create_task(_probe(log, probed))
    try:
        return await serve(kit, functools.partial(_register, servicer), settings.grpc_port, drain_s=settings.drain_s)
    finally:
        prober.cancel()


def _register(servicer: CollectorServicer, server: grpc.aio.Server) -> list[str]:
    collector_pb2_grpc.add_CollectorServiceServicer_to_server(servicer, server)
    return [SERVICE]


async def _probe(log: KafkaLog, name: str) -> None:
    """Notice without traffic that the log is away, and that it is back: while it is, this process gets none."""
    while True:
        await asyncio.sleep(PROBE_EVERY_S)
        log.watch()
        if not log.is_up:
            await log.probe(name)


if __name__ == "__main__":
    sys.exit(main())
