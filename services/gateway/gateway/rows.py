"""The user's row: one key, read once, or again until it shows what the caller has just published."""

from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from definitions.errors import CorruptRow, LayoutMismatch
from definitions.layout import Layout
from definitions.packed import UserRow, read_header, unpack_user_row

from gateway.errors import Unavailable
from gateway.ladder import Meter

ROW_CAP_S: Final = 0.003  # of a 50 ms deadline; longer deadlines wait in proportion
ROW_SHARE: Final = 0.06
POLL_S: Final = 0.0015
POLL_SHARE: Final = 0.5  # of what is left: the rest must still rank


class RowSource(Protocol):
    """Where packed rows are read."""

    async def read(self, user_id: int, budget_s: float) -> bytes | None:
        """The packed row, or None if there is none. Raises Unavailable."""
        ...


class Rows:
    """Reads and unpacks user rows. A row that cannot be had is an empty history, and counted."""

    def __init__(
        self,
        source: RowSource,
        layout: Layout,
        meter: Meter,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        self._source = source
        self._layout = layout
        self._meter = meter
        self._clock = clock
        self._sleep = sleep

    async def read(self, user_id: int, min_interactions_offset: int, left_s: float) -> UserRow | None:
        """The user's row; None if absent, unreadable or late.

        With `min_interactions_offset` it waits for a row that has it, for at most half of `left_s`, then takes what
        is there.
        """
        if user_id == 0:
            return None
        packed, outcome = await self._once(user_id, left_s)
        if min_interactions_offset:
            until = self._clock() + POLL_SHARE * left_s
            while not self._covers(packed, min_interactions_offset) and self._clock() < until:
                await self._sleep(POLL_S)
                packed, outcome = await self._once(user_id, until - self._clock())
        row = None
        if packed is not None:
            try:
                row = unpack_user_row(self._layout, packed)
            except LayoutMismatch:
                outcome = "layout"
            except CorruptRow:
                outcome = "corrupt"
        self._meter.row(outcome)
        return row

    async def _once(self, user_id: int, left_s: float) -> tuple[bytes | None, str]:
        try:
            packed = await self._source.read(user_id, min(left_s, max(ROW_CAP_S, ROW_SHARE * left_s)))
        except Unavailable as unavailable:
            return None, unavailable.reason
        return packed, "absent" if packed is None else "found"

    def _covers(self, packed: bytes | None, offset: int) -> bool:
        try:
            return packed is not None and read_header(packed).interactions_offset >= offset
        except CorruptRow:
            return False
