"""What is stored of each user and item, and how each model column is read from it: the parts of a `Layout`."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from definitions.features import Prior

FORMAT_VERSION = 1
BLOCK = 16  # newest events of a user, kept apart so that a reader can leave out those at or after its t

Selector = tuple[tuple[int, int | None], ...]
"""Which events count: (action code, least value in 1e-6 units or None), by code."""


@dataclass(frozen=True)
class Measure:
    """What one tile or total adds up: matching events, or their values in 1e-6 units."""

    selector: Selector
    is_sum: bool


@dataclass(frozen=True)
class TileClass:
    """All tiles of one length on one side; `keep_us` is the longest window read from them."""

    hop_us: int
    keep_us: int
    measures: tuple[int, ...]


@dataclass(frozen=True)
class Decay:
    """A sum in which each event weighs 2^(-age / half_life)."""

    selector: Selector
    is_sum: bool
    half_life_us: int


@dataclass(frozen=True)
class History:
    """The newest k events that match."""

    selector: Selector
    k: int


@dataclass(frozen=True)
class Table:
    """Decayed weights of the k strongest categories, over all matching events and over the positive ones."""

    selector: Selector
    positive: Selector
    half_life_us: int
    k: int


@dataclass(frozen=True)
class CodeSlots:
    """An attribute's category codes: `width` columns from `start` in the side's codes."""

    start: int
    width: int


@dataclass(frozen=True)
class WindowSum:
    """One measure over one window. `window_us` None: since ever, from the total; else tiles of `tile_column`."""

    measure: int
    window_us: int | None
    tile_column: int
    hop_us: int


@dataclass(frozen=True)
class WindowColumn:
    """count, sum (den None: num / scale), mean or rate, of two `WindowSum`s."""

    position: int
    num: int
    den: int | None
    scale: float
    prior: Prior
    ttl_us: int | None


@dataclass(frozen=True)
class DecayedColumn:
    """The same of two `Decay`s."""

    position: int
    num: int
    den: int | None
    scale: float
    prior: Prior
    ttl_us: int | None


@dataclass(frozen=True)
class RecencyColumn:
    """Seconds since the newest event of a selector, capped."""

    position: int
    recency: int
    cap_us: int
    ttl_us: int | None


@dataclass(frozen=True)
class NumberColumn:
    """A number attribute or its default."""

    position: int
    number: int
    default: float


@dataclass(frozen=True)
class TableColumn:
    """Share (prior None) or rate of the candidate's category in a table."""

    position: int
    table: int
    prior: Prior | None
    ttl_us: int | None


@dataclass(frozen=True)
class SeenColumn:
    """Is the candidate in a history."""

    position: int
    history: int


@dataclass(frozen=True)
class Residual:
    """Mean of value - item mean over parts of a history: of each (n, position) the newest n; of the candidate's
    category, with their count in the column after it, where there are categories. `mean`: which of the item side's
    window columns.
    """

    history: int
    mean: int
    newest: tuple[tuple[int, int], ...]
    of_category: int | None


@dataclass(frozen=True)
class GraphScores:
    """Scores that the graph computes from a history's ids and values and the candidate's id."""

    name: str
    history: int
    scores: tuple[str, ...]


@dataclass(frozen=True)
class HistoryInts:
    """Where a history's k ids begin among the user ints; its k values follow."""

    start: int
    history: int
    k: int


@dataclass(frozen=True)
class CodeInts:
    """Where a side's codes go among its ints."""

    start: int
    codes: CodeSlots


@dataclass(frozen=True)
class ContextInt:
    """Where a code of the request goes among the user ints."""

    start: int
    source: str


@dataclass(frozen=True, eq=False)
class Side:
    """What is stored of each user, or of each item, and the float columns read from it alone.

    Positions are those of `Layout.feature_names`. Tile columns are counted through the classes, in order.
    """

    measures: tuple[Measure, ...]
    classes: tuple[TileClass, ...]
    decays: tuple[Decay, ...]
    recencies: tuple[Selector, ...]
    histories: tuple[History, ...]
    tables: tuple[Table, ...]
    numbers: tuple[str, ...]
    codes: Mapping[str, CodeSlots]
    sums: tuple[WindowSum, ...]
    window_columns: tuple[WindowColumn, ...]
    decayed_columns: tuple[DecayedColumn, ...]
    recency_columns: tuple[RecencyColumn, ...]
    number_columns: tuple[NumberColumn, ...]

    @cached_property
    def tile_columns(self) -> tuple[tuple[int, TileClass], ...]:
        """(measure, class) of each tile column."""
        return tuple((measure, tiles) for tiles in self.classes for measure in tiles.measures)

    @cached_property
    def code_width(self) -> int:
        """Number of code columns."""
        return sum(slots.width for slots in self.codes.values())

    @cached_property
    def positions(self) -> tuple[int, ...]:
        """Places of this side's float columns among the layout's, ascending."""
        columns: tuple[Iterable[WindowColumn | DecayedColumn | RecencyColumn | NumberColumn], ...] = (
            self.window_columns,
            self.decayed_columns,
            self.recency_columns,
            self.number_columns,
        )
        return tuple(sorted(column.position for part in columns for column in part))

    def windows_of(self, tiles: TileClass) -> tuple[int, ...]:
        """The windows that are read from a class, each once."""
        return self._windows[tiles.hop_us]

    def place_in_class(self, spec: WindowSum) -> int:
        """Which of its class's measures a sum over tiles is of."""
        return self._places[spec.tile_column]

    @cached_property
    def _windows(self) -> Mapping[int, tuple[int, ...]]:
        read = {(spec.hop_us, spec.window_us) for spec in self.sums if spec.window_us is not None}
        return {tiles.hop_us: tuple(sorted(w for hop, w in read if hop == tiles.hop_us)) for tiles in self.classes}

    @cached_property
    def _places(self) -> tuple[int, ...]:
        return tuple(place for tiles in self.classes for place in range(len(tiles.measures)))

    @cached_property
    def places(self) -> Mapping[int, int]:
        """Position among the layout's columns -> place among this side's."""
        return {position: place for place, position in enumerate(self.positions)}
