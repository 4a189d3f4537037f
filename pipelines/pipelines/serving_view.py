"""What the gateway reads, for batch jobs: the item topics, the online rows, the pinned bundle."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bundle import Bundle, load_bundle
from definitions.item_feed import ItemFeed
from definitions.item_snapshot import ItemSnapshot
from definitions.layout import Layout
from servicekit import kafka, topics
from servicekit.errors import LogError

from pipelines import decisions
from pipelines.errors import BadInputError, UnavailableError

READ_S = 120.0


@dataclass(frozen=True, slots=True)
class Pinned:
    """The bundle that serves a use case, the revision of the rows that it reads, and the decided `rules`: JSON, empty
    where the use case's own are in force.
    """

    bundle: Bundle
    revision: int
    rules: str


def pinned(bootstrap: str, usecase: str, bundles: Path) -> Pinned:
    """The bundle that the newest decision pins, verified by its digest.

    Raises:
        BadInputError: nothing is deployed.
        UnavailableError: Kafka does not answer.
        bundle.BundleError: the bundle is not the pinned one.
    """
    state = decisions.serving_state(bootstrap, usecase)
    if not state.HasField("pin"):
        raise BadInputError(f"{usecase}: no model is deployed; train and deploy one first: millrace train")
    pin = state.pin
    return Pinned(load_bundle(bundles / pin.name / str(pin.version), digest=pin.digest), pin.revision, state.rules)


class FollowedItems:
    """The catalogue and all item aggregates, kept up to the log by two threads until `stop`. Thread-safe."""

    def __init__(self, bootstrap: str, layout: Layout) -> None:
        """Begins to read; `snapshot` waits."""
        self._snapshot = ItemSnapshot(layout)
        feed = ItemFeed(self._snapshot)

        def features(_partition: int, records: Sequence[kafka.Record]) -> None:
            feed.take_features(records)

        def items(partition: int, records: Sequence[kafka.Record]) -> None:
            feed.take_items(partition, records)

        usecase = layout.usecase.name
        self._readers = [
            kafka.BatchReader(bootstrap, topics.topic(usecase, "items"), items),
            kafka.BatchReader(bootstrap, topics.item_features_topic(usecase, layout.revision), features),
        ]
        for reader in self._readers:
            reader.start()

    def snapshot(self) -> ItemSnapshot:
        """What was on the log when reading began, and what came since.

        Raises:
            UnavailableError: Kafka does not answer, or the topics are not read to their end in time.
        """
        try:
            for reader in self._readers:
                reader.wait_caught_up(READ_S)
                if reader.failed is not None:
                    raise UnavailableError(f"item topics: {reader.failed}") from reader.failed
        except LogError as exc:
            raise UnavailableError(f"item topics: {exc}") from exc
        return self._snapshot

    def stop(self) -> None:
        """End the threads."""
        for reader in self._readers:
            reader.stop()


def item_snapshot(bootstrap: str, layout: Layout) -> ItemSnapshot:
    """The catalogue and all item aggregates up to the end of both topics as it is now.

    Raises:
        UnavailableError: Kafka does not answer, or the topics are not read to their end in time.
    """
    items = FollowedItems(bootstrap, layout)
    try:
        return items.snapshot()
    finally:
        items.stop()
