"""What the gateway reads, for batch jobs: the item topics, the online rows, the pinned bundle."""

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
    """The bundle that serves a use case, and the revision of the rows that it reads."""

    bundle: Bundle
    revision: int


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
    return Pinned(load_bundle(bundles / pin.name / str(pin.version), digest=pin.digest), pin.revision)


def item_snapshot(bootstrap: str, layout: Layout) -> ItemSnapshot:
    """The catalogue and all item aggregates up to the end of both topics as it is now.

    Raises:
        UnavailableError: Kafka does not answer, or the topics are not read to their end in time.
    """
    snapshot = ItemSnapshot(layout)
    usecase = layout.usecase.name

    feed = ItemFeed(snapshot)

    def features(_partition: int, _offset: int, key: bytes | None, value: bytes | None) -> None:
        feed.take_features(key, value)

    def item(partition: int, offset: int, key: bytes | None, value: bytes | None) -> None:
        feed.take_item(partition, offset, key, value)

    readers = [
        kafka.TopicReader(bootstrap, topics.topic(usecase, "items"), item),
        kafka.TopicReader(bootstrap, topics.topic(usecase, "item-features"), features),
    ]
    try:
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.wait_caught_up(READ_S)
    except LogError as exc:
        raise UnavailableError(f"item topics: {exc}") from exc
    finally:
        for reader in readers:
            reader.stop()
    return snapshot
