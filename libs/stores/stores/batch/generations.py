"""Readers' way to the lists: the pointer resolved and kept for seconds, then one row."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from stores.batch.interface import BatchStore, Run
from stores.batch.rows import UserList
from stores.errors import StoreUnavailable, UnknownRun


@dataclass(frozen=True)
class Precomputed:
    """A user's list and the generation that it comes from."""

    run_id: str
    model_version: str
    items: UserList


class Generations:
    """Lists of one use case in the current generation. Threads may share it; use it from threads, not from a loop."""

    def __init__(
        self, store: BatchStore, usecase: str, *, ttl_s: float = 5.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """A flip is seen within `ttl_s`."""
        self._store = store
        self._usecase = usecase
        self._ttl_s = ttl_s
        self._clock = clock
        self._current: tuple[float, Run | None] | None = None

    def read(self, user_id: int) -> Precomputed | None:
        """The user's list; None if no generation is live or the user has none in it.

        A pointer that cannot be read again is used on: an old generation is a right answer.

        Raises:
            StoreUnavailable: the row, or the very first pointer, cannot be read.
        """
        if (run := self.current()) is None:
            return None
        try:
            items = self._store.read(self._usecase, run.run_id, user_id)
        except UnknownRun:  # dropped since the pointer was read
            self._current = None
            return None
        return None if items is None else Precomputed(run.run_id, run.model_version, items)

    def current(self) -> Run | None:
        """The live generation; None before the first flip. StoreUnavailable as in `read`."""
        now = self._clock()
        kept = self._current
        if kept is not None and now < kept[0]:
            return kept[1]
        try:
            pointer = self._store.pointer(self._usecase)
            run = None if pointer is None else self._store.run(self._usecase, pointer.run_id)
        except StoreUnavailable:
            if kept is None:
                raise
            run = kept[1]
        self._current = (now + self._ttl_s, run)
        return run
