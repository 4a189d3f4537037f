"""What the collector remembers of a use case: each item's category, and which users were erased."""

import threading

from definitions.attributes import main_category
from definitions.usecase import UseCase
from millrace.events.v1 import events_pb2 as pb


class Catalogue:
    """Filled by the readers of `items` and `users` and by acknowledged puts; asked by the event loop. Thread-safe.

    Both writers name the offset, so the older of two records of an item never wins, whoever comes last.
    """

    def __init__(self, usecase: UseCase) -> None:
        self._usecase = usecase
        self._lock = threading.Lock()
        self._categories: dict[int, tuple[int, int]] = {}  # item id -> (offset, code)
        self.erased: set[int] = set()

    def apply_item(self, item: pb.Item, offset: int) -> None:
        """Take the item's main category (0 where it is deleted) unless a newer record was taken."""
        code = 0 if item.deleted else main_category(self._usecase, item)
        with self._lock:
            known_offset, _ = self._categories.get(item.id, (-1, 0))
            if offset > known_offset:
                self._categories[item.id] = (offset, code)

    def apply_user(self, user: pb.User) -> None:
        """Remember an erasure; it is for good."""
        if user.deleted:
            self.erased.add(user.id)

    def category_of(self, item_id: int) -> int:
        """Code of the item's category; 0 = unknown item, or one without a category."""
        return self._categories.get(item_id, (-1, 0))[1]

    def __len__(self) -> int:
        return len(self._categories)
