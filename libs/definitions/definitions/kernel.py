"""What is kept of a user, as readers see it; `user_fold` keeps it for millions, in the same numbers to the bit.

The newest 16 events of a user (by event time, then by place in the log) stand apart, in the block. Totals and tiles
hold every event, and a reader at t subtracts the block's events at or after t: whole numbers, so exactly. Decayed
sums, tables, histories and recencies hold only what has left the block, and a reader adds the block's events before t:
nothing is ever subtracted from a float.
"""

from typing import NamedTuple

from definitions.plan import Selector, Side
from definitions.tiles import NEVER, decayed


class Moment(NamedTuple):
    """What is kept of an event; `value` in units of 1e-6."""

    time_us: int
    item_id: int
    action: int
    value: int
    category: int


def matches(selector: Selector, moment: Moment) -> bool:
    """Does the event count for the selector."""
    for action, bound in selector:
        if action == moment.action:
            return bound is None or moment.value >= bound
    return False


class TableState:
    """One affinity table: decayed weights at their own times, per category and in total."""

    __slots__ = ("entries", "time_us", "total")

    def __init__(self) -> None:
        self.total = 0.0
        self.time_us = NEVER
        self.entries: dict[int, tuple[float, float, int]] = {}  # category -> all, positive, time


def decayed_add(value: float, time_us: int, at_us: int, weight: float, half_life_us: int) -> tuple[float, int]:
    """A decayed sum (value at time_us) and one more event at at_us, which may be late; (value, time) after it."""
    if time_us == NEVER:
        return weight, at_us
    if at_us >= time_us:
        return decayed(value, at_us - time_us, half_life_us) + weight, at_us
    return value + decayed(weight, time_us - at_us, half_life_us), time_us


class UserState:
    """All that is known of one user. `block` and each history ascend in (event time, place in the log)."""

    __slots__ = (
        "block",
        "codes",
        "decay_times",
        "decay_values",
        "erased",
        "histories",
        "interactions_offset",
        "newest_us",
        "numbers",
        "recencies",
        "seen",
        "tables",
        "tiles",
        "totals",
        "users_offset",
    )

    def __init__(self, side: Side) -> None:
        self.newest_us = 0  # of no event: 0
        self.interactions_offset = 0
        self.users_offset = 0
        self.erased = False
        self.numbers = [float("nan")] * len(side.numbers)
        self.codes = [0] * side.code_width
        self.totals = [0] * len(side.measures)
        self.tiles: list[dict[int, int]] = [{} for _ in side.tile_columns]
        self.block: list[Moment] = []
        self.decay_values = [0.0] * len(side.decays)
        self.decay_times = [NEVER] * len(side.decays)
        self.recencies = [NEVER] * len(side.recencies)
        self.histories: list[list[Moment]] = [[] for _ in side.histories]
        self.tables = [TableState() for _ in side.tables]
        self.seen: dict[int, None] = {}  # hashes of items, the latest last
