"""The archiver process: `python -m archiver`."""

import sys
from collections.abc import Sequence

from definitions.errors import DefinitionsError
from definitions.usecase import UseCase, find_usecase
from servicekit import kit as servicekit
from servicekit.errors import LogError
from servicekit.kafka import log_id
from servicekit.settings import EXIT_BAD_INPUT, load_settings
from stores.errors import StoreError
from stores.offline import Lake

from archiver.errors import ArchiverError
from archiver.kafka import KafkaDeadLetters, KafkaSource
from archiver.loop import Archiver
from archiver.metrics import Metrics
from archiver.settings import Settings
from archiver.streams import streams

EXIT_ENVIRONMENT = 3  # a restart may help


def main() -> int:
    """Settings, defaults, wiring, serve, drain."""
    settings = load_settings(Settings)
    try:
        usecases = [find_usecase(name, settings.usecase_dir) for name in settings.usecases]
    except DefinitionsError as exc:
        sys.stderr.write(f"MILLRACE_USECASES: {exc}\n")
        return EXIT_BAD_INPUT
    with servicekit.start("archiver", settings) as kit:
        kit.ready.expect("log", "lake")
        try:
            return serve(kit, settings, usecases)
        except (ArchiverError, LogError, StoreError) as exc:
            kit.log.error("stopped", error=str(exc), kind=type(exc).__name__)
            return EXIT_ENVIRONMENT


def serve(kit: servicekit.Kit, settings: Settings, usecases: Sequence[UseCase]) -> int:
    """Build the clients, archive until a stop is asked for, write what was read."""
    identity = settings.log_id or log_id(settings.kafka)
    found = streams(usecases, identity, lambda usecase: Lake(settings.lake, usecase))
    metrics = Metrics(kit.registry)
    source = KafkaSource(
        settings.kafka,
        [stream.topic for stream in found],
        settings.replica,
        settings.replicas,
        on_fallback=lambda reason: metrics.fallbacks.labels(reason).inc(),
    )
    dead_letters = KafkaDeadLetters(settings.kafka)
    archiver = Archiver(
        found,
        source,
        dead_letters,
        ready=kit.ready,
        metrics=metrics,
        commit_s=settings.commit_s,
        buffer_bytes=settings.buffer_bytes,
        accept_loss=settings.accept_loss,
    )
    kit.post("/flush", archiver.flush)
    kit.on_stop(kit.ready.close)
    try:
        archiver.run(kit.stop)  # ends with a last commit
    finally:
        budget = kit.drain(settings.drain_s)
        dead_letters.close()
        source.close()
        kit.log.info("stopped", left_s=round(budget.left_s(), 3))
    return 0


if __name__ == "__main__":
    sys.exit(main())
