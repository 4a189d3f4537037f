"""The distributed batch store: Cassandra. Tables in `schema.cql`."""

import contextlib
import datetime
import importlib.resources
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from cassandra import (
    ConsistencyLevel,
    DriverException,
    OperationTimedOut,
    ReadTimeout,
    RequestValidationException,
    WriteTimeout,
)
from cassandra.cluster import NoHostAvailable, Session
from cassandra.concurrent import execute_concurrent_with_args
from cassandra.connection import ConnectionBusy, ConnectionException, ProtocolError
from cassandra.pool import NoConnectionsAvailable
from cassandra.query import BatchStatement, BatchType, PreparedStatement

from stores.batch.cassandra_session import CONTROL, READ, CassandraConnection
from stores.batch.interface import (
    Mark,
    Pointer,
    Run,
    RunSummary,
    check_create,
    check_drop,
    check_same,
    check_write,
    known,
    verified,
)
from stores.batch.rows import UserList, bucket_of, checksum, decoded, row_hash, run_time_us, signed, unsigned
from stores.errors import PointerMoved, RunConflict, StoreTimeout, StoreUnavailable, UnknownRun

_CONCURRENCY: Final = 16  # buckets in flight while a run is read back or removed

_RUN_COLUMNS: Final = "run_id, state, buckets, model_version, created_at, users, rows, checksum, agreement"
_RUN: Final = f"SELECT {_RUN_COLUMNS} FROM millrace.prediction_runs WHERE usecase = ? AND run_id = ?"  # noqa: S608  ours
_RUNS: Final = f"SELECT {_RUN_COLUMNS} FROM millrace.prediction_runs WHERE usecase = ?"  # noqa: S608  ours
_CREATE: Final = (
    "INSERT INTO millrace.prediction_runs (usecase, run_id, state, users, rows, buckets, checksum, model_version, "
    "created_at) VALUES (?, ?, 'loading', 0, 0, ?, 0, ?, ?) IF NOT EXISTS"
)
_SEAL: Final = (
    "UPDATE millrace.prediction_runs SET state = 'sealed', users = ?, rows = ?, checksum = ?, agreement = ? "
    "WHERE usecase = ? AND run_id = ? IF state IN ('loading', 'sealed')"
)
_CONDEMN: Final = "UPDATE millrace.prediction_runs SET state = 'dropping' WHERE usecase = ? AND run_id = ? IF EXISTS"
_FORGET: Final = "DELETE FROM millrace.prediction_runs WHERE usecase = ? AND run_id = ? IF EXISTS"
# The run's time as timestamp: rows are the same whichever machine writes them, and whatever its clock says.
_WRITE: Final = (
    "INSERT INTO millrace.predictions (usecase, run_id, bucket, user_id, item_ids, scores, model_version) "
    "VALUES (?, ?, ?, ?, ?, ?, ?) USING TIMESTAMP ?"
)
_MARK: Final = (
    "INSERT INTO millrace.prediction_buckets (usecase, run_id, bucket, users, checksum) "
    "VALUES (?, ?, ?, ?, ?) USING TIMESTAMP ?"
)
_MARKS: Final = "SELECT bucket, users, checksum FROM millrace.prediction_buckets WHERE usecase = ? AND run_id = ?"
_BUCKET: Final = (
    "SELECT user_id, item_ids, scores, model_version FROM millrace.predictions "
    "WHERE usecase = ? AND run_id = ? AND bucket = ?"
)
_LIST: Final = (
    "SELECT item_ids, scores FROM millrace.predictions WHERE usecase = ? AND run_id = ? AND bucket = ? AND user_id = ?"
)
_DROP_BUCKET: Final = "DELETE FROM millrace.predictions WHERE usecase = ? AND run_id = ? AND bucket = ?"
_DROP_MARKS: Final = "DELETE FROM millrace.prediction_buckets WHERE usecase = ? AND run_id = ?"
_POINTER: Final = "SELECT run_id, previous_run_id, flipped_at FROM millrace.prediction_pointer WHERE usecase = ?"
_FIRST_FLIP: Final = (
    "INSERT INTO millrace.prediction_pointer (usecase, run_id, previous_run_id, flipped_at) "
    "VALUES (?, ?, ?, ?) IF NOT EXISTS"
)
_FLIP: Final = (
    "UPDATE millrace.prediction_pointer SET run_id = ?, previous_run_id = ?, flipped_at = ? WHERE usecase = ? "
    "IF run_id = ?"
)


class CassandraBatchStore:
    """Connects on first use."""

    def __init__(
        self,
        endpoints: str,
        *,
        read_timeout_s: float = 0.05,
        write_timeout_s: float = 10.0,
        wait_for_connection: bool = True,
    ) -> None:
        """`endpoints` is host:port, or several comma-separated. Each request has one of the two timeouts.

        With `wait_for_connection=False`, `read`, `pointer` and `run` raise StoreUnavailable while the first
        connection is made in the background (it takes a second, and five where nobody answers).
        """
        self._wait = wait_for_connection
        self._connection = CassandraConnection(
            endpoints, [_LIST, _POINTER, _RUN], read_timeout_s=read_timeout_s, write_timeout_s=write_timeout_s
        )
        self._buckets: dict[tuple[str, str], int] = {}  # of runs that were read: fixed at their creation

    def ensure_schema(self) -> None:
        """Applies `schema.cql`."""
        text = importlib.resources.files("stores.batch").joinpath("schema.cql").read_text("utf-8")
        lines = (line.partition("--")[0] for line in text.splitlines())
        with _translated():
            session = self._connection.session()
            for statement in "\n".join(lines).split(";"):
                if statement.strip():
                    session.execute(statement)

    def create_run(self, usecase: str, run_id: str, buckets: int, model_version: str) -> bool:
        """A lightweight transaction decides who created it."""
        check_create(run_id, buckets)
        with _translated():
            now = datetime.datetime.now(datetime.UTC)
            if self._decide(_CREATE, usecase, run_id, buckets, model_version, now):
                return True
        check_same(self._run(usecase, run_id, serial=True), usecase, run_id, buckets, model_version)
        return False

    def write_bucket(self, usecase: str, run_id: str, bucket: int, rows: Sequence[UserList]) -> None:
        """One unlogged batch in one partition, which is atomic, then the mark."""
        run = known(self._run(usecase, run_id), usecase, run_id)
        check_write(run, bucket, rows)
        stored = [(row.user_id, *row.encoded(), run.model_version) for row in rows]
        total = signed(checksum(row_hash(*row) for row in stored))
        timestamp_us = run_time_us(run_id)
        with _translated():
            session = self._connection.session()
            if stored:
                batch = BatchStatement(BatchType.UNLOGGED, consistency_level=ConsistencyLevel.LOCAL_QUORUM)
                batch.is_idempotent = True
                write = self._connection.prepared(_WRITE)
                for user, item_ids, scores, version in stored:
                    batch.add(write, (usecase, run_id, bucket, signed(user), item_ids, scores, version, timestamp_us))
                session.execute(batch)
            mark = self._connection.prepared(_MARK)
            session.execute(mark, (usecase, run_id, bucket, len(rows), total, timestamp_us))

    def finished_buckets(self, usecase: str, run_id: str) -> set[int]:
        """One query."""
        return set(self._marks(usecase, run_id))

    def seal_run(self, usecase: str, run_id: str, agreement: float | None = None) -> RunSummary:
        """Reads 16 buckets at a time; the state changes by a lightweight transaction."""
        run = known(self._run(usecase, run_id, serial=True), usecase, run_id)
        if run.state == "dropping":
            raise UnknownRun(f"{usecase} {run_id}: is being dropped")
        marks = self._marks(usecase, run_id)
        summary = verified(run, marks, self._found(usecase, run_id, sorted(marks)))
        kept = run.agreement if agreement is None else agreement
        with _translated():
            total = signed(summary.checksum)
            if not self._decide(_SEAL, summary.users, summary.rows, total, kept, usecase, run_id):
                raise RunConflict(f"{usecase} {run_id}: was dropped while it was read back")
        return summary

    def flip(self, usecase: str, run_id: str) -> Pointer:
        """A lightweight transaction on the pointer that was read just before."""
        run = known(self._run(usecase, run_id, serial=True), usecase, run_id)
        if run.state != "sealed":
            raise UnknownRun(f"{usecase} {run_id}: is {run.state}; only a sealed run can be served")
        current = self._pointer(usecase, serial=True)
        if current is not None and current.run_id == run_id:
            return current
        now_us = time.time_ns() // 1_000_000 * 1_000  # Cassandra keeps milliseconds
        flipped = Pointer(run_id, current.run_id if current else None, now_us)
        at = datetime.datetime.fromtimestamp(now_us / 1e6, datetime.UTC)
        try:
            with _translated():
                if current is None:
                    applied = self._decide(_FIRST_FLIP, usecase, run_id, None, at)
                else:
                    applied = self._decide(_FLIP, run_id, current.run_id, at, usecase, current.run_id)
        except StoreTimeout:  # decided, or not: only the pointer can tell
            applied = False
        after = flipped if applied else self._pointer(usecase, serial=True)
        if after is not None and after.run_id == run_id:
            return after
        if after == current:
            raise StoreTimeout(f"{usecase}: the flip to {run_id} was not decided in time; flip again")
        raise PointerMoved(f"{usecase}: another process flipped to {after.run_id if after else None} meanwhile")

    def pointer(self, usecase: str) -> Pointer | None:
        """One row, within the read timeout."""
        return self._pointer(usecase)

    def read(self, usecase: str, run_id: str, user_id: int) -> UserList | None:
        """One row, within the read timeout; the first read of a run asks for its number of buckets before."""
        buckets = self._buckets.get((usecase, run_id))
        if buckets is None:
            buckets = known(self.run(usecase, run_id), usecase, run_id).buckets
            self._buckets[usecase, run_id] = buckets
        key = (usecase, run_id, bucket_of(user_id, buckets), signed(user_id))
        row = self._read_one(_LIST, key)
        return None if row is None else decoded(user_id, row.item_ids, row.scores)

    def run(self, usecase: str, run_id: str) -> Run | None:
        """One row, within the read timeout."""
        row = self._read_one(_RUN, (usecase, run_id))
        return None if row is None else _to_run(row)

    def runs(self, usecase: str) -> list[Run]:
        """One partition."""
        with _translated():
            session = self._connection.session()
            return [_to_run(row) for row in session.execute(self._connection.prepared(_RUNS), (usecase,))]

    def drop_run(self, usecase: str, run_id: str) -> None:
        """The state first, so that a drop that was stopped half-way is seen and repeated."""
        check_drop(self._pointer(usecase, serial=True), usecase, run_id)
        run = self._run(usecase, run_id, serial=True)
        if run is None:
            return
        with _translated():
            self._decide(_CONDEMN, usecase, run_id)
            keys = [(usecase, run_id, bucket) for bucket in range(run.buckets)]
            self._concurrent(_DROP_BUCKET, keys)
            self._concurrent(_DROP_MARKS, [(usecase, run_id)])
            self._decide(_FORGET, usecase, run_id)

    def close(self) -> None:
        """Close the connections."""
        self._connection.close()

    def _read_one(self, query: str, key: tuple[object, ...]) -> Any:
        with _translated():
            session = self._connection.session(wait=self._wait)
            return session.execute(self._connection.prepared(query), key, execution_profile=READ).one()

    def _run(self, usecase: str, run_id: str, *, serial: bool = False) -> Run | None:
        row = self._control_one(_RUN, (usecase, run_id), serial=serial)
        return None if row is None else _to_run(row)

    def _pointer(self, usecase: str, *, serial: bool = False) -> Pointer | None:
        row = self._control_one(_POINTER, (usecase,), serial=True) if serial else self._read_one(_POINTER, (usecase,))
        return None if row is None else Pointer(row.run_id, row.previous_run_id, _micros(row.flipped_at))

    def _control_one(self, query: str, key: tuple[object, ...], *, serial: bool) -> Any:
        """A serial read finishes a lightweight transaction that is still being decided."""
        with _translated():
            session: Session = self._connection.session()
            bound = self._connection.prepared(query).bind(key)
            if serial:
                bound.consistency_level = ConsistencyLevel.SERIAL
            return session.execute(bound).one()

    def _decide(self, query: str, *values: object) -> bool:
        """Run a lightweight transaction; True if it was applied. Never repeated by the driver."""
        session = self._connection.session()
        statement: PreparedStatement = self._connection.prepared(query)
        return bool(session.execute(statement, values, execution_profile=CONTROL).was_applied)

    def _marks(self, usecase: str, run_id: str) -> dict[int, Mark]:
        with _translated():
            session = self._connection.session()
            rows = session.execute(self._connection.prepared(_MARKS), (usecase, run_id))
            return {row.bucket: Mark(row.users, unsigned(row.checksum)) for row in rows}

    def _found(self, usecase: str, run_id: str, buckets: Sequence[int]) -> dict[int, Mark]:
        found: dict[int, Mark] = {}

        def add(index: int, rows: Any) -> None:
            hashes = [row_hash(unsigned(row.user_id), row.item_ids, row.scores, row.model_version) for row in rows]
            found[buckets[index]] = Mark(len(hashes), checksum(hashes))

        with _translated():
            self._concurrent(_BUCKET, [(usecase, run_id, bucket) for bucket in buckets], add)
        return found

    def _concurrent(
        self,
        query: str,
        keys: Sequence[tuple[object, ...]],
        handle: Callable[[int, Any], None] = lambda _index, _rows: None,
    ) -> None:
        results = execute_concurrent_with_args(
            self._connection.session(),
            self._connection.prepared(query),
            keys,
            concurrency=_CONCURRENCY,
            raise_on_first_error=True,
            results_generator=True,
        )
        for index, result in enumerate(results):
            handle(index, result.result_or_exc)


def _to_run(row: Any) -> Run:
    return Run(
        row.run_id,
        row.state,
        row.buckets,
        row.model_version,
        _micros(row.created_at),
        users=row.users,
        rows=row.rows,
        checksum=unsigned(row.checksum),
        agreement=row.agreement,
    )


def _micros(moment: datetime.datetime) -> int:
    """The driver gives naive times in UTC, to the millisecond."""
    return round(moment.replace(tzinfo=datetime.UTC).timestamp() * 1e3) * 1_000


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """The driver's errors, most specific first."""
    try:
        yield
    except (OperationTimedOut, ReadTimeout, WriteTimeout) as exc:
        raise StoreTimeout(f"cassandra: no answer in time: {exc}") from exc
    except NoHostAvailable as exc:
        raise StoreUnavailable(f"cassandra: no host answers: {exc}") from exc
    except RequestValidationException as exc:
        raise StoreUnavailable(f"cassandra: {exc}; is the schema applied (`millrace up`, `ensure_schema`)?") from exc
    except (DriverException, ConnectionException, ConnectionBusy, NoConnectionsAvailable, ProtocolError) as exc:
        raise StoreUnavailable(f"cassandra: {exc}") from exc
