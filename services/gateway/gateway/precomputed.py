"""Nightly lists from the batch store, read by a few threads of which none is waited for longer than the budget."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from stores.batch import BatchStore, Generations
from stores.errors import StoreError, StoreTimeout

from gateway.errors import Unavailable
from gateway.ladder import StoredList

THREADS: Final = 4
MAX_WAITING: Final = 16
POINTER_TTL_S: Final = 3.0  # how long a flip may go unseen


class PrecomputedLists:
    """`StoredLists` of one use case over a batch store, which connects on first use."""

    def __init__(self, store: BatchStore, usecase: str) -> None:
        self._store = store
        self._generations = Generations(store, usecase, ttl_s=POINTER_TTL_S)
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="precomputed")
        self._waiting = 0

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
        self._store.close()

    def _ended(self, work: "asyncio.Future[StoredList]") -> None:
        self._waiting -= 1
        if not work.cancelled():
            work.exception()  # nobody may be waiting for it any more

    def _read(self, user_id: int) -> StoredList:
        found = self._generations.read(user_id)
        if found is None:
            raise Unavailable("no_row")
        name, _, version = found.model_version.rpartition("/")
        if not version.isdecimal():
            name, version = found.model_version, "0"
        return StoredList(found.items.item_ids, found.items.scores, name, int(version))
