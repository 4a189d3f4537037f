"""The stores behind the core's interfaces: their errors and delays become reasons."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from gateway.breaker import Breaker
from gateway.errors import Unavailable
from gateway.online import OnlineRows
from gateway.precomputed import MAX_WAITING, PrecomputedLists
from stores.batch import BatchStore, UserList, open_batch
from stores.errors import StoreError, StoreTimeout, StoreUnavailable

RUN = "20260131T020000Z"


class FakeReader:
    """An `AsyncOnlineReader` that raises what it is told."""

    def __init__(self) -> None:
        self.raises: StoreError | None = None
        self.reads = 0

    async def read(self, user_id: int, timeout_s: float) -> bytes | None:
        assert timeout_s > 0
        self.reads += 1
        if self.raises is not None:
            raise self.raises
        return b"row" if user_id == 7 else None

    async def close(self) -> None:
        return None


@pytest.mark.parametrize(
    ("raises", "reason"),
    [(StoreTimeout("late"), "time"), (StoreUnavailable("gone"), "error"), (StoreError("?"), "error")],
)
async def test_an_online_stores_errors_are_reasons(raises: StoreError, reason: str) -> None:
    """Rows go on as before and after."""
    reader = FakeReader()
    rows = OnlineRows(reader, Breaker(lambda: 0.0))
    assert (b"row", None) == (await rows.read(7, 0.1), await rows.read(8, 0.1))
    reader.raises = raises
    with pytest.raises(Unavailable) as caught:
        await rows.read(7, 0.1)
    assert reason == caught.value.reason


async def test_a_dead_online_store_is_spared() -> None:
    """After five timeouts in a row it is not asked."""
    reader = FakeReader()
    rows = OnlineRows(reader, Breaker(lambda: 0.0))
    reader.raises = StoreTimeout("late")
    for _ in range(5):
        with pytest.raises(Unavailable):
            await rows.read(7, 0.1)
    with pytest.raises(Unavailable) as caught:
        await rows.read(7, 0.1)
    assert ("breaker", 5) == (caught.value.reason, reader.reads)


class HeldStore:
    """A batch store whose reads wait while `gate` is closed, and raise what they are told."""

    def __init__(self, store: BatchStore) -> None:
        self._store = store
        self.gate = threading.Event()
        self.gate.set()
        self.raises: StoreError | None = None

    def read(self, usecase: str, run_id: str, user_id: int) -> UserList | None:
        self.gate.wait(5.0)
        if self.raises is not None:
            raise self.raises
        return self._store.read(usecase, run_id, user_id)

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)


@pytest.fixture
def store(tmp_path: Path) -> HeldStore:
    return HeldStore(open_batch(None, tmp_path / "batch.sqlite"))


@pytest.fixture
def lists(store: HeldStore) -> Iterator[PrecomputedLists]:
    lists = PrecomputedLists(store, "tiny")
    yield lists
    store.gate.set()
    lists.close()


def publish(store: HeldStore, model_version: str = "trees/4") -> None:
    store.ensure_schema()
    store.create_run("tiny", RUN, 1, model_version)
    rows = [UserList(7, np.array([3, 1], np.uint64), np.array([0.9, 0.2], np.float32))]
    store.write_bucket("tiny", RUN, 0, rows)
    store.seal_run("tiny", RUN)
    store.flip("tiny", RUN)


async def reason(lists: PrecomputedLists, user_id: int = 7, budget_s: float = 5.0) -> str:
    with pytest.raises(Unavailable) as caught:
        await lists.read(user_id, budget_s)
    return caught.value.reason


@pytest.mark.parametrize(("text", "model"), [("trees/4", ("trees", 4)), ("nightly", ("nightly", 0))])
async def test_a_list_comes_from_the_live_generation(
    store: HeldStore, lists: PrecomputedLists, text: str, model: tuple[str, int]
) -> None:
    """With the model that made it; users without a list have none."""
    publish(store, text)
    found = await lists.read(7, 5.0)
    assert ([3, 1], model) == (found.item_ids.tolist(), (found.model_name, found.model_version))
    assert "no_row" == await reason(lists, user_id=8)


async def test_before_the_first_generation_there_is_no_list(store: HeldStore, lists: PrecomputedLists) -> None:
    """The first start."""
    store.ensure_schema()
    assert "no_row" == await reason(lists)


@pytest.mark.parametrize(("raises", "expected"), [(StoreTimeout("late"), "time"), (StoreUnavailable("gone"), "error")])
async def test_a_batch_stores_errors_are_reasons(
    store: HeldStore, lists: PrecomputedLists, raises: StoreError, expected: str
) -> None:
    """And the next read is answered."""
    publish(store)
    store.raises = raises
    assert expected == await reason(lists)
    store.raises = None
    assert 2 == len((await lists.read(7, 5.0)).item_ids)


async def test_reads_that_hang_are_left_and_bounded(store: HeldStore, lists: PrecomputedLists) -> None:
    """The budget ends the wait; so many may hang; all is well again when they end."""
    publish(store)
    await lists.read(7, 5.0)
    store.gate.clear()
    hung = await asyncio.gather(*(reason(lists, budget_s=0.01) for _ in range(MAX_WAITING)))
    assert {"time"} == set(hung)
    assert "in_flight" == await reason(lists)
    store.gate.set()
    await asyncio.wait_for(answers(lists), 5.0)


async def answers(lists: PrecomputedLists) -> None:
    while True:
        try:
            await lists.read(7, 5.0)
            return
        except Unavailable:
            await asyncio.sleep(0.001)
