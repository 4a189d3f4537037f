"""What every online store does, held against each implementation."""

import itertools
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from stores.errors import InvalidRow, StoreTimeout, StoreUnavailable
from stores.online import AsyncOnlineReader, OnlineStore, open_online, open_online_reader
from stores.online.lmdb import LmdbStore
from stores.online.null import NullStore
from stores.online.valkey import ValkeyReader, ValkeyStore

_names = itertools.count()
Opener = Callable[[str, int], OnlineStore]


def row(epoch: int = 1, offset: int = 1, users: int = 0, tail: bytes = b"tail") -> bytes:
    """A packed row as far as stores read it."""
    return struct.pack("<BIqIQQ", 1, 0xABCD, 1_700_000_000_000_000, epoch, offset, users) + tail


@pytest.fixture(params=["lmdb", pytest.param("valkey", marks=pytest.mark.real)])
def endpoint(request: pytest.FixtureRequest) -> str | None:
    """Valkey's host:port; None for LMDB."""
    return request.getfixturevalue("valkey") if request.param == "valkey" else None


@pytest.fixture
def usecase() -> str:
    """A use case of this test alone, so that tests share one server."""
    return f"test-{time.time_ns()}-{next(_names)}"


@pytest.fixture
def open_store(endpoint: str | None, tmp_path: Path) -> Iterator[Opener]:
    """Opens stores of the implementation under test; all are cleared and closed at the end."""
    opened: dict[tuple[str, int], list[OnlineStore]] = {}

    def open_one(name: str, revision: int) -> OnlineStore:
        store = open_online(name, revision, valkey=endpoint, lmdb_path=tmp_path)
        opened.setdefault((name, revision), []).append(store)
        return store

    yield open_one
    for key in list(opened):
        open_one(*key).clear()
    for store in itertools.chain.from_iterable(opened.values()):
        store.close()


@pytest.fixture
def store(open_store: Opener, usecase: str) -> OnlineStore:
    """An empty store."""
    return open_store(usecase, 1)


@pytest.fixture
def reader(endpoint: str | None, tmp_path: Path, usecase: str) -> AsyncOnlineReader:
    """The asynchronous read path of the same store."""
    return open_online_reader(usecase, 1, valkey=endpoint, lmdb_path=tmp_path)


def test_an_unknown_user_has_no_row(store: OnlineStore) -> None:
    """Unknown users are normal input."""
    assert store.read(7) is None
    assert store.read_many([7, 8]) == {}
    assert store.read_many([]) == {}
    assert store.write({}) == 0


def test_a_written_row_is_read_as_it_was(store: OnlineStore) -> None:
    """The bytes are the caller's, zeros and line ends included; ids use all 64 bits."""
    rows = {0: row(tail=b""), 1: row(tail=b"\x00\r\n\xff"), 2**64 - 1: row(tail=bytes(100_000))}
    assert store.write(rows) == 3

    assert rows == {user: store.read(user) for user in rows}
    assert rows == store.read_many([*rows, 5])


@pytest.mark.parametrize(
    ("old", "new", "wins"),
    [
        ((1, 7, 7), (1, 7, 7), True),  # a repeat
        ((1, 7, 7), (1, 8, 7), True),
        ((1, 7, 7), (1, 7, 8), True),
        ((1, 7, 7), (1, 6, 7), False),
        ((1, 7, 7), (1, 7, 6), False),
        ((1, 7, 7), (1, 9, 6), False),  # newer in one, older in the other
        ((1, 7, 7), (2, 0, 0), True),  # a newer epoch, whatever its offsets
        ((2, 0, 0), (1, 9, 9), False),  # replay is normal
        ((255, 0, 0), (256, 0, 0), True),  # as numbers, not as bytes
        ((256, 0, 0), (255, 0, 0), False),
        ((2**32 - 1, 0, 0), (0, 0, 0), False),
        ((1, 2**53, 0), (1, 2**53 + 1, 0), True),  # past what a double can tell apart
        ((1, 2**53 + 1, 0), (1, 2**53, 0), False),
        ((1, 2**32, 0), (1, 2**32 - 1, 0), False),  # across the halves of the number
        ((1, 2**32 - 1, 0), (1, 2**32, 0), True),
        ((1, 2**64 - 1, 2**63), (1, 2**64 - 1, 2**63 - 1), False),
    ],
)
def test_a_write_wins_by_epoch_then_offsets(
    store: OnlineStore, old: tuple[int, int, int], new: tuple[int, int, int], wins: bool
) -> None:
    """A row never goes backwards, and the count tells which rows won."""
    first, second = row(*old, tail=b"first"), row(*new, tail=b"second")
    assert store.write({3: first}) == 1

    assert store.write({3: second, 4: second}) == 1 + wins
    assert store.read(3) == (second if wins else first)
    assert store.read(4) == second


def test_a_row_without_a_whole_header_is_refused_before_anything_is_written(store: OnlineStore) -> None:
    """No half batches for a caller's mistake."""
    for bad in (b"", row()[:32]):
        with pytest.raises(InvalidRow, match="header of 33 bytes"):
            store.write({1: row(), 2: bad})
    for user in (-1, 2**64):
        with pytest.raises(InvalidRow, match="user_id"):
            store.write({1: row(), user: row()})
        with pytest.raises(InvalidRow, match="user_id"):
            store.read(user)

    assert store.read(1) is None


def test_a_large_batch_is_written_whole(store: OnlineStore) -> None:
    """More rows than one script or one page takes."""
    rows = {user: row(offset=user, tail=struct.pack("<Q", user) * 20) for user in range(1, 3000)}
    assert store.write(rows) == len(rows)

    assert store.read_many(rows) == rows
    assert store.write(rows) == len(rows)


def test_all_ids_are_those_of_this_use_case_and_revision(open_store: Opener, usecase: str) -> None:
    """Sorted as numbers; the rows of another revision, and of a name that begins alike, are not ours."""
    store, revised, longer = open_store(usecase, 1), open_store(usecase, 11), open_store(usecase + "x", 1)
    users = [5, 2**63, 1, 256, 2**64 - 1]
    store.write(dict.fromkeys(users, row()))
    revised.write({77: row()})
    longer.write({78: row()})

    assert store.all_ids().dtype == np.uint64
    assert store.all_ids().tolist() == sorted(users)
    assert store.read(77) is None
    store.clear()
    assert store.all_ids().tolist() == []
    assert revised.read(77) == row()
    assert longer.all_ids().tolist() == [78]


def test_the_name_of_a_use_case_is_no_pattern(open_store: Opener, usecase: str) -> None:
    """Clearing `a*` leaves `ab` alone."""
    store, other = open_store(usecase + "-[a]", 1), open_store(usecase + "-a", 1)
    store.write({1: row()})
    other.write({2: row()})

    assert store.all_ids().tolist() == [1]
    store.clear()
    assert other.all_ids().tolist() == [2]


def test_the_identity_lives_as_long_as_the_rows(open_store: Opener, usecase: str) -> None:
    """A writer that meets another identity knows that the store was emptied."""
    store = open_store(usecase, 1)
    identity = store.identity()
    store.write({1: row()})
    assert identity
    assert store.identity() == identity
    assert open_store(usecase, 1).identity() == identity
    assert open_store(usecase, 2).identity() != identity

    store.clear()
    assert store.identity() != identity
    assert store.all_ids().tolist() == []


def test_two_handles_see_each_other(open_store: Opener, usecase: str) -> None:
    """Writer and reader may live in one process, and closing one leaves the other open."""
    writer, other = open_store(usecase, 1), open_store(usecase, 1)
    writer.write({1: row(offset=1)})
    assert other.read(1) == row(offset=1)

    writer.close()
    assert other.write({1: row(offset=2)}) == 1
    assert other.read(1) == row(offset=2)


def test_racing_writers_leave_the_newest_row(open_store: Opener, usecase: str) -> None:
    """Guard and put are one step: of 4 threads with 50 versions each, the highest version stays."""
    stores = [open_store(usecase, 1) for _ in range(4)]

    def race(store: OnlineStore, seed: int) -> None:
        for offset in np.random.default_rng(seed).permutation(50).tolist():
            store.write({1: row(offset=offset * 4 + seed), 2: row(offset=offset * 4 + seed)})

    threads = [threading.Thread(target=race, args=(store, seed)) for seed, store in enumerate(stores)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert stores[0].read_many([1, 2]) == {1: row(offset=199), 2: row(offset=199)}


async def test_the_asynchronous_reader_reads_the_same_rows(store: OnlineStore, reader: AsyncOnlineReader) -> None:
    """One store, two ways in."""
    store.write({1: row(), 2**64 - 1: row(offset=9)})

    assert await reader.read(1, timeout_s=1.0) == row()
    assert await reader.read(2**64 - 1, timeout_s=1.0) == row(offset=9)
    assert await reader.read(5, timeout_s=1.0) is None
    await reader.close()


def test_the_null_store_is_complete() -> None:
    """It answers "missing" to everything and judges rows like the others."""
    store: OnlineStore = NullStore()
    assert store.write({1: row(), 2: row()}) == 2
    with pytest.raises(InvalidRow):
        store.write({1: b"short"})

    assert store.read(1) is None
    assert store.read_many([1]) == {}
    assert store.all_ids().tolist() == []
    assert store.identity() == store.identity()
    store.clear()
    store.close()


# What only one implementation can show.


_CHILD = """
import itertools, struct, sys
from pathlib import Path
from stores.online.lmdb import LmdbStore
def row(offset, tail): return struct.pack("<BIqIQQ", 1, 0xABCD, 1_700_000_000_000_000, 1, offset, 0) + tail
store = LmdbStore(Path(sys.argv[1]), "shared")
"""


def in_another_process(folder: Path, code: str) -> subprocess.Popen[bytes]:
    """Runs `code` on the LMDB store `shared` of the folder."""
    return subprocess.Popen([sys.executable, "-c", _CHILD + code, str(folder)])


def test_lmdb_grows_its_map_and_other_processes_follow(tmp_path: Path) -> None:
    """A map of 64 KiB takes megabytes, written here and by another process, while this one keeps it open."""
    store = LmdbStore(tmp_path, "shared", map_bytes=1 << 16)
    assert store.write({user: row(tail=bytes(4000)) for user in range(1000, 1100)}) == 100

    child = in_another_process(tmp_path, "store.write({user: row(1, bytes(4000)) for user in range(900)})")
    assert child.wait(30) == 0
    assert len(store.all_ids()) == 1000
    assert store.write({2000: row(tail=bytes(4000))}) == 1
    store.close()


def test_a_killed_lmdb_writer_leaves_whole_calls(tmp_path: Path) -> None:
    """All rows of a call or none, and the next writer goes on at once."""
    store = LmdbStore(tmp_path, "shared")
    child = in_another_process(
        tmp_path, "for n in itertools.count(): store.write({user: row(n, b'tail') for user in range(50)})"
    )
    deadline = time.monotonic() + 30
    while store.read(0) is None and time.monotonic() < deadline:
        threading.Event().wait(0.005)
    child.kill()
    child.wait()

    assert len(set(store.read_many(range(50)).values())) == 1
    assert len(store.all_ids()) == 50
    assert store.write({user: row(epoch=2) for user in range(50)}) == 50
    store.close()


def test_a_closed_store_says_so(tmp_path: Path) -> None:
    """Never a crash of the process; closing twice is harmless."""
    store = LmdbStore(tmp_path, "movies")
    store.close()
    store.close()

    with pytest.raises(StoreUnavailable, match="closed"):
        store.read(1)


@pytest.fixture
def silent_server() -> Iterator[str]:
    """host:port of a server that takes connections and never answers, as a stopped process does."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield f"127.0.0.1:{listener.getsockname()[1]}"


async def test_a_silent_valkey_costs_its_timeout(silent_server: str) -> None:
    """Every wait is bounded: the gateway's by the call, the writer's by the store."""
    reader = ValkeyReader(silent_server, "movies")
    started = time.monotonic()
    with pytest.raises(StoreTimeout):
        await reader.read(1, timeout_s=0.003)
    assert time.monotonic() - started < 0.1
    await reader.close()

    store = ValkeyStore(silent_server, "movies", timeout_s=0.02)
    for call in (lambda: store.write({1: row()}), lambda: store.read(1), store.all_ids, store.identity):
        with pytest.raises(StoreTimeout):
            call()
    store.close()


async def test_an_absent_valkey_is_unavailable() -> None:
    """Refused connections are an error of ours, at once."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        endpoint = f"127.0.0.1:{unused.getsockname()[1]}"
        store, reader = ValkeyStore(endpoint, "movies"), ValkeyReader(endpoint, "movies")
        with pytest.raises(StoreUnavailable):
            store.write({1: row()})
        with pytest.raises(StoreUnavailable):
            await reader.read(1, timeout_s=1.0)
        store.close()
        await reader.close()
