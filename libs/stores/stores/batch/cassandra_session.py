"""The driver's session: opened once, in the background for readers, with its statements prepared."""

import contextlib
import threading
import time
from collections.abc import Sequence
from typing import Final

from cassandra import ConsistencyLevel, DriverException, RequestValidationException
from cassandra.cluster import EXEC_PROFILE_DEFAULT, Cluster, ExecutionProfile, NoHostAvailable, Session
from cassandra.policies import ConstantReconnectionPolicy, FallthroughRetryPolicy, RoundRobinPolicy, TokenAwarePolicy
from cassandra.query import PreparedStatement

from stores.errors import StoreUnavailable

READ: Final = "read"
CONTROL: Final = "control"

_CONNECT_TIMEOUT_S: Final = 5.0
_RETRY_S: Final = 1.0  # between attempts to connect, and to reconnect


class CassandraConnection:
    """One cluster and session. Threads may share it."""

    def __init__(self, endpoints: str, ready: Sequence[str], *, read_timeout_s: float, write_timeout_s: float) -> None:
        """`ready` are the statements that readers need: prepared with the connection, before the first read."""
        parts = [endpoint.strip().rpartition(":") for endpoint in endpoints.split(",")]
        self._hosts = [host for host, _, _ in parts]
        self._port = int(parts[0][2])
        self._endpoints = endpoints
        self._ready = ready
        self._read_timeout_s = read_timeout_s
        self._write_timeout_s = write_timeout_s
        self._lock = threading.Lock()
        self._cluster: Cluster | None = None
        self._session: Session | None = None
        self._prepared: dict[str, PreparedStatement] = {}
        self._attempt = threading.Lock()  # held while a background attempt runs
        self._next_try = 0.0
        self._problem = "not connected yet"
        self._closed = False

    def session(self, *, wait: bool = True) -> Session:
        """The session. With `wait=False` a missing one is opened in the background and StoreUnavailable is raised.

        Raises:
            StoreUnavailable: closed, or no host took the connection.
        """
        if self._session is not None:
            return self._session
        if not wait:
            self._connect_in_background()
            raise StoreUnavailable(f"cassandra at {self._endpoints}: {self._problem}")
        with self._lock:
            if self._closed:
                raise StoreUnavailable("the store is closed")
            if self._session is None:
                self._session = self._connect()
            return self._session

    def prepared(self, query: str) -> PreparedStatement:
        """The statement, prepared on its first use. All of ours may be repeated, so the driver may retry them."""
        statement = self._prepared.get(query)
        if statement is None:
            statement = self._prepare(self.session(), query)
        return statement

    def close(self) -> None:
        """Close all connections. An attempt to connect that is under way ends by itself."""
        with self._lock:
            self._closed = True
            self._session = None
            self._prepared.clear()
            if self._cluster is not None:
                self._cluster.shutdown()
                self._cluster = None

    def _prepare(self, session: Session, query: str) -> PreparedStatement:
        statement = session.prepare(query)
        statement.is_idempotent = " IF " not in query  # a lightweight transaction's repeat may see its own effect
        statement.consistency_level = ConsistencyLevel.LOCAL_QUORUM
        self._prepared[query] = statement
        return statement

    def _connect(self) -> Session:
        balancing = TokenAwarePolicy(RoundRobinPolicy())
        default = ExecutionProfile(load_balancing_policy=balancing, request_timeout=self._write_timeout_s)
        # No retries: a reader has less time than one more attempt takes; of a decision only the table knows the end.
        read = ExecutionProfile(balancing, FallthroughRetryPolicy(), request_timeout=self._read_timeout_s)
        control = ExecutionProfile(balancing, FallthroughRetryPolicy(), request_timeout=self._write_timeout_s)
        cluster = Cluster(
            self._hosts,
            port=self._port,
            protocol_version=5,
            connect_timeout=_CONNECT_TIMEOUT_S,
            reconnection_policy=ConstantReconnectionPolicy(_RETRY_S, max_attempts=None),
            execution_profiles={EXEC_PROFILE_DEFAULT: default, READ: read, CONTROL: control},
            monitor_reporting_enabled=False,
        )
        try:
            session = cluster.connect()
            with contextlib.suppress(RequestValidationException):  # no schema yet: prepared when first used
                for query in self._ready:
                    self._prepare(session, query)
        except (DriverException, NoHostAvailable, OSError) as exc:
            cluster.shutdown()
            self._problem = str(exc)
            raise StoreUnavailable(f"cassandra at {self._endpoints}: {exc}") from exc
        self._cluster = cluster
        return session

    def _connect_in_background(self) -> None:
        now = time.monotonic()
        if self._closed or now < self._next_try or not self._attempt.acquire(blocking=False):
            return
        self._next_try = now + _RETRY_S
        threading.Thread(target=self._try_connect, name="cassandra-connect", daemon=True).start()

    def _try_connect(self) -> None:
        try:
            self.session()
        except StoreUnavailable as exc:
            self._problem = str(exc)
        finally:
            self._attempt.release()
