"""Cassandra over the driver: one short-lived session, and the schema file."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from local_stack.errors import DeclarationError


class CassandraError(Exception):
    """The server did not answer as asked."""


@contextmanager
def session(host: str, port: int) -> Iterator[Any]:
    """A session that is closed at the end; raises CassandraError where the driver gives up."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the driver warns of an asyncore that Python 3.12 removes
        from cassandra import DriverException, OperationTimedOut, RequestExecutionException
        from cassandra.cluster import EXEC_PROFILE_DEFAULT, Cluster, ExecutionProfile, NoHostAvailable
        from cassandra.policies import RoundRobinPolicy

    logging.getLogger("cassandra").setLevel(logging.CRITICAL)
    profile = ExecutionProfile(load_balancing_policy=RoundRobinPolicy(), request_timeout=20.0)
    cluster = Cluster(
        [host], port=port, connect_timeout=5, protocol_version=5, execution_profiles={EXEC_PROFILE_DEFAULT: profile}
    )
    try:
        yield cluster.connect()
    except (DriverException, NoHostAvailable, OperationTimedOut, RequestExecutionException) as exc:
        raise CassandraError(f"{type(exc).__name__}: {exc}") from exc
    finally:
        cluster.shutdown()


def apply_schema(host: str, port: int, schema: Path) -> None:
    """Run each statement of `schema` (`IF NOT EXISTS`, so a repeat changes nothing).

    Raises:
        DeclarationError: the file is missing.
        CassandraError: a statement was refused.
    """
    if not schema.exists():
        raise DeclarationError(f"{schema} is missing")
    with session(host, port) as connected:
        for statement in statements(schema.read_text()):
            connected.execute(statement)


def statements(text: str) -> list[str]:
    """The statements of a CQL script without its comments (`--` or `//` to the end of the line)."""
    lines = [line.split("--")[0].split("//")[0] for line in text.splitlines()]
    return [statement.strip() for statement in "\n".join(lines).split(";") if statement.strip()]
