"""Keeps each catalogue as the topics `items` and `users` say, from their beginnings on."""

import time
from collections.abc import Callable, Mapping

import structlog
from definitions.records import BadRecord, LogRecord, decode_items, decode_users
from definitions.usecase import UseCase
from servicekit.kafka import TopicReader
from servicekit.topics import topic

from collector.catalogue import Catalogue

log: structlog.stdlib.BoundLogger = structlog.get_logger("collector.readers")


class CatalogueReaders:
    """Two readers a use case. A record that cannot be read is skipped: the archiver makes it a dead letter."""

    def __init__(
        self,
        bootstrap: str,
        catalogues: Mapping[str, tuple[UseCase, Catalogue]],
        on_failure: Callable[[Exception], None],
    ) -> None:
        self._readers = [
            reader
            for name, (_, catalogue) in catalogues.items()
            for reader in (
                TopicReader(bootstrap, topic(name, "items"), _items_into(catalogue), on_failure=on_failure),
                TopicReader(bootstrap, topic(name, "users"), _users_into(catalogue), on_failure=on_failure),
            )
        ]

    def start(self) -> None:
        """Begin to read."""
        for reader in self._readers:
            reader.start()

    def caught_up(self) -> bool:
        """Whether all topics were read to the ends that they had at the start."""
        return all(reader.caught_up.is_set() for reader in self._readers)

    def stop(self, timeout_s: float) -> None:
        """End all readers within `timeout_s`."""
        ends = time.monotonic() + timeout_s
        for reader in self._readers:
            reader.stop(max(0.0, ends - time.monotonic()))


def _items_into(catalogue: Catalogue) -> Callable[[int, int, bytes | None, bytes | None], None]:
    def handle(partition: int, offset: int, key: bytes | None, value: bytes | None) -> None:
        good, bad = decode_items(partition, [LogRecord(offset, -1, key, value)])
        for _, item in good:
            catalogue.apply_item(item, offset)
        _tell("items", partition, bad)

    return handle


def _users_into(catalogue: Catalogue) -> Callable[[int, int, bytes | None, bytes | None], None]:
    def handle(partition: int, offset: int, key: bytes | None, value: bytes | None) -> None:
        good, bad = decode_users(partition, [LogRecord(offset, -1, key, value)])
        for _, user in good:
            catalogue.apply_user(user)
        _tell("users", partition, bad)

    return handle


def _tell(kind: str, partition: int, bad: list[BadRecord]) -> None:
    for record in bad:
        log.warning("record skipped", kind=kind, partition=partition, offset=record.offset, reason=record.reason_name)
