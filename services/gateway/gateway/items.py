"""The catalogue and the item aggregates, read from the log into memory and kept there."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
from definitions.item_feed import ItemFeed, Outcome
from definitions.item_snapshot import Attributes, ItemColumns, ItemSnapshot
from servicekit.kafka import BatchReader, Record
from servicekit.topics import item_features_topic, topic

from gateway.popularity import Popularity
from gateway.query import MAX_ITEMS, Ids, Ints

REFRESH_S: Final = 1.0  # of the popularity order: a deleted item leaves every rung within 2 s
_ALL: Final = 2**31 - 1
_IDLE: Final = 8  # times what an order took, which is 0.2 s for a million items


class CatalogueItems:
    """`Items` of the core over an `ItemSnapshot` that two topic readers feed.

    `count(topic, outcome, n)` is told of records.
    """

    def __init__(self, snapshot: ItemSnapshot, count: Callable[[str, str, int], None]) -> None:
        self._snapshot = snapshot
        self._count = count
        self._feed = ItemFeed(snapshot)
        self.popularity = Popularity(np.empty(0, np.uint64), np.empty(0, np.float32))
        self._largest: dict[str, Ids] = {}
        self._ordered = -1  # the snapshot's version

    def view(self, item_ids: Ids, time_us: int, past_ids: Ids | None) -> ItemColumns:
        """Columns of uint64 (n,) items at a time, unknown items empty, and the means of a user's past items."""
        return self._snapshot.view(item_ids, time_us, past_ids)

    def not_deleted(self, item_ids: Ids) -> Ids:
        """Those that the catalogue has not taken away; items that it never had stay."""
        return self._snapshot.not_deleted(item_ids)

    def known(self, item_ids: Ids) -> npt.NDArray[np.bool_]:
        """Whether each is in the catalogue, bool (n,)."""
        return self._snapshot.known(item_ids)

    def attributes(self, item_ids: Ids) -> Attributes:
        """What the catalogue says of the items."""
        return self._snapshot.attributes(item_ids)

    def largest(self, number: str) -> Ids:
        """The catalogue by a number attribute, uint64, largest first, at most 2,000; from the refresh after it was
        first asked for.
        """
        return self._largest.setdefault(number, np.empty(0, np.uint64))

    def newest_us(self, item_ids: Ids) -> Ints:
        """Time of each item's newest event, int64 (n,); 0 if it has none."""
        return self._snapshot.newest_us(item_ids)

    def markers(self) -> dict[int, int]:
        """Partition -> offset below which its partials are in."""
        return self._snapshot.markers()

    def refresh(self) -> None:
        """Order the catalogue anew, if anything changed: by popularity, and by each number that was asked for."""
        item_ids, scores = self._snapshot.popular(_ALL)
        if not np.may_share_memory(scores, self.popularity.scores):  # the snapshot answers from its cache if it can
            self.popularity = Popularity(item_ids, scores)
        version = self._snapshot.version
        for number, found in list(self._largest.items()):
            if version != self._ordered or not len(found):
                self._largest[number] = self._snapshot.largest(number, MAX_ITEMS)
        self._ordered = version

    def take_items(self, partition: int, records: Sequence[Record]) -> None:
        """Records of `items`."""
        self._tell("items", self._feed.take_items(partition, records))

    def take_features(self, partition: int, records: Sequence[Record]) -> None:  # noqa: ARG002  the reader's
        """Records of `item-features`."""
        self._tell("item-features", self._feed.take_features(records))

    def _tell(self, topic: str, outcomes: Counter[Outcome]) -> None:
        for outcome, n in outcomes.items():
            if n:
                self._count(topic, outcome, n)


class CatalogueReaders:
    """The threads behind `CatalogueItems`: one for each topic, one that orders by popularity."""

    def __init__(
        self,
        items: CatalogueItems,
        bootstrap: str,
        usecase: str,
        revision: int,
        on_failure: Callable[[Exception], None],
    ) -> None:
        self._items = items
        self._readers = [
            BatchReader(bootstrap, topic(usecase, "items"), items.take_items, on_failure=on_failure),
            BatchReader(bootstrap, item_features_topic(usecase, revision), items.take_features, on_failure=on_failure),
        ]
        self._stop = threading.Event()
        self._orderer = threading.Thread(target=self._order, name=f"order {usecase}", daemon=True)

    def start(self) -> None:
        """Begin to read."""
        for reader in self._readers:
            reader.start()
        self._orderer.start()

    @property
    def caught_up(self) -> bool:
        """Whether all that was on the log at the start is in memory."""
        return all(reader.caught_up.is_set() for reader in self._readers)

    def stop(self) -> None:
        """End the threads."""
        self._stop.set()
        for reader in self._readers:
            reader.stop()

    def _order(self) -> None:
        wait_s = REFRESH_S
        while not self._stop.wait(wait_s):
            began = time.monotonic()
            self._items.refresh()
            wait_s = max(REFRESH_S, _IDLE * (time.monotonic() - began))
