"""The streaming state of users: one event at a time, in log order, the same for live folding and for backfill.

The newest 16 events of a user (by event time, then by place in the log) stand apart, in the block. Totals and tiles
hold every event, and a reader at t subtracts the block's events at or after t: whole numbers, so exactly. Decayed
sums, tables, histories and recencies hold only what has left the block, and a reader adds the block's events before t:
nothing is ever subtracted from a float.
"""

from bisect import bisect_right, insort_right
from collections.abc import Sequence
from operator import itemgetter
from typing import NamedTuple

from definitions.plan import BLOCK, Selector, Side, Table
from definitions.tiles import NEVER, decayed, oldest_kept_tile


class Moment(NamedTuple):
    """What is kept of an event; `value` in units of 1e-6."""

    time_us: int
    item_id: int
    action: int
    value: int
    category: int


_time_of = itemgetter(0)
_TILE_SLACK = 64  # dead tiles that may lie about before they are swept


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

    def add(self, table: Table, moment: Moment) -> None:
        """Count one event. A new category in a full table takes the place of the weakest other one."""
        if not moment.category or not matches(table.selector, moment):
            return
        positive = 1.0 if matches(table.positive, moment) else 0.0
        half_life_us = table.half_life_us
        self.total, self.time_us = decayed_add(self.total, self.time_us, moment.time_us, 1.0, half_life_us)
        old = self.entries.get(moment.category)
        if old is not None:
            weight, time_us = decayed_add(old[0], old[2], moment.time_us, 1.0, half_life_us)
            positive, _ = decayed_add(old[1], old[2], moment.time_us, positive, half_life_us)
            self.entries[moment.category] = weight, positive, time_us
            return
        if len(self.entries) >= table.k:
            del self.entries[self._weakest(half_life_us)]
        self.entries[moment.category] = 1.0, positive, moment.time_us

    def _weakest(self, half_life_us: int) -> int:
        now_us = self.time_us  # no entry is newer
        return min((decayed(w, now_us - at, half_life_us), c) for c, (w, _, at) in self.entries.items())[1]


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

    def history(self, index: int) -> tuple[Sequence[int], Sequence[int], Sequence[int], Sequence[int]]:
        """Times, item ids, values and categories of a history's events outside the block, ascending."""
        moments = self.histories[index]
        return (
            [m.time_us for m in moments],
            [m.item_id for m in moments],
            [m.value for m in moments],
            [m.category for m in moments],
        )

    def table(self, index: int) -> TableState:
        """A table without the block's events."""
        return self.tables[index]

    def tile_sum(self, column: int, first: int, end: int) -> int:
        """Sum of the tiles first <= index < end."""
        tiles = self.tiles[column]
        if len(tiles) < end - first:
            return sum(total for index, total in tiles.items() if first <= index < end)
        return sum(tiles.get(index, 0) for index in range(first, end))


class TileAdds:
    """For each action, what an event adds to totals and tiles; users and items fold alike."""

    def __init__(self, side: Side, actions: int) -> None:
        columns = side.tile_columns
        self._hops = [(tiles.hop_us, tiles.keep_us) for _, tiles in columns]
        self._limits = [tiles.keep_us // tiles.hop_us + _TILE_SLACK for _, tiles in columns]
        self._by_action = [
            [
                (
                    measure,
                    bound,
                    spec.is_sum,
                    [(column, tiles.hop_us) for column, (of, tiles) in enumerate(columns) if of == measure],
                )
                for measure, spec in enumerate(side.measures)
                for matching, bound in spec.selector
                if matching == action
            ]
            for action in range(actions)
        ]

    def add(self, totals: list[int], tiles: list[dict[int, int]], moment: Moment, newest_us: int) -> None:
        """Add one event; `newest_us` is the key's newest time with it."""
        time_us, value = moment.time_us, moment.value
        for measure, bound, is_sum, columns in self._by_action[moment.action]:
            if bound is not None and value < bound:
                continue
            amount = value if is_sum else 1
            totals[measure] += amount
            for column, hop_us in columns:
                cells = tiles[column]
                index = time_us // hop_us
                cells[index] = cells.get(index, 0) + amount
                if len(cells) > self._limits[column]:
                    self._sweep_column(cells, column, newest_us)

    def sweep(self, tiles: list[dict[int, int]], newest_us: int) -> None:
        """Forget the tiles that no read at or near the key's newest time can see; late events into them with it.

        What is swept depends on the newest time alone, so bytes written after a sweep do not depend on when
        earlier sweeps were.
        """
        for column, cells in enumerate(tiles):
            if cells:
                self._sweep_column(cells, column, newest_us)

    def _sweep_column(self, cells: dict[int, int], column: int, newest_us: int) -> None:
        hop_us, keep_us = self._hops[column]
        oldest = oldest_kept_tile(newest_us, keep_us, hop_us)
        if min(cells) < oldest:
            for index in [index for index in cells if index < oldest]:
                del cells[index]


class UserFolder:
    """Folds events into states; compiled once from a side."""

    def __init__(self, side: Side, actions: int) -> None:
        self._side = side
        self._adds = TileAdds(side, actions)

    def fold(self, state: UserState, moment: Moment) -> None:
        """Fold one event in log order."""
        time_us = moment.time_us
        block = state.block
        if not block or time_us > state.newest_us:
            state.newest_us = time_us
        self._adds.add(state.totals, state.tiles, moment, state.newest_us)
        if not block or time_us >= block[-1].time_us:
            block.append(moment)
        else:
            insort_right(block, moment, key=_time_of)
        if len(block) > BLOCK:
            self._retire(state, block.pop(0))

    def sweep(self, state: UserState) -> None:
        """Forget tiles that no read can see any more: before bytes are written."""
        self._adds.sweep(state.tiles, state.newest_us)

    def _retire(self, state: UserState, moment: Moment) -> None:
        """An event leaves the block for the older aggregates."""
        side, time_us = self._side, moment.time_us
        for index, decay in enumerate(side.decays):
            if matches(decay.selector, moment):
                state.decay_values[index], state.decay_times[index] = decayed_add(
                    state.decay_values[index],
                    state.decay_times[index],
                    time_us,
                    float(moment.value) if decay.is_sum else 1.0,
                    decay.half_life_us,
                )
        for index, selector in enumerate(side.recencies):
            if time_us > state.recencies[index] and matches(selector, moment):
                state.recencies[index] = time_us
        for history, kept in zip(side.histories, state.histories, strict=True):
            if matches(history.selector, moment):
                kept.insert(bisect_right(kept, time_us, key=_time_of), moment)
                if len(kept) > history.k:
                    del kept[0]
        for table, weights in zip(side.tables, state.tables, strict=True):
            weights.add(table, moment)
