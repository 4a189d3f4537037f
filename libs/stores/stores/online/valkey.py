"""The distributed online store: Valkey or Redis, one node. The guard runs on the server, beside the data."""

import contextlib
import itertools
import uuid
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, TypeVar, cast

import numpy as np
import numpy.typing as npt
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from stores.errors import StoreTimeout, StoreUnavailable
from stores.online.guard import VERSION_AT, check_rows
from stores.online.interface import Bounds, Bytes, Ids, key_prefix, row_columns, row_key, row_keys
from stores.online.resp import Gets

T = TypeVar("T")

_SCRIPT_ROWS: Final = 256  # a script stops the server's other clients for as long as it runs: keep it under 1 ms
_SCAN_KEYS: Final = 1000

# Lua numbers are doubles, exact to 2**53, so a u64 offset is compared as its two halves, low half first on the wire.
_GUARDED_WRITE: Final = f"""
local won = 0
for i, key in ipairs(KEYS) do
  local new = ARGV[i]
  local old = redis.call('GETRANGE', key, {VERSION_AT}, {VERSION_AT + 19})
  local wins = #old < 20
  if not wins then
    local e, il, ih, ul, uh = struct.unpack('<I4I4I4I4I4', new, {VERSION_AT + 1})
    local E, IL, IH, UL, UH = struct.unpack('<I4I4I4I4I4', old, 1)
    wins = e > E or (e == E and (ih > IH or (ih == IH and il >= IL)) and (uh > UH or (uh == UH and ul >= UL)))
  end
  if wins then
    redis.call('SET', key, new)
    won = won + 1
  end
end
return won
"""


class ValkeyStore:
    """Rows of one use case and revision. Connects on first use."""

    def __init__(self, endpoint: str, usecase: str, revision: int = 1, *, timeout_s: float = 2.0) -> None:
        """`endpoint` is host:port; `timeout_s` bounds the connection and each round trip."""
        self._prefix = key_prefix(usecase, revision)
        self._identity_key = b"identity:" + self._prefix
        # One retry: after a server's restart the first call meets a dead connection. All calls may be repeated.
        self._client = redis.Redis(**_connection(endpoint, timeout_s), retry=Retry(NoBackoff(), 1))
        self._script = ""

    def write_rows(self, ids: Ids, bounds: Bounds, data: Bytes) -> int:
        """Scripts of 256 rows, all sent at once; each row's guard and put are atomic."""
        check_rows(bounds)
        whole, ends = np.ascontiguousarray(data).data, bounds.tolist()
        rows = (whole[begin:end] for begin, end in itertools.pairwise(ends))
        pairs = list(zip(row_keys(self._prefix, ids), rows, strict=True))
        if not pairs:
            return 0
        with _translated():
            if not self._script:
                self._load_script()
            try:
                return self._send(pairs)
            except redis.exceptions.NoScriptError:  # the server was restarted
                self._load_script()
                return self._send(pairs)

    def write(self, rows: Mapping[int, bytes]) -> int:
        """As `write_rows`."""
        return self.write_rows(*row_columns(rows))

    def _load_script(self) -> None:
        self._script = str(self._client.script_load(_GUARDED_WRITE))

    def _send(self, pairs: list[tuple[bytes, memoryview]]) -> int:
        with self._client.pipeline(transaction=False) as pipe:
            for chunk in _batched(pairs, _SCRIPT_ROWS):
                pipe.evalsha(self._script, len(chunk), *(key for key, _ in chunk), *(row for _, row in chunk))
            return sum(pipe.execute())

    def read(self, user_id: int) -> bytes | None:
        """One GET."""
        with _translated():
            return cast("bytes | None", self._client.get(row_key(self._prefix, user_id)))

    def read_many(self, user_ids: Iterable[int]) -> dict[int, bytes]:
        """One MGET."""
        users = list(user_ids)
        if not users:
            return {}
        with _translated():
            rows = cast("list[bytes | None]", self._client.mget([row_key(self._prefix, user) for user in users]))
        return {user: row for user, row in zip(users, rows, strict=True) if row is not None}

    def all_ids(self) -> npt.NDArray[np.uint64]:
        """A scan: rows written meanwhile may be in it or not."""
        with _translated():
            ids = b"".join(key[-8:] for key in self._keys())
        return np.unique(np.frombuffer(ids, ">u8").astype(np.uint64))

    def identity(self) -> str:
        """Created on the first call after the server was emptied."""
        with _translated():
            self._client.set(self._identity_key, uuid.uuid4().hex, nx=True)
            return cast("bytes", self._client.get(self._identity_key) or b"").decode()

    def clear(self) -> None:
        """The identity first: a writer that is stopped half-way sees that rows are missing."""
        with _translated():
            self._client.unlink(self._identity_key)
            for keys in _batched(self._keys(), _SCAN_KEYS):
                self._client.unlink(*keys)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _keys(self) -> Iterator[bytes]:
        pattern = b"".join(b"\\" + bytes([c]) if c in b"*?[]\\^-" else bytes([c]) for c in self._prefix) + b"*"
        return self._client.scan_iter(match=pattern, count=_SCAN_KEYS)


class ValkeyReader:
    """The gateway's read path: one connection on the event loop, opened on first use."""

    def __init__(self, endpoint: str, usecase: str, revision: int = 1, *, max_waiting: int = 1024) -> None:
        """`endpoint` is host:port. More than `max_waiting` reads at once are StoreUnavailable."""
        self._prefix = key_prefix(usecase, revision)
        host, port = _address(endpoint)
        self._gets = Gets(host, port, max_waiting)

    async def read(self, user_id: int, timeout_s: float) -> bytes | None:
        """One GET. Its answer is dropped if it comes too late: a late answer is a wrong answer."""
        return await self._gets.get(row_key(self._prefix, user_id), timeout_s)

    async def close(self) -> None:
        """Close the connection."""
        await self._gets.close()


def _address(endpoint: str) -> tuple[str, int]:
    host, _, port = endpoint.rpartition(":")
    return host, int(port)


def _connection(endpoint: str, timeout_s: float) -> dict[str, Any]:
    host, port = _address(endpoint)
    return {
        "host": host,
        "port": port,
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "protocol": 2,  # saves the handshake of push messages, which we do not use
        "driver_info": None,  # saves CLIENT SETINFO, unknown to Redis 7.0
    }


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """Redis' errors, most specific first."""
    try:
        yield
    except (redis.exceptions.TimeoutError, TimeoutError) as exc:
        raise StoreTimeout(f"valkey: no answer in time: {exc}") from exc
    except (redis.exceptions.ConnectionError, OSError) as exc:
        raise StoreUnavailable(f"valkey: {exc}") from exc
    except redis.exceptions.RedisError as exc:  # loading, read-only, out of memory: the server's own words
        raise StoreUnavailable(f"valkey: {exc}") from exc


def _batched(values: Iterable[T], size: int) -> Iterator[list[T]]:
    rest = iter(values)
    while batch := list(itertools.islice(rest, size)):
        yield batch
