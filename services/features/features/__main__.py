"""The features process: `python -m features`."""

import ctypes
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from definitions.errors import DefinitionsError
from definitions.layout import Layout
from definitions.usecase import UseCase, find_usecase
from servicekit import kit as servicekit
from servicekit.errors import LogError
from servicekit.kafka import log_id, partitions_of
from servicekit.settings import EXIT_BAD_INPUT, load_settings
from servicekit.topics import item_features_topic
from stores.errors import StoreError
from stores.online import OnlineStore, open_online

from features.checkpoints import CheckpointFolder
from features.errors import FeaturesError
from features.evicted import Evicted
from features.kafka import KafkaItems, KafkaSource, owned_partitions
from features.kept import keep, revision_layout
from features.loop import FeatureLoop, Pace
from features.metrics import FeatureMetrics
from features.owned import Owned
from features.partition import KINDS, PartitionState
from features.settings import Settings

EXIT_ENVIRONMENT = 3  # a restart may help

# Kernels give the GIL back, and would wait the usual 5 ms for it whenever another thread is in Python.
_SWITCH_S: Final = 0.0005
# glibc's mallopt: columns of a batch would come from the kernel and go back each time, zeroed page by page (a fifth of
# the process's time at a million events a second).
_MMAP_THRESHOLD, _TRIM_THRESHOLD, _ARENA_MAX = -3, -1, -8
_MALLOC: Final = {_MMAP_THRESHOLD: 32 << 20, _TRIM_THRESHOLD: 1 << 30, _ARENA_MAX: 2}


def main() -> int:
    """Settings, defaults, wiring, serve, drain."""
    settings = load_settings(Settings)
    sys.setswitchinterval(_SWITCH_S)
    if tune := getattr(ctypes.CDLL(None), "mallopt", None):  # another libc has its own ways
        for name, value in _MALLOC.items():
            tune(name, value)
    try:
        usecases = [find_usecase(name, settings.usecase_dir) for name in settings.usecases]
    except DefinitionsError as exc:
        sys.stderr.write(f"MILLRACE_USECASES: {exc}\n")
        return EXIT_BAD_INPUT
    with servicekit.start("features", settings) as kit:
        kit.ready.expect("replayed")
        try:
            return serve(kit, settings, usecases)
        except (DefinitionsError, FeaturesError, LogError, StoreError) as exc:
            kit.log.error("stopped", error=str(exc), kind=type(exc).__name__)
            return EXIT_ENVIRONMENT


def serve(kit: servicekit.Kit, settings: Settings, usecases: Sequence[UseCase]) -> int:
    """Build the clients, run the loop until a stop is asked for, save everything."""
    identity = settings.log_id or log_id(settings.kafka)
    owned: list[Owned] = []
    stores: list[OnlineStore] = []
    layouts: dict[Path, Layout] = {}
    for usecase in usecases:
        name = usecase.name
        root = settings.checkpoints / identity / f"{name}.{settings.revision}"
        layout = layouts[root] = revision_layout(root, usecase, settings.revision)
        store = open_online(name, layout.revision, valkey=settings.valkey, lmdb_path=settings.online_path)
        stores.append(store)
        for partition in owned_partitions(settings.kafka, name, settings.replica, settings.replicas):
            folder = CheckpointFolder(root / str(partition))
            state = PartitionState(layout, partition, Evicted(folder.root, name, layout.revision))
            owned.append(Owned(name, state, folder, store))
    for each in owned:
        each.most_bytes = int(settings.user_state_mib * (1 << 20)) // len(owned)
    metrics = FeatureMetrics(kit.registry)
    source = KafkaSource(
        settings.kafka,
        [each.place(kind) for each in owned for kind in KINDS],
        settings.fetch_wait_ms,
        on_fallback=lambda reason: metrics.fallbacks.labels(reason).inc(),
    )
    items = KafkaItems(
        settings.kafka,
        {
            usecase.name: partitions_of(settings.kafka, item_features_topic(usecase.name, settings.revision))
            for usecase in usecases
        },
        settings.revision,
    )

    def ready(is_ready: bool) -> None:
        while is_ready and layouts:  # only now is it known that the state can be continued under them
            keep(*layouts.popitem())
        kit.ready.set("replayed", is_ready)

    loop = FeatureLoop(
        owned,
        source,
        items,
        metrics,
        pace=Pace(checkpoint_s=settings.checkpoint_s),
        on_ready=ready,
    )
    kit.post("/flush", lambda: {"offsets": loop.request_checkpoint()})
    try:
        loop.run(kit.stop)  # ends with a last emission and checkpoint
        kit.drain(settings.drain_s)
    finally:
        items.close()
        source.close()
        for store in stores:
            store.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
