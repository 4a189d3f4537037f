"""Nightly lists from the batch store, read by a few threads of which none is waited for longer than the budget."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from stores.batch import BatchStore, Pointer
from stores.errors import StoreError, StoreTimeout

from gateway.errors import Unavailable
from gateway.ladder import StoredList

THREADS: Final = 4
MAX_WAITING: Final = 16
POINTER_TTL_S: Final = 3.0


class PrecomputedLists:
    """`StoredLists` over a batch store, opened on first use so that the gateway starts without it."""

    def __init__(
        self, open_store: Callable[[], BatchStore], usecase: str, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._open_store = open_store
        self._usecase = usecase
        self._clock = clock
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="precomputed")
        self._waiting = 0
        self._store: BatchStore | None = None
        self._pointer: Pointer | None = None
        self._pointer_at = float("-inf")

    async def read(self, user_id: int, budget_s: float) -> StoredList:
        """The user's list in the current generation.

        Raises:
            Unavailable: `no_row`, `time`, `in_flight` (that many reads hang) or `error`.
        """
        if self._waiting >= MAX_WAITING:
            raise Unavailable("in_flight", f"{self._waiting} reads wait")
        self._waiting += 1
        work = asyncio.get_running_loop().run_in_executor(self._pool, self._read, user_id)
        work.add_done_callback(self._ended)
        try:
            async with asyncio.timeout(budget_s):
                return await asyncio.shield(work)  # a thread cannot be cancelled: it keeps its place until it ends
        except (TimeoutError, StoreTimeout):
            raise Unavailable("time", f"no list in {budget_s * 1e3:.0f} ms") from None
        except StoreError as exc:
            raise Unavailable("error", str(exc)) from exc

    def close(self) -> None:
        """Close the store; reads that hang are left."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        if self._store is not None:
            self._store.close()

    def _ended(self, work: "asyncio.Future[StoredList]") -> None:
        self._waiting -= 1
        if not work.cancelled():
            work.exception()  # nobody may be waiting for it any more

    def _read(self, user_id: int) -> StoredList:
        store = self._opened()
        pointer = self._current(store)
        if pointer is None:
            raise Unavailable("no_row", "no generation yet")
        found = store.read(self._usecase, pointer.run_id, user_id)
        if found is None:
            raise Unavailable("no_row")
        return StoredList(found.item_ids, found.scores, pointer.run_id)

    def _opened(self) -> BatchStore:
        if self._store is None:
            self._store = self._open_store()
        return self._store

    def _current(self, store: BatchStore) -> Pointer | None:
        now = self._clock()
        if now - self._pointer_at >= POINTER_TTL_S:
            self._pointer = store.pointer(self._usecase)
            self._pointer_at = now
        return self._pointer
