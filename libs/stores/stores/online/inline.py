"""Reading an embedded store from an event loop: a read takes microseconds, less than handing it to a thread."""

from stores.online.interface import OnlineStore


class InlineReader:
    """Reads on the loop's own thread. For stores that answer from memory, never for one behind a network."""

    def __init__(self, store: OnlineStore) -> None:
        self._store = store

    async def read(self, user_id: int, timeout_s: float) -> bytes | None:  # noqa: ARG002  nothing to wait for
        """The user's row; None if there is none."""
        return self._store.read(user_id)

    async def close(self) -> None:
        """Close the store."""
        self._store.close()
