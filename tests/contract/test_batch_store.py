"""What every batch store does, held against each implementation."""

import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from stores.batch import BatchStore, Generations, Run, UserList, bucket_of, buckets_for, new_run_id, open_batch
from stores.batch.cassandra import CassandraBatchStore
from stores.batch.null import NullBatchStore
from stores.batch.rows import run_time_us
from stores.batch.sqlite import SqliteBatchStore
from stores.errors import (
    PointerMoved,
    RunConflict,
    StoreCorrupt,
    StoreError,
    StoreTimeout,
    StoreUnavailable,
    UnknownRun,
    VerificationFailed,
)

DAY_US = 86_400_000_000
FIRST, SECOND, THIRD = (new_run_id(1_767_225_600_000_000 + day * DAY_US, "lgbm") for day in range(3))
BUCKETS = 4

_names = itertools.count()


@pytest.fixture(scope="module", params=["sqlite", pytest.param("cassandra", marks=pytest.mark.real)])
def open_store(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[], BatchStore]]:
    """Opens handles on one store; all are closed at the end."""
    endpoint = request.getfixturevalue("cassandra") if request.param == "cassandra" else None
    path = tmp_path_factory.mktemp("batch") / "batch.sqlite"
    opened: list[BatchStore] = []

    def open_one() -> BatchStore:
        opened.append(open_batch(endpoint, path, read_timeout_s=2.0))
        return opened[-1]

    open_one().ensure_schema()
    yield open_one
    for store in opened:
        store.close()


@pytest.fixture(scope="module")
def store(open_store: Callable[[], BatchStore]) -> BatchStore:
    """One handle for all tests: each has its own use case."""
    return open_store()


@pytest.fixture
def usecase() -> str:
    """A use case of this test alone."""
    return f"test-{time.time_ns()}-{next(_names)}"


def user_list(user_id: int, items: int = 3, seed: int = 0) -> UserList:
    """A list that depends on the user."""
    rng = np.random.default_rng([user_id, seed])
    return UserList(user_id, rng.integers(1, 2**64, items, np.uint64), rng.random(items, np.float32))


def users_by_bucket(count: int = 40) -> dict[int, list[UserList]]:
    """Lists of `count` users, the ids at both ends among them."""
    users = [*range(1, count - 1), 2**63, 2**64 - 1]
    lists = [user_list(user, items=user % 5) for user in users]
    return {b: [each for each in lists if bucket_of(each.user_id, BUCKETS) == b] for b in range(BUCKETS)}


def load(store: BatchStore, usecase: str, run_id: str, lists: dict[int, list[UserList]] | None = None) -> None:
    """A whole run, sealed."""
    store.create_run(usecase, run_id, BUCKETS, "lightgbm/7")
    for bucket, rows in (lists or users_by_bucket()).items():
        store.write_bucket(usecase, run_id, bucket, rows)
    store.seal_run(usecase, run_id)


def test_the_schema_may_be_applied_again(store: BatchStore) -> None:
    """Every start does."""
    store.ensure_schema()
    store.ensure_schema()


def test_an_unknown_use_case_has_nothing(store: BatchStore, usecase: str) -> None:
    """Before the first night."""
    assert store.pointer(usecase) is None
    assert store.runs(usecase) == []
    assert store.run(usecase, FIRST) is None
    assert store.finished_buckets(usecase, FIRST) == set()
    store.drop_run(usecase, FIRST)
    for call in (
        lambda: store.read(usecase, FIRST, 1),
        lambda: store.write_bucket(usecase, FIRST, 0, []),
        lambda: store.seal_run(usecase, FIRST),
        lambda: store.flip(usecase, FIRST),
    ):
        with pytest.raises(UnknownRun):
            call()


def test_what_is_written_is_read_as_it_was(store: BatchStore, usecase: str) -> None:
    """Every list, empty ones too; ids use all 64 bits; a user without a list has none."""
    lists = users_by_bucket()
    load(store, usecase, FIRST, lists)

    for row in itertools.chain.from_iterable(lists.values()):
        read = store.read(usecase, FIRST, row.user_id)
        assert read == row
        assert read.item_ids.dtype == np.uint64
        assert read.scores.dtype == np.float32
    assert store.read(usecase, FIRST, 10_000) is None


def test_one_caller_creates_a_run(store: BatchStore, usecase: str) -> None:
    """The others join it, unless they want another one."""
    assert store.create_run(usecase, FIRST, BUCKETS, "lightgbm/7")
    assert not store.create_run(usecase, FIRST, BUCKETS, "lightgbm/7")
    for buckets, version in ((5, "lightgbm/7"), (BUCKETS, "lightgbm/8")):
        with pytest.raises(RunConflict, match="exists with 4 buckets of lightgbm/7"):
            store.create_run(usecase, FIRST, buckets, version)

    run = store.run(usecase, FIRST)
    assert run is not None
    assert run == Run(FIRST, "loading", BUCKETS, "lightgbm/7", run.created_at_us)
    assert abs(run.created_at_us - time.time_ns() // 1000) < 60_000_000


@pytest.mark.parametrize("run_id", ["", "latest", "20260131", "20261331T000000Z", "20260131T020000Z-A b"])
def test_what_is_no_run_id_is_refused(store: BatchStore, usecase: str, run_id: str) -> None:
    """Its time is the rows' timestamp, so it must have one."""
    with pytest.raises(ValueError, match=r"run_id|time data"):
        store.create_run(usecase, run_id, BUCKETS, "lightgbm/7")


def test_rows_of_another_bucket_are_refused(store: BatchStore, usecase: str) -> None:
    """A reader would never find them."""
    store.create_run(usecase, FIRST, BUCKETS, "lightgbm/7")
    row = user_list(1)
    bucket = bucket_of(1, BUCKETS)
    with pytest.raises(ValueError, match=f"user 1 belongs to {bucket}"):
        store.write_bucket(usecase, FIRST, (bucket + 1) % BUCKETS, [row])
    with pytest.raises(ValueError, match="bucket: 4"):
        store.write_bucket(usecase, FIRST, BUCKETS, [])
    with pytest.raises(ValueError, match="twice"):
        store.write_bucket(usecase, FIRST, bucket, [row, row])
    with pytest.raises(ValueError, match="buckets: 0"):
        store.create_run(usecase, SECOND, 0, "lightgbm/7")

    assert store.finished_buckets(usecase, FIRST) == set()


def test_a_stopped_run_goes_on_where_it_was(
    store: BatchStore, open_store: Callable[[], BatchStore], usecase: str
) -> None:
    """Finished buckets, empty ones too, are known to the next process, and writing one again changes nothing."""
    lists = {**users_by_bucket(), 2: []}
    store.create_run(usecase, FIRST, BUCKETS, "lightgbm/7")
    store.write_bucket(usecase, FIRST, 1, lists[1])
    store.write_bucket(usecase, FIRST, 2, [])

    other = open_store()
    assert other.finished_buckets(usecase, FIRST) == {1, 2}
    for bucket in (0, 1, 3):
        other.write_bucket(usecase, FIRST, bucket, lists[bucket])
    summary = other.seal_run(usecase, FIRST)
    assert summary.users == summary.rows == sum(map(len, lists.values()))


def test_sealing_reads_back_what_was_written(store: BatchStore, usecase: str) -> None:
    """Count and checksum of the rows, whatever order they were written in; a second time too."""
    lists = users_by_bucket()
    load(store, usecase, FIRST, lists)
    load(store, usecase, SECOND, dict(reversed(lists.items())))
    summary = store.seal_run(usecase, FIRST, agreement=0.75)

    assert summary.users == summary.rows == 40
    assert summary == store.seal_run(usecase, SECOND)
    run = store.run(usecase, FIRST)
    assert run is not None
    assert (run.state, run.users, run.rows, run.checksum) == ("sealed", 40, 40, summary.checksum)
    assert run.agreement == 0.75
    other = {**lists, 0: [user_list(each.user_id, seed=1) for each in lists[0]]}
    load(store, usecase, THIRD, other)
    assert store.seal_run(usecase, THIRD).checksum != summary.checksum


def test_an_unfinished_run_is_not_sealed(store: BatchStore, usecase: str) -> None:
    """Each bucket must be there, even an empty one."""
    store.create_run(usecase, FIRST, BUCKETS, "lightgbm/7")
    store.write_bucket(usecase, FIRST, 0, [])
    store.write_bucket(usecase, FIRST, 3, [])

    with pytest.raises(VerificationFailed, match=r"2 of 4 buckets not written: \[1, 2\]"):
        store.seal_run(usecase, FIRST)
    run = store.run(usecase, FIRST)
    assert run is not None
    assert run.state == "loading"
    with pytest.raises(UnknownRun, match="only a sealed run"):
        store.flip(usecase, FIRST)


def test_a_lost_row_fails_the_verification(store: BatchStore, usecase: str) -> None:
    """What was marked as written is not what is read back."""
    lists = users_by_bucket()
    bucket = next(b for b, rows in lists.items() if rows)
    load(store, usecase, FIRST, lists)
    lose_a_row(store, usecase, FIRST, bucket, lists[bucket][0].user_id)

    with pytest.raises(VerificationFailed, match=rf"read back differently: \[{bucket}\]"):
        store.seal_run(usecase, FIRST)


def lose_a_row(store: BatchStore, usecase: str, run_id: str, bucket: int, user_id: int) -> None:
    """What no method does: past the interface."""
    query = "DELETE FROM {} WHERE usecase = %s AND run_id = %s AND bucket = %s AND user_id = %s"
    values = (usecase, run_id, bucket, user_id)
    if isinstance(store, CassandraBatchStore):
        store._connection.session().execute(query.format("millrace.predictions"), values)
    else:
        assert isinstance(store, SqliteBatchStore)
        store._connection().execute(query.format("predictions").replace("%s", "?"), values)


def test_a_sealed_run_takes_no_more_rows(store: BatchStore, usecase: str) -> None:
    """Generations are immutable."""
    load(store, usecase, FIRST)

    with pytest.raises(RunConflict, match="is sealed"):
        store.write_bucket(usecase, FIRST, 0, [])


def test_readers_follow_the_pointer(store: BatchStore, open_store: Callable[[], BatchStore], usecase: str) -> None:
    """Flip, flip to the same, flip forward, roll back: each is one step, seen by every handle."""
    load(store, usecase, FIRST)
    load(store, usecase, SECOND)
    first = store.flip(usecase, FIRST)
    assert (first.run_id, first.previous_run_id) == (FIRST, None)
    assert store.flip(usecase, FIRST) == first
    second = store.flip(usecase, SECOND)
    assert (second.run_id, second.previous_run_id) == (SECOND, FIRST)
    assert second.flipped_at_us >= first.flipped_at_us
    other = open_store()
    assert other.pointer(usecase) == second

    back = other.flip(usecase, FIRST)
    assert (back.run_id, back.previous_run_id) == (FIRST, SECOND)
    assert store.pointer(usecase) == back
    assert [run.run_id for run in store.runs(usecase)] == [SECOND, FIRST]


def test_racing_flips_have_one_order(store: BatchStore, open_store: Callable[[], BatchStore], usecase: str) -> None:
    """Each that wins has its predecessor as previous; each that loses is told."""
    load(store, usecase, FIRST)
    load(store, usecase, SECOND)
    load(store, usecase, THIRD)
    store.flip(usecase, FIRST)
    outcomes: list[object] = []

    def flip(handle: BatchStore, run_id: str) -> None:
        try:
            outcomes.append(handle.flip(usecase, run_id))
        except PointerMoved as exc:
            outcomes.append(exc)

    threads = [threading.Thread(target=flip, args=(open_store(), run_id)) for run_id in (SECOND, THIRD)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    won = [outcome for outcome in outcomes if not isinstance(outcome, PointerMoved)]
    assert len(outcomes) == 2
    assert store.pointer(usecase) in won
    assert len({outcome.previous_run_id for outcome in won}) == len(won)  # type: ignore[attr-defined]


def test_a_dropped_run_is_gone(store: BatchStore, usecase: str) -> None:
    """But never one that readers may be led to."""
    for run_id in (FIRST, SECOND, THIRD):
        load(store, usecase, run_id)
        store.flip(usecase, run_id)
    for run_id in (SECOND, THIRD):
        with pytest.raises(RunConflict, match="the pointer names it"):
            store.drop_run(usecase, run_id)
    store.drop_run(usecase, FIRST)
    store.drop_run(usecase, FIRST)

    assert [run.run_id for run in store.runs(usecase)] == [THIRD, SECOND]
    assert store.finished_buckets(usecase, FIRST) == set()
    assert store.read(usecase, SECOND, 1) == user_list(1, items=1)


def test_generations_follow_the_pointer_within_seconds(store: BatchStore, usecase: str) -> None:
    """The pointer is read once in `ttl_s`; the row always."""
    now = [0.0]
    generations = Generations(store, usecase, ttl_s=5.0, clock=lambda: now[0])
    assert generations.read(1) is None
    load(store, usecase, FIRST)
    store.flip(usecase, FIRST)
    assert generations.read(1) is None

    now[0] = 5.0
    found = generations.read(1)
    assert found is not None
    assert (found.run_id, found.model_version, found.items) == (FIRST, "lightgbm/7", user_list(1, items=1))
    assert generations.read(10_000) is None
    load(store, usecase, SECOND)
    store.flip(usecase, SECOND)
    assert generations.read(1) == found
    now[0] = 10.0
    current = generations.current()
    assert current is not None
    assert current.run_id == SECOND


# Without a server.


class Failing(NullBatchStore):
    """Its pointer can be read as often as the test says."""

    def __init__(self) -> None:
        self.broken = False

    def pointer(self, usecase: str) -> None:
        """Nothing of any use case, or an error."""
        if self.broken:
            raise StoreUnavailable(f"{usecase}: broken")


def test_generations_go_on_with_an_old_pointer() -> None:
    """A pointer that cannot be read again is no reason to fail; the very first is."""
    now, store = [0.0], Failing()
    generations = Generations(store, "movies", clock=lambda: now[0])
    store.broken = True
    with pytest.raises(StoreUnavailable):
        generations.read(1)
    store.broken = False
    assert generations.read(1) is None
    store.broken = True
    now[0] = 100.0

    assert generations.read(1) is None


def test_run_ids_are_times_that_sort() -> None:
    """To the second, with a name."""
    assert new_run_id(1_767_225_600_999_999) == "20260101T000000Z"
    assert new_run_id(1_767_225_600_000_000, "dcn-v2") == "20260101T000000Z-dcn-v2"
    assert run_time_us("20260101T000000Z-dcn-v2") == 1_767_225_600_000_000
    assert sorted([THIRD, FIRST, SECOND]) == [FIRST, SECOND, THIRD]
    with pytest.raises(ValueError, match="run_id"):
        new_run_id(0, "no spaces")


def test_buckets_hold_about_a_hundred_users() -> None:
    """Evenly, and in the same place for every process."""
    buckets = buckets_for(10_000)
    sizes = np.bincount([bucket_of(user, buckets) for user in range(1, 10_001)], minlength=buckets)
    assert (buckets_for(0), buckets) == (1, 100)
    assert 50 < sizes.min() <= sizes.max() < 200
    assert [bucket_of(user, 1000) for user in (0, 1, 2**64 - 1)] == [897, 78, 627]


@pytest.mark.parametrize(
    ("user", "items", "scores"),
    [
        (-1, np.ones(1, np.uint64), np.ones(1, np.float32)),
        (1, np.ones(1, np.int64), np.ones(1, np.float32)),
        (1, np.ones(1, np.uint64), np.ones(1, np.float64)),
        (1, np.ones(2, np.uint64), np.ones(1, np.float32)),
        (1, np.ones((1, 1), np.uint64), np.ones((1, 1), np.float32)),
    ],
)
def test_a_malformed_list_is_refused(user: int, items: np.ndarray, scores: np.ndarray) -> None:
    """Types and lengths are part of what is stored."""
    with pytest.raises(ValueError, match=r"user_id|item_ids"):
        UserList(user, items, scores)


def test_the_null_store_is_complete() -> None:
    """There is never a generation, so readers fall to the next rung."""
    store: BatchStore = NullBatchStore()
    store.ensure_schema()
    assert store.create_run("movies", FIRST, 4, "lightgbm/7")
    store.write_bucket("movies", FIRST, 0, [])
    assert store.finished_buckets("movies", FIRST) == set()
    assert (store.pointer("movies"), store.run("movies", FIRST), store.runs("movies")) == (None, None, [])
    for call in (store.seal_run, store.flip):
        with pytest.raises(UnknownRun):
            call("movies", FIRST)
    with pytest.raises(UnknownRun):
        store.read("movies", FIRST, 1)
    assert Generations(store, "movies").read(1) is None
    store.drop_run("movies", FIRST)
    store.close()


def test_a_file_that_is_no_database_is_corrupt(tmp_path: Path) -> None:
    """The message says what to do."""
    path = tmp_path / "batch.sqlite"
    path.write_bytes(b"no database at all" * 100)
    store = SqliteBatchStore(path)

    with pytest.raises(StoreCorrupt, match="remove it"):
        store.pointer("movies")
    store.close()
    with pytest.raises(StoreUnavailable, match="closed"):
        store.pointer("movies")


def test_a_busy_sqlite_costs_its_timeout(tmp_path: Path) -> None:
    """Writers wait for each other within a bound; readers never wait."""
    holder, other = SqliteBatchStore(tmp_path / "b"), SqliteBatchStore(tmp_path / "b", write_timeout_s=0.02)
    assert other.pointer("movies") is None
    holder._connection().execute("BEGIN IMMEDIATE")

    with pytest.raises(StoreTimeout):
        other.create_run("movies", FIRST, 1, "v")
    assert other.pointer("movies") is None
    holder.close()
    assert other.create_run("movies", FIRST, 1, "v")
    other.close()


def test_an_absent_cassandra_is_unavailable() -> None:
    """At once for a reader with a deadline, whose connection is made in the background."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        endpoint = f"127.0.0.1:{unused.getsockname()[1]}"
        reader = CassandraBatchStore(endpoint, wait_for_connection=False)
        for call in (lambda: reader.read("movies", FIRST, 1), lambda: reader.pointer("movies")):
            started = time.monotonic()
            with pytest.raises(StoreUnavailable):
                call()
            assert time.monotonic() - started < 0.1
        writer = CassandraBatchStore(endpoint)
        with pytest.raises(StoreError, match=endpoint):
            writer.create_run("movies", FIRST, 1, "v")
        reader.close()
        writer.close()
