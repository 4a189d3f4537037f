"""User rows from the online store: its errors become reasons, and a breaker spares a store that is gone."""

from stores.errors import StoreError, StoreTimeout
from stores.online import AsyncOnlineReader

from gateway.breaker import Breaker
from gateway.errors import Unavailable


class OnlineRows:
    """A `RowSource` over one online store."""

    def __init__(self, reader: AsyncOnlineReader, breaker: Breaker) -> None:
        self._reader = reader
        self._breaker = breaker

    async def read(self, user_id: int, budget_s: float) -> bytes | None:
        """The packed row; None if there is none. Raises Unavailable: `time`, `error` or `breaker`."""
        if not self._breaker.allow():
            raise Unavailable("breaker")
        try:
            row = await self._reader.read(user_id, budget_s)
        except StoreTimeout as exc:
            self._breaker.failed(timeout=True)
            raise Unavailable("time", str(exc)) from exc
        except StoreError as exc:
            self._breaker.failed(timeout=False)
            raise Unavailable("error", str(exc)) from exc
        self._breaker.succeeded()
        return row
