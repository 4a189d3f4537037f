"""Whatever Cassandra's driver raises is a StoreError: what it is not, a gateway answers as INTERNAL."""

from types import ModuleType

import pytest
from stores.errors import StoreError, StoreTimeout

pytest.importorskip("cassandra")  # it is an extra

import cassandra
import cassandra.cluster
import cassandra.connection
import cassandra.pool
from stores.batch.cassandra import _translated

# Of calls that we do not make.
_NEVER = {cassandra.cluster.UserTypeDoesNotExist, cassandra.cluster.QueryExhausted, cassandra.DependencyException}


def _errors(*modules: ModuleType) -> list[type[Exception]]:
    own = {each for module in modules for each in vars(module).values() if _is_of(module, each)}
    return sorted(own - _NEVER, key=lambda each: each.__name__)


def _is_of(module: ModuleType, thing: object) -> bool:
    return isinstance(thing, type) and issubclass(thing, Exception) and thing.__module__ == module.__name__


@pytest.mark.parametrize("error", _errors(cassandra, cassandra.cluster, cassandra.connection, cassandra.pool))
def test_every_error_of_the_driver_is_one_of_ours(error: type[Exception]) -> None:
    with pytest.raises(StoreError) as caught, _translated():
        raise error.__new__(error)
    assert isinstance(caught.value, StoreTimeout) == issubclass(
        error, cassandra.OperationTimedOut | cassandra.ReadTimeout | cassandra.WriteTimeout
    )


def test_a_connection_that_ends_under_a_read_is_among_them() -> None:
    assert {cassandra.connection.ConnectionShutdown, cassandra.pool.NoConnectionsAvailable} <= set(
        _errors(cassandra.connection, cassandra.pool)
    )
