"""The user's row: one key, read once, or again until it shows what the caller has just published."""

from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from definitions.errors import CorruptRow, LayoutMismatch
from definitions.layout import Layout
from definitions.packed import UserRow, unpack_user_row
from definitions.row_header import read_header

from gateway.errors import Unavailable
from gateway.ladder import Meter

ROW_CAP_S: Final = 0.003  # of a 50 ms deadline; longer deadlines wait in proportion
ROW_SHARE: Final = 0.06
POLL_S: Final = 0.0015
# Each pause is longer than the one before, up to this: with 1.5 ms throughout, 32 callers who waited for a slow writer
# kept the loop so busy that reads missed their deadline, the breaker opened, and stayed open.
POLL_GROWTH: Final = 1.3
POLL_MOST_S: Final = 0.02
POLL_SHARE: Final = 0.5  # of what is left: the rest must still rank

_ANSWERED: Final = ("found", "absent")


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

        With `min_interactions_offset` it waits for a row that has it, for at most half of `left_s` and only while the
        store answers, then takes what it has read last.
        """
        if user_id == 0:
            return None
        packed, outcome = await self._once(user_id, left_s)
        if min_interactions_offset:
            until, pause_s = self._clock() + POLL_SHARE * left_s, POLL_S
            while (
                outcome in _ANSWERED
                and not self._covers(packed, min_interactions_offset)
                and (wait_s := until - self._clock()) > 0
            ):
                await self._sleep(min(pause_s, wait_s))
                pause_s = min(pause_s * POLL_GROWTH, POLL_MOST_S)
                # With the time of any read: one cut short by the end of the wait would count against the store.
                newer, outcome = await self._once(user_id, left_s)
                packed = newer or packed
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
